"""The decision with everything that this node knows put in: what the gateway and `serving` ask."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from aigrid.metagraph.graph import Metagraph
from aigrid.node.discovery.grid import NowMs
from aigrid.node.policy.links import Chain
from aigrid.protocol.chain import permission_of
from aigrid.protocol.credential_kinds import EVERYTHING, Action, Permission
from aigrid.protocol.kinds import ModelBody
from aigrid.protocol.policy import Asked, Decision, OperatorPolicy, Policies, covers, decide
from aigrid.protocol.record import Record
from aigrid.protocol.status import Statuses

NO_CAPABILITIES: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Wish:
    """What a holder wants of a model, and what it says of that.

    `manifest` is the content id under which it asks; "" stands for whichever the node has.
    """

    action: Action
    model: str
    manifest: str = ""
    purpose: str = ""
    accepts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """The node that would act: its DID, the region it is in, and its operator's policy."""

    node: str
    region: str = ""
    operator: OperatorPolicy = field(default_factory=OperatorPolicy)


class Decider:
    """`statuses` gives what is known of revocations now."""

    def __init__(
        self,
        graph: Metagraph,
        *,
        own: Place,
        statuses: Callable[[], Statuses],
        now_ms: NowMs,
    ) -> None:
        self.own = own
        self._graph = graph
        self._statuses = statuses
        self._now_ms = now_ms

    def decide(
        self,
        wish: Wish,
        holder: str,
        credentials: Sequence[Record],
        *,
        manifest: Record | None,
        place: Place | None = None,
        narrowed: Mapping[str, Permission] | None = None,
    ) -> Decision:
        """See `policy.decide`.

        Args:
            wish: what is asked.
            holder: DID of whoever asks.
            credentials: what it presents, verified.
            manifest: by which the place has the weights.
            place: who would act; this node, where that is None.
            narrowed: what else has to permit it, by name.
        """
        at = place or self.own
        now_ms = self._now_ms()
        asked = Asked(
            holder=holder,
            node=at.node,
            model=wish.model,
            manifest=wish.manifest,
            capabilities=self._capabilities(manifest),
            region=at.region,
            purpose=wish.purpose,
            accepts=frozenset(wish.accepts),
        )
        policies = Policies(self._graph.grid, manifest, at.operator, narrowed or {})
        return decide(wish.action, asked, credentials, policies, self._statuses(), now_ms)

    def hosts(self, model: str, capabilities: tuple[str, ...]) -> bool:
        """Whether the operator of this node hosts a model that has these capabilities."""
        targets = self.own.operator.hosts
        return EVERYTHING in targets or covers(targets, model, self._broader(capabilities))

    def able(self, chains: Iterable[Chain], wish: Wish, manifest: Record | None) -> Iterator[Chain]:
        """Those of which each link has the action, and the model among its targets."""
        capabilities = self._capabilities(manifest)
        for chain in chains:
            if all(
                wish.action in permission.actions
                and covers(permission.targets, wish.model, capabilities)
                for permission in map(permission_of, chain)
            ):
                yield chain

    def _capabilities(self, manifest: Record | None) -> frozenset[str]:
        """What the model can be asked for, with everything broader."""
        body = None if manifest is None else manifest.body
        return self._broader(body.capabilities) if isinstance(body, ModelBody) else NO_CAPABILITIES

    def _broader(self, capabilities: tuple[str, ...]) -> frozenset[str]:
        now_ms = self._now_ms()
        found = self._graph.index.concepts.satisfied(capabilities)
        return frozenset(name for name, until_ms in found.items() if until_ms > now_ms)
