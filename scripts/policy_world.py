"""People, credentials and a model to decide about: for vectors, benchmarks and tests.

An owner publishes a model and grants its use to Ann, who passes that on to Ben, he to Cem, and he
to the gateway, which asks a node. Everything follows from fixed seeds; there is neither clock nor
randomness.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from aigrid.protocol import presentation as presentations
from aigrid.protocol.credential_kinds import DelegationBody, GrantBody, Permission, Rule
from aigrid.protocol.identity import Identity
from aigrid.protocol.inference import TextRequest
from aigrid.protocol.kinds import Kind, MembershipBody, ModelBody
from aigrid.protocol.model import MODEL_URN, ModelDescription, model_id
from aigrid.protocol.policy import Asked, Policies
from aigrid.protocol.presentation import Binding
from aigrid.protocol.receipt import prefix_hash, request_hash
from aigrid.protocol.record import Record, build
from aigrid.protocol.record_status import StatusEntry
from aigrid.protocol.status import IssuerStatus, Statuses, no_bits, with_bit

NOW_MS = 1_790_000_000_000
DAY_MS = 86_400_000
AUTHORITY, OWNER, ANN, BEN, CEM, GATEWAY, NODE, STRANGER = (
    Identity(bytes([n]) * 32) for n in range(11, 19)
)
EVERYBODY = (AUTHORITY, OWNER, ANN, BEN, CEM, GATEWAY, NODE, STRANGER)
AGE_SECONDS = 600
DESCRIPTION = ModelDescription("echo", "text-generation", ())
MODEL = model_id(DESCRIPTION)
CAPABILITIES = frozenset({"text-generation", "text"})
INVOKE = Permission(("invoke",), ("*",))
NONCE = "AAECAwQFBgcICQoLDA0ODw"
SALT = bytes(range(16))
REQUEST = TextRequest(prompt="Hello", max_tokens=16, temperature=0.0, seed=7)


def entry(issuer: Identity, index: int, age_seconds: int = AGE_SECONDS) -> StatusEntry:
    return StatusEntry(issuer.did, index, age_seconds)


def grant(
    to: Identity = ANN,
    permission: Permission = INVOKE,
    *,
    by: Identity = OWNER,
    delegable: int = 3,
    start_ms: int = NOW_MS,
    life_ms: int = DAY_MS,
    index: int = 1,
) -> Record:
    return build(
        Kind.GRANT,
        GrantBody(to.did, permission, delegable),
        by,
        valid_from_ms=start_ms,
        valid_until_ms=start_ms + life_ms,
        status=entry(by, index),
    )


def delegation(
    parent: Record,
    by: Identity,
    to: Identity,
    permission: Permission = INVOKE,
    *,
    delegable: int = 0,
    start_ms: int = NOW_MS,
    life_ms: int = DAY_MS,
    index: int = 2,
    **more: Any,
) -> Record:
    return build(
        Kind.DELEGATION,
        DelegationBody(to.did, parent.content_id, permission, delegable, **more),
        by,
        valid_from_ms=start_ms,
        valid_until_ms=start_ms + life_ms,
        status=entry(by, index),
    )


def chain(*permissions: Permission, delegable: int = 3) -> list[Record]:
    """A grant to Ann, and delegations to Ben, Cem and the gateway, with these permissions."""
    people = (OWNER, ANN, BEN, CEM, GATEWAY)
    links = [grant(ANN, permissions[0], delegable=delegable)]
    for n, permission in enumerate(permissions[1:], 1):
        left = delegable - n
        links.append(
            delegation(links[-1], people[n], people[n + 1], permission, delegable=left, index=n + 1)
        )
    return links


def holder_of(links: Sequence[Record]) -> str:
    return links[-1].subject


def membership(
    to: Identity = GATEWAY,
    *,
    by: Identity = AUTHORITY,
    start_ms: int = NOW_MS,
    life_ms: int = DAY_MS,
    status: StatusEntry | None = None,
    **body: Any,
) -> Record:
    return build(
        Kind.MEMBERSHIP,
        MembershipBody(**{"id": to.did, "grid": AUTHORITY.did, **body}),
        by,
        valid_from_ms=start_ms,
        valid_until_ms=start_ms + life_ms,
        status=status or entry(AUTHORITY, 1),
    )


def manifest(*rules: Rule, by: Identity = OWNER, **body: Any) -> Record:
    """A manifest of the model with these rules; of none: the empty policy."""
    said = {"name": "parrot", "capabilities": ("text-generation",), "policy": rules, **body}
    return build(
        Kind.MODEL,
        ModelBody(id=MODEL_URN + MODEL, model=DESCRIPTION, **said),
        by,
        valid_from_ms=NOW_MS,
        valid_until_ms=NOW_MS + DAY_MS,
    )


HOLDERS = Rule(("invoke",), (OWNER.did,))
MANIFEST = manifest(HOLDERS)


def statuses(
    *,
    at_ms: int = NOW_MS,
    revoked: Mapping[str, Collection[int]] = {},
    unknown: Collection[str] = (),
) -> Statuses:
    """Everybody's own list is as of `at_ms`, but for those of whom none is known."""
    found = {}
    for who in EVERYBODY:
        bits = no_bits()
        for index in revoked.get(who.did, ()):
            bits = with_bit(bits, index)
        if who.did not in unknown:
            found[who.did] = IssuerStatus(bits=bits, own_ms=at_ms)
    return found


def asked(holder: str = GATEWAY.did, **more: Any) -> Asked:
    return Asked(
        **{
            "holder": holder,
            "node": NODE.did,
            "model": MODEL,
            "capabilities": CAPABILITIES,
            **more,
        }
    )


def policies(found: Record | None = MANIFEST, **more: Any) -> Policies:
    return Policies(AUTHORITY.did, found, **more)


def binding(**more: Any) -> Binding:
    said = {
        "action": "invoke",
        "model": MODEL,
        "manifest": MANIFEST.content_id,
        "request_hash": request_hash(SALT, REQUEST),
        "prefix_hash": prefix_hash(SALT, REQUEST),
        "accepts": ("Apache-2.0",),
        "purpose": "research",
        **more,
    }
    return Binding(**said)


def present(
    credentials: Sequence[Record],
    bound: Binding | None = None,
    *,
    holder: Identity = GATEWAY,
    **more: Any,
) -> bytes:
    """A presentation of the gateway's to the node."""
    said = {"audience": NODE.did, "nonce": NONCE, "now_ms": NOW_MS, **more}
    return presentations.present(holder, credentials, bound or binding(), **said)
