"""What this node shows to another, or to itself, when it asks for something."""

import base64
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from aigrid.metagraph.graph import Metagraph
from aigrid.metagraph.index import Candidate
from aigrid.node.discovery.grid import NowMs, RandomBytes
from aigrid.node.policy.caller import Caller
from aigrid.node.policy.deciding import Decider, Place, Wish
from aigrid.protocol.credential_kinds import ANYONE
from aigrid.protocol.errors import Code
from aigrid.protocol.identity import Identity
from aigrid.protocol.inference import InferRequest
from aigrid.protocol.kinds import NodeBody
from aigrid.protocol.policy import Decision, OperatorPolicy
from aigrid.protocol.presentation import Binding, digest_of, present
from aigrid.protocol.receipt import SALT_BYTES, prefix_hash, request_hash
from aigrid.protocol.record import Record

Chains = Callable[[str], tuple[tuple[Record, ...], ...]]
# Of another node's operator we know nothing: that one is asked.
_ANY_OPERATOR = OperatorPolicy(serves=frozenset({ANYONE}))


@dataclass(frozen=True, slots=True)
class Presented:
    """A presentation, and what a receipt for it has to say.

    `audience` is a DID, `made_ms` the wall time here when it was signed; `issuers` decide whether
    the credentials are revoked.
    """

    raw: bytes
    salt: bytes
    audience: str
    binding: Binding
    digest: str
    credentials: tuple[str, ...]
    issuers: frozenset[str]
    made_ms: int


class Presenter:
    """Chooses the least that is enough, and signs it.

    `chains(behalf_of)` are the chains that end at this node: see `Wallet.chains`.
    """

    def __init__(
        self,
        identity: Identity,
        graph: Metagraph,
        decider: Decider,
        *,
        chains: Chains,
        accepts: Collection[str],
        now_ms: NowMs,
        random_bytes: RandomBytes,
    ) -> None:
        self._identity = identity
        self._graph = graph
        self._decider = decider
        self._chains = chains
        self._accepts = frozenset(accepts)
        self._now_ms = now_ms
        self._random_bytes = random_bytes

    def salt(self) -> bytes:
        """For the hashes of all segments of one answer."""
        return self._random_bytes(SALT_BYTES)

    def present(
        self, candidate: Candidate, request: InferRequest, caller: Caller, salt: bytes
    ) -> Presented:
        """A presentation for one attempt at one candidate.

        Raises:
            PolicyDeniedError: whatever this node could show would not be enough.
        """
        accepts = tuple(sorted(self._accepts.union(caller.accepts)))
        wish = Wish("invoke", candidate.model, candidate.manifest, caller.purpose, accepts)
        credentials, decision = self._enough(candidate, wish, caller)
        if decision.code is not Code.STATUS_STALE:  # what is too old here may not be there
            decision.check()
        binding = Binding(
            action="invoke",
            model=candidate.model,
            manifest=candidate.manifest,
            request_hash=request_hash(salt, request),
            prefix_hash=prefix_hash(salt, request),
            accepts=accepts,
            purpose=caller.purpose,
        )
        now_ms, audience = self._now_ms(), candidate.signer
        raw = present(
            self._identity,
            credentials,
            binding,
            audience=audience,
            nonce=base64.urlsafe_b64encode(self._random_bytes(18)).decode("ascii"),
            now_ms=now_ms,
        )
        return Presented(
            raw,
            salt,
            audience,
            binding,
            digest_of(raw),
            tuple(one.content_id for one in credentials),
            frozenset(one.status.issuer for one in credentials if one.status is not None),
            now_ms,
        )

    def evidence(self, presented: Presented) -> tuple[bytes, ...]:
        """The newest status lists for what was presented, and what entitles their signers.

        For a node that has none that are recent enough: it may be cut off from who signs them.
        """
        revocations, now_ms = self._graph.revocations, self._now_ms()
        found: list[bytes] = []
        for owner in sorted(presented.issuers):
            delegation = revocations.delegation(owner, now_ms)
            lists = (
                revocations.list_of(owner, signer, now_ms)
                for signer in (owner, *revocations.delegates(owner, now_ms))
            )
            found += [one.raw for one in (delegation, *lists) if one is not None]
        return tuple(found)

    def foresee(self, candidate: Candidate, wish: Wish, caller: Caller) -> Decision:
        """What this node expects that a candidate will decide."""
        return self._enough(candidate, wish, caller)[1]

    def _enough(
        self, candidate: Candidate, wish: Wish, caller: Caller
    ) -> tuple[tuple[Record, ...], Decision]:
        """The first choice that is enough; else the one that came nearest, which is the last."""
        manifest = self._graph.index.manifest(candidate.manifest, self._now_ms())
        place = self._place(candidate)
        chosen: tuple[Record, ...] = ()
        decision: Decision | None = None
        for credentials in self._choices(caller):
            found = self._decider.decide(
                wish, self._identity.did, credentials, manifest=manifest, place=place
            )
            if found.allowed or decision is None or len(credentials) > len(chosen):
                chosen, decision = credentials, found
            if found.allowed:
                break
        if decision is None:
            raise AssertionError("there is always the choice to show nothing")
        return chosen, decision

    def _choices(self, caller: Caller) -> Iterator[tuple[Record, ...]]:
        """Fewest credentials first. An actor with a key acts under what leads through that key."""
        yield ()
        membership = self._graph.membership_of(self._identity.did, self._now_ms())
        member = () if membership is None else (membership,)
        if member:
            yield member
        for chain in self._chains(caller.did):
            yield member + chain

    def _place(self, candidate: Candidate) -> Place:
        if candidate.signer == self._identity.did:
            return self._decider.own
        node = self._graph.index.node(candidate.signer, self._now_ms())
        body = None if node is None else node.body
        region = body.region if isinstance(body, NodeBody) else ""
        return Place(candidate.signer, region, _ANY_OPERATOR)
