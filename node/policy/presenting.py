"""What this node shows to another, or to itself, when it asks for something."""

import base64
import hashlib
from collections.abc import Collection
from dataclasses import dataclass

from aigrid.metagraph.graph import Metagraph
from aigrid.metagraph.index import Candidate
from aigrid.node.discovery.grid import NowMs, RandomBytes
from aigrid.node.policy.caller import Caller
from aigrid.node.policy.deciding import Wish
from aigrid.node.policy.explaining import Foresight, Holder
from aigrid.protocol.chunks import Part, part_hash
from aigrid.protocol.credential_kinds import accepts_license
from aigrid.protocol.errors import Code
from aigrid.protocol.identity import Identity
from aigrid.protocol.inference import InferRequest
from aigrid.protocol.kinds import Kind, ModelBody
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.model import MODEL_URN
from aigrid.protocol.presentation import Binding, digest_of, present
from aigrid.protocol.receipt import SALT_BYTES, prefix_hash, request_hash
from aigrid.protocol.record import Record


@dataclass(frozen=True, slots=True)
class Presented:
    """A presentation, and what a receipt for it has to say.

    `audience` is a DID, `made_ms` the wall time here when it was signed; `issuers` decide whether
    the credentials are revoked. `has_chain`: a grant is among them.
    """

    raw: bytes
    salt: bytes
    audience: str
    binding: Binding
    digest: str
    credentials: tuple[str, ...]
    issuers: frozenset[str]
    made_ms: int
    has_chain: bool = False


class Presenter:
    """Chooses the least that is enough, and signs it."""

    def __init__(
        self,
        identity: Identity,
        graph: Metagraph,
        foresight: Foresight,
        *,
        accepts: Collection[str],
        now_ms: NowMs,
        random_bytes: RandomBytes,
    ) -> None:
        self._identity = identity
        self._graph = graph
        self._foresight = foresight
        self._accepts = frozenset(accepts)
        self._now_ms = now_ms
        self._random_bytes = random_bytes

    def salt(self) -> bytes:
        """For the hashes of all segments of one answer."""
        return self._random_bytes(SALT_BYTES)

    def has_chains(self, caller: Caller) -> bool:
        """Whether there is more to show than a membership."""
        return bool(self._holder(caller).chains)

    def present(
        self,
        candidate: Candidate,
        request: InferRequest,
        caller: Caller,
        salt: bytes,
        *,
        refusal: str | None = None,
    ) -> Presented:
        """A presentation for one attempt at one candidate; `refusal`: see `Foresight.enough`.

        Raises:
            PolicyDeniedError: whatever this node could show would not be enough.
        """
        manifest = self._graph.index.manifest(candidate.manifest, self._now_ms())
        wish = Wish(
            "invoke",
            candidate.model,
            candidate.manifest,
            caller.purpose,
            self._accepted(manifest, caller.accepts),
        )
        hashes = request_hash(salt, request), prefix_hash(salt, request)
        return self._present(
            wish,
            self._holder(caller),
            manifest,
            audience=candidate.signer,
            salt=salt,
            hashes=hashes,
            refusal=refusal,
        )

    def present_fetch(
        self, manifest: Record, part: Part, audience: str, *, refusal: str | None = None
    ) -> Presented:
        """A presentation for a part of the weights that `audience` (a DID) has by `manifest`.

        Raises:
            PolicyDeniedError: whatever this node could show would not be enough.
        """
        accepts, salt = self._accepted(manifest, ()), self.salt()
        model = manifest.subject.removeprefix(MODEL_URN)
        return self._present(
            Wish("fetch", model, manifest.content_id, "", accepts),
            self._foresight.holder(self._identity.did),
            manifest,
            audience=audience,
            salt=salt,
            hashes=(part_hash(salt, part), hashlib.sha256(salt).hexdigest()),
            refusal=refusal,
        )

    def _present(
        self,
        wish: Wish,
        holder: Holder,
        manifest: Record | None,
        *,
        audience: str,
        salt: bytes,
        hashes: tuple[str, str],
        refusal: str | None,
    ) -> Presented:
        credentials, decision = self._foresight.enough(
            wish,
            holder,
            manifest=manifest,
            place=self._foresight.place(audience),
            refusal=refusal,
        )
        if decision.code is not Code.STATUS_STALE:  # what is too old here may not be there
            decision.check()
        binding = Binding(
            wish.action,
            wish.model,
            wish.manifest,
            *hashes,
            accepts=wish.accepts,
            purpose=wish.purpose,
        )
        now_ms = self._now_ms()
        raw = present(
            self._identity,
            credentials,
            binding,
            audience=audience,
            nonce=base64.urlsafe_b64encode(self._random_bytes(18)).decode("ascii"),
            now_ms=now_ms,
            valid_ms=1000 * LIMITS.presentation_default_seconds,
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
            any(one.kind is Kind.GRANT for one in credentials),
        )

    def _holder(self, caller: Caller) -> Holder:
        return self._foresight.holder(self._identity.did, caller.did)

    def _accepted(self, manifest: Record | None, accepts: Collection[str]) -> tuple[str, ...]:
        """The model's licence, if this node or its caller accepts it: others are no concern."""
        body = None if manifest is None else manifest.body
        license_id = body.license if isinstance(body, ModelBody) else ""
        accepted = accepts_license((*self._accepts, *accepts), license_id)
        return (license_id,) if license_id and accepted else ()

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
