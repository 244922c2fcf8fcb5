"""What would be decided, asked beforehand: for `aigrid policy explain`, and before publishing."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from aigrid.metagraph.graph import Metagraph
from aigrid.node.policy.deciding import Decider, Place, Wish
from aigrid.node.policy.links import Chain
from aigrid.node.policy.wallet import Wallet
from aigrid.protocol.credential_kinds import ANYONE
from aigrid.protocol.errors import Code, PolicyDeniedError
from aigrid.protocol.identity import Identity
from aigrid.protocol.kinds import ModelBody, NodeBody
from aigrid.protocol.model import MODEL_URN
from aigrid.protocol.policy import Decision, OperatorPolicy, rules_of
from aigrid.protocol.record import Record

# Of another node's operator nothing is known; it is the last to have a say, and says so itself.
UNKNOWN_OPERATOR = OperatorPolicy(serves=frozenset({ANYONE}))


@dataclass(frozen=True, slots=True)
class Holder:
    """Who would ask, with one of which chains; a membership that is known here comes with it."""

    did: str
    chains: Sequence[Chain] = ()


class Foresight:
    """Asks the one decision with what holders have, as far as this node knows."""

    def __init__(
        self,
        identity: Identity,
        graph: Metagraph,
        decider: Decider,
        wallet: Wallet,
        *,
        trusted_publishers: Collection[str],
        now_ms: Callable[[], int],
    ) -> None:
        self._identity = identity
        self._graph = graph
        self._decider = decider
        self._wallet = wallet
        self._trusted = trusted_publishers
        self._now_ms = now_ms

    def holder(self, did: str) -> Holder:
        """Somebody with all that is known here: of another, what this node has issued to it."""
        own = did == self._identity.did
        return Holder(did, self._wallet.chains() if own else self._wallet.issued_to(did))

    def place(self, did: str) -> Place:
        """A node that would act."""
        if did == self._identity.did:
            return self._decider.own
        node = self._graph.index.node(did, self._now_ms())
        body = None if node is None else node.body
        region = body.region if isinstance(body, NodeBody) else ""
        return Place(did, region, UNKNOWN_OPERATOR)

    def decide(
        self, wish: Wish, holder: Holder, *, manifest: Record | None, place: Place
    ) -> Decision:
        """See `enough`."""
        return self.enough(wish, holder, manifest=manifest, place=place)[1]

    def enough(
        self,
        wish: Wish,
        holder: Holder,
        *,
        manifest: Record | None,
        place: Place,
        with_chain: bool = False,
    ) -> tuple[tuple[Record, ...], Decision]:
        """The least that is enough, and the decision; where nothing is, what says most.

        What cannot be shown here not to be revoked says most: the place may have heard more. There
        is some chain among it if `with_chain`: the place may serve for its sake, though the model's
        owner asks for none.
        """
        decide = partial(self._decider.decide, wish, holder.did, manifest=manifest, place=place)
        decided = (
            (one, decide(one))
            for one in self._choices(holder, manifest, place, with_chain=with_chain)
        )
        told = next(decided)
        while not told[1].allowed and (found := next(decided, None)) is not None:
            says_more = bool(found[0]) and told[1].code is not Code.STATUS_STALE
            if found[1].allowed or says_more:
                told = found
        return told

    def hosts(self, manifest: Record) -> bool:
        """Whether the operator of this node hosts the model of a manifest."""
        body = manifest.body
        if not isinstance(body, ModelBody):
            return False
        return self._decider.hosts(body.id.removeprefix(MODEL_URN), body.capabilities)

    def check_publish(self, model: str, capabilities: tuple[str, ...]) -> None:
        """Whether this node may publish a model: its operator and publishers it trusts permit it.

        Of others anybody could forbid anything. What it has published already it may publish again.

        Raises:
            PolicyDeniedError: somebody does not permit it.
        """
        if not self._decider.hosts(model, capabilities):
            text = "this node's operator does not host this model: see `host` in its configuration"
            raise PolicyDeniedError(text, Code.NOT_SERVED)
        manifests = self._graph.manifests_of(model, self._now_ms())
        own = self._identity.did
        if any(manifest.issuer == own for manifest in manifests):
            return
        for manifest in manifests:
            if manifest.issuer not in self._trusted:
                continue
            wish = Wish("publish", model)
            place = self._decider.own
            self.decide(wish, self.holder(own), manifest=manifest, place=place).check()

    def _choices(
        self, holder: Holder, manifest: Record | None, place: Place, *, with_chain: bool
    ) -> Iterator[tuple[Record, ...]]:
        """Fewest credentials first; of chains those alone from somebody whose grants count here.

        To another node, whose operator most likely serves members, a membership goes in any case:
        the grid knows it anyway.
        """
        membership = self._graph.membership_of(holder.did, self._now_ms())
        member = () if membership is None else (membership,)
        if with_chain and holder.chains:
            yield from (member + chain for chain in holder.chains)
            return
        yield from ((member, ()) if place.operator is UNKNOWN_OPERATOR else ((), member))
        rules = () if manifest is None else rules_of(manifest)
        count = place.operator.serves.union(*(rule.assignees for rule in rules))
        for chain in holder.chains:
            if chain[0].issuer in count:
                yield member + chain
