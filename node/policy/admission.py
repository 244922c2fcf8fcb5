"""The door of whoever serves: a presentation has to hold, to fit, to be new, and to be enough."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from aigrid.metagraph.memo import Memo
from aigrid.node.discovery.grid import NowMs
from aigrid.node.policy.budgets import Budgets, Charge
from aigrid.node.policy.charging import most
from aigrid.node.policy.deciding import Decider, Wish
from aigrid.node.policy.nonces import Nonces
from aigrid.protocol import presentation
from aigrid.protocol.chunks import part_hash
from aigrid.protocol.errors import Code, PolicyDeniedError
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.messages import Infer, Weights
from aigrid.protocol.policy import Decision, Obligation, holder_key
from aigrid.protocol.presentation import Binding, Presentation
from aigrid.protocol.receipt import prefix_hash, request_hash
from aigrid.protocol.record import Record, verify_form_and_signature


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request that this node has decided to serve, under `manifest`."""

    presentation: Presentation
    decision: Decision
    manifest: str
    began_ms: int
    charge: Charge


class Admission:
    """`manifest_of(model)` is the manifest by which this node has a model's weights."""

    def __init__(
        self,
        decider: Decider,
        *,
        manifest_of: Callable[[str], Record | None],
        nonces: Nonces,
        budgets: Budgets,
        now_ms: NowMs,
    ) -> None:
        self._decider = decider
        self._manifest_of = manifest_of
        self._nonces = nonces
        self._budgets = budgets
        self._now_ms = now_ms
        self._verified: Memo[Record] = Memo(LIMITS.credentials_verified_max)

    @contextmanager
    def admit(self, message: Infer | Weights, peer: str) -> Iterator[Admitted]:
        """Decide whether to serve what `peer` (a DID) asks; count it while the context lasts.

        Limits of requests and tokens are for what is inferred: uploads have bounds of their own.

        Raises:
            PolicyDeniedError, VerificationError: why not.
            LocalError: `rate_limited`, when too many presentations would have to be remembered.
        """
        now_ms = self._now_ms()
        if not message.presentation:
            raise PolicyDeniedError("nothing is presented with the request", Code.UNPRESENTED)
        verified: dict[bytes, Record] = {}
        own = self._decider.own.node
        shown = presentation.verify(
            message.presentation,
            verify_credential=partial(self._verify, verified),
            made_by=own if peer == own else None,
        )
        asked = _binding(message)
        presentation.check(shown, asked, node=own, peer=peer, now_ms=now_ms)
        manifest = self._manifest_of(message.model)
        decision = self._decider.decide(
            Wish(
                asked.action,
                message.model,
                message.manifest,
                shown.binding.purpose,
                shown.binding.accepts,
            ),
            shown.holder,
            shown.credentials,
            manifest=manifest,
        )
        decision.check()
        # Last, for it is written to the disk: of those alone who may be served. And in the peer's
        # name, which has to be the same for a replay: holders are as many as anybody likes. What
        # this node shows to itself has not been on any wire, so nobody else can repeat it.
        is_own = peer == shown.holder == own
        if not (
            is_own or self._nonces.use(peer, shown.nonce, until_ms=shown.expires_ms, now_ms=now_ms)
        ):
            raise PolicyDeniedError("this presentation was here before", Code.REPLAYED)
        for digest, record in verified.items():
            self._verified.put(digest, record)
        obligations: tuple[Obligation, ...] = ()
        tokens = 0
        if isinstance(message, Infer):
            obligations = _obligations(decision, shown.holder, peer)
            tokens = most(message.request)
        with self._budgets.charge(obligations, most=tokens) as charge:
            yield Admitted(
                shown,
                decision,
                "" if manifest is None else manifest.content_id,
                now_ms,
                charge,
            )

    def _verify(self, verified: dict[bytes, Record], raw: bytes) -> Record:
        """Once for all requests that are served: anybody can sign any number of credentials."""
        digest = hashlib.sha256(raw).digest()
        record = self._verified.get(digest)
        if record is None:
            record = verified[digest] = verify_form_and_signature(raw)
        return record


def _binding(message: Infer | Weights) -> Binding:
    """What a presentation has to be for, to go with a message."""
    salt = message.salt
    if isinstance(message, Infer):
        hashes = request_hash(salt, message.request), prefix_hash(salt, message.request)
        return Binding("invoke", message.model, message.manifest, *hashes)
    hashes = part_hash(salt, message.part), hashlib.sha256(salt).hexdigest()
    return Binding("fetch", message.model, message.manifest, *hashes)


def _obligations(decision: Decision, holder: str, peer: str) -> tuple[Obligation, ...]:
    """Those of the decision, and the operator's for the holder again for a peer that passes it on.

    Keys are free: each new one would begin at none.
    """
    passed_on = (one for one in decision.obligations if one.key == holder_key(holder))
    more = (replace(one, key=holder_key(peer)) for one in passed_on if peer != holder)
    return (*decision.obligations, *more)
