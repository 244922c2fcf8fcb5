"""What would be decided, asked beforehand: for `aigrid policy explain`, and before publishing."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from aigrid.metagraph.graph import Metagraph
from aigrid.node.policy.deciding import Decider, Place, Wish
from aigrid.node.policy.links import Chain, on_behalf_of
from aigrid.node.policy.wallet import Wallet
from aigrid.protocol.credential_kinds import ANYONE
from aigrid.protocol.errors import AigridError, Code, PolicyDeniedError
from aigrid.protocol.identity import Identity
from aigrid.protocol.kinds import ModelBody, NodeBody
from aigrid.protocol.model import MODEL_URN
from aigrid.protocol.policy import Decision, OperatorPolicy, Reason, rules_of
from aigrid.protocol.record import Record

# Of another node's operator nothing is known; it is the last to have a say, and says so itself.
UNKNOWN_OPERATOR = OperatorPolicy(serves=frozenset({ANYONE}))
# How far a refusal is from permission: first those without anything that counts here, then those
# of what does not hold (codes that are not named here), and then what a credential does not cover.
_FAR = (Code.NOT_SERVED, Code.NOT_MEMBER, Code.NO_GRANT)
_NEAR = (
    Code.EXPIRED,
    Code.REVOKED,
    Code.ACTION_NOT_ALLOWED,
    Code.TARGET_NOT_COVERED,
    Code.AUDIENCE_NOT_ALLOWED,
    Code.REGION_NOT_ALLOWED,
    Code.PURPOSE_NOT_ALLOWED,
    Code.LICENSE_NOT_ACCEPTED,
    Code.WRONG_MANIFEST,
    Code.STATUS_STALE,  # perhaps none at all: the place may have heard more
    Code.OVER_BUDGET,  # permitted, later
)
_UNBOUND = Decision(
    None,
    (Reason("nobody whom this node trusts as a publisher (`trusted_publishers`) says who may"),),
)
_NEARNESS = {
    **{code: number - len(_FAR) for number, code in enumerate(_FAR)},
    **{code: number for number, code in enumerate(_NEAR, 1)},
}


@dataclass(frozen=True, slots=True)
class Holder:
    """Who would ask, with one of which chains; a membership that is known here comes with it.

    `ended` are chains that have expired: for a refusal to name. Where a chain is `shown`, there is
    no other, and it is tried first, whatever it covers.
    """

    did: str
    chains: Sequence[Chain] = ()
    ended: Sequence[Chain] = ()
    shown: bool = False


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
        accepts: Collection[str] = (),
        now_ms: Callable[[], int],
    ) -> None:
        """`accepts`: licences that this node accepts where it acts for itself."""
        self._identity = identity
        self._graph = graph
        self._decider = decider
        self._wallet = wallet
        self._trusted = trusted_publishers
        self._accepts = tuple(accepts)
        self._now_ms = now_ms

    def holder(self, did: str, behalf_of: str = "") -> Holder:
        """Somebody with all that is known here: of another, what this node has issued to it.

        `behalf_of`: a DID whose request it would pass on, with what that has lent it.
        """
        if did == self._identity.did:
            wallet = self._wallet
            return Holder(did, wallet.chains(behalf_of), wallet.chains(behalf_of, ended=True))
        issued = self._wallet.issued_to(did)
        return Holder(did, [links for links in issued if on_behalf_of(links[-1]) == behalf_of])

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
        refusal: str | None = None,
    ) -> tuple[tuple[Record, ...], Decision]:
        """The least that is enough, and the decision; where nothing is, what was nearest to it.

        If the place has refused a membership alone, there is a chain as well: its operator may
        serve for the sake of one, though the model's owner asks for none. The message of its
        `refusal` names whose grants count; chains from others come last, for anybody may send some.
        """
        decide = partial(self._decider.decide, wish, holder.did, manifest=manifest, place=place)
        nearest: tuple[tuple[Record, ...], Decision] | None = None
        for choice in self._choices(wish, holder, manifest, place, refusal=refusal):
            decision = decide(choice)
            if decision.allowed:
                return choice, decision
            if nearest is None or nearness(decision.code) > nearness(nearest[1].code):
                nearest = choice, decision
        return nearest or ((), decide(()))

    def hosts(self, manifest: Record) -> bool:
        """Whether the operator of this node hosts the model of a manifest."""
        body = manifest.body
        if not isinstance(body, ModelBody):
            return False
        return self._decider.hosts(body.id.removeprefix(MODEL_URN), body.capabilities)

    def may_host(self, manifest: Record) -> AigridError | None:
        """Why this node may not host a model under a manifest, with all it holds; None: it may."""
        if not isinstance(manifest.body, ModelBody):
            return PolicyDeniedError("not a manifest of a model", Code.WRONG_MANIFEST)
        model = manifest.body.id.removeprefix(MODEL_URN)
        wish = Wish("host", model, manifest.content_id, "", self._accepts)
        holder, place = self.holder(self._identity.did), self._decider.own
        try:
            self.decide(wish, holder, manifest=manifest, place=place).check()
        except PolicyDeniedError as error:
            return error
        return None

    def check_publish(
        self, model: str, capabilities: tuple[str, ...], obtained: Record | None = None
    ) -> None:
        """Whether this node may publish a model: see `may_publish`.

        Of a model that it has fetched, the one by whose manifest it did has a say as well.

        Raises:
            PolicyDeniedError: somebody does not permit it.
        """
        holder, wish = self.holder(self._identity.did), Wish("publish", model)
        self.may_publish(wish, holder, capabilities)[1].check()
        if obtained is not None and obtained.issuer != self._identity.did:
            place = self._decider.own
            self.decide(wish, holder, manifest=obtained, place=place).check()

    def may_publish(
        self, wish: Wish, holder: Holder, capabilities: tuple[str, ...]
    ) -> tuple[Record | None, Decision]:
        """What its operator and publishers whom it trusts say of this node's publishing a model.

        Of others anybody could forbid anything. What it has published already it may publish again.
        With it comes the manifest by which it is decided, if there is one.
        """
        if not self._decider.hosts(wish.model, capabilities):
            text = "this node's operator does not host this model: see `host` in its configuration"
            return None, Decision(Code.NOT_SERVED, (Reason(text, Code.NOT_SERVED),))
        manifests = self._graph.manifests_of(wish.model, self._now_ms())
        own = self._identity.did
        for manifest in manifests:
            if manifest.issuer == own:
                text = "this node has published it already"
                return manifest, Decision(None, (Reason(text, None, manifest.content_id),))
        told: tuple[Record | None, Decision] = (None, _UNBOUND)
        for manifest in manifests:
            if manifest.issuer in self._trusted:
                place = self._decider.own
                told = manifest, self.decide(wish, holder, manifest=manifest, place=place)
                if not told[1].allowed:
                    break
        return told

    def _choices(
        self,
        wish: Wish,
        holder: Holder,
        manifest: Record | None,
        place: Place,
        *,
        refusal: str | None,
    ) -> Iterator[tuple[Record, ...]]:
        """Fewest credentials first; of chains those alone that can cover the wish.

        And, before a place has named whose grants count there, those from somebody whose do. To
        another node, whose operator most likely serves members, a membership goes in any case: the
        grid knows it anyway.
        """
        membership = self._graph.membership_of(holder.did, self._now_ms())
        member = () if membership is None else (membership,)
        if holder.shown:
            yield from (member + chain for chain in holder.chains)
        if refusal is not None:
            able = self._decider.able(holder.chains, wish, manifest)
            if chains := sorted(able, key=lambda chain: chain[0].issuer not in refusal):
                yield from (member + chain for chain in chains)
                return
        yield from ((member, ()) if place.operator is UNKNOWN_OPERATOR else ((), member))
        rules = () if manifest is None else rules_of(manifest)
        count = place.operator.serves.union(*(rule.assignees for rule in rules))
        chains = [c for c in (*holder.chains, *holder.ended) if c[0].issuer in count]
        yield from (member + chain for chain in self._decider.able(chains, wish, manifest))


def nearness(code: Code | None) -> int:
    """How near a refusal is to permission: of several, the one to tell is the greatest."""
    return 0 if code is None else _NEARNESS.get(code, 0)
