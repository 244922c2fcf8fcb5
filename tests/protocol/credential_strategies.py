"""Hypothesis strategies, and one ordinary body, for credentials, status lists and receipts."""

import hashlib

from hypothesis import strategies as st

from aigrid.protocol import credential_kinds as ck
from aigrid.protocol.canonical import content_id, file_cid
from aigrid.protocol.identity import Identity
from aigrid.protocol.kinds import KINDS, Body, Kind, MembershipBody
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.model import MODEL_URN
from aigrid.protocol.receipt import ReceiptBody
from aigrid.protocol.record_status import StatusEntry
from aigrid.protocol.status import encode_bits, no_bits, with_bit
from aigrid.protocol.timestamp import format_ms

WHO = tuple(Identity(bytes([n]) * 32) for n in (1, 2, 3))
DIDS = sorted(who.did for who in WHO)
CID = content_id(b"a grant")
dids = st.sampled_from(DIDS)
names = st.from_regex(r"[a-z0-9]{1,6}(-[a-z0-9]{1,6}){0,2}", fullmatch=True)
content_ids = st.binary(max_size=4).map(content_id) | st.binary(max_size=4).map(
    lambda data: file_cid(hashlib.sha256(data).digest())
)
hashes = st.binary(min_size=32, max_size=32).map(bytes.hex)
regions = st.text(
    st.characters(
        exclude_categories=("Cs", "Cc"),
        exclude_characters="\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069",
    ),
    min_size=1,
    max_size=20,
)
amounts = st.integers(0, 2**53 - 1)
indexes = st.integers(0, LIMITS.status_entries - 1)
ages = st.integers(1, LIMITS.status_age_max_seconds)
targets = (
    st.just(ck.EVERYTHING)
    | content_ids.map(MODEL_URN.__add__)
    | names
    | st.builds("{}#{}".format, dids, names)
)


def ascending(items: st.SearchStrategy[str], *, least: int = 0) -> st.SearchStrategy[tuple]:
    return st.lists(items, min_size=least, max_size=4, unique=True).map(
        lambda found: tuple(sorted(found))
    )


actions = ascending(st.sampled_from(ck.ACTIONS), least=1)
permissions = st.builds(
    ck.Permission,
    actions=actions,
    targets=ascending(targets, least=1),
    purposes=ascending(names),
    regions=ascending(regions),
    audience=ascending(dids),
    requests_per_day=amounts,
    tokens_per_day=amounts,
    concurrency=amounts,
)
rules = st.lists(
    st.builds(
        ck.Rule,
        actions=actions,
        assignees=ascending(dids | st.sampled_from([ck.MEMBERS, ck.ANYONE]), least=1),
        purposes=ascending(names),
        regions=ascending(regions),
        accept_license=st.booleans(),
    ),
    max_size=3,
).map(tuple)
bitstrings = st.lists(indexes, max_size=6).map(
    lambda set_ones: bytes(_with_bits(set_ones)),
)


def _with_bits(set_ones: list[int]) -> bytes:
    bits = no_bits()
    for index in set_ones:
        bits = with_bit(bits, index)
    return bits


def grant_bodies(_issuer: Identity) -> st.SearchStrategy[Body]:
    return st.builds(
        ck.GrantBody,
        id=dids,
        permission=permissions,
        delegable=st.integers(0, LIMITS.chain_max - 1),
    )


def delegation_bodies(_issuer: Identity) -> st.SearchStrategy[Body]:
    return st.builds(
        ck.DelegationBody,
        id=dids,
        parent=content_ids,
        permission=permissions,
        delegable=st.integers(0, LIMITS.chain_max - 2),
        on_behalf=st.booleans(),
    )


def status_list_bodies(_issuer: Identity) -> st.SearchStrategy[Body]:
    return st.builds(
        ck.StatusListBody, id=dids.map(ck.status_list_of), encoded_list=bitstrings.map(encode_bits)
    )


def status_delegation_bodies(issuer: Identity) -> st.SearchStrategy[Body]:
    delegates = ascending(dids.filter(lambda did: did != issuer.did), least=1)
    return delegates.flatmap(
        lambda them: st.builds(
            ck.StatusDelegationBody,
            id=st.just(ck.status_list_of(issuer.did)),
            delegates=st.just(them),
            quorum=st.integers(1, len(them)),
        )
    )


def receipt_bodies(_issuer: Identity) -> st.SearchStrategy[Body]:
    times = st.integers(0, 2_000_000_000_000)
    return st.tuples(times, times).flatmap(
        lambda when: st.builds(
            ReceiptBody,
            id=dids,
            request_id=st.from_regex(r"[A-Za-z0-9_-]{8,64}", fullmatch=True),
            model=content_ids,
            manifest=content_ids,
            request_hash=hashes,
            prefix_hash=hashes,
            output_hash=hashes,
            prompt_tokens=amounts,
            completion_tokens=amounts,
            began=st.just(format_ms(min(when))),
            ended=st.just(format_ms(max(when))),
            reason=st.sampled_from(["stop", "length", "cancelled", "failed"]),
            presentation=hashes,
            credentials=st.lists(content_ids, max_size=5).map(tuple),
        )
    )


def renewal_bodies(issuer: Identity) -> st.SearchStrategy[Body]:
    """Memberships that a delegate signs; what they renew is looked at where they are believed."""
    return st.builds(
        MembershipBody,
        id=dids,
        grid=dids.filter(lambda did: did != issuer.did),
        renews=st.from_regex(r"[A-Za-z0-9_-]{1,40}", fullmatch=True),
    )


@st.composite
def statuses(draw: st.DrawFn, kind: Kind, issuer: str, body: Body) -> StatusEntry | None:
    """A status entry for a record, where its kind may or must have one."""
    rule = KINDS[kind].status
    if rule == "never" or (rule == "allowed" and draw(st.booleans())):
        return None
    owner = body.grid if isinstance(body, MembershipBody) else issuer
    return draw(st.builds(StatusEntry, st.just(owner), indexes, ages))


def example_status(kind: Kind, issuer: str) -> StatusEntry | None:
    needed = KINDS[kind].status == "required"
    return StatusEntry(issuer, 94_567, LIMITS.status_age_grant_seconds) if needed else None


def example_credentials(issuer: Identity) -> dict[Kind, Body]:
    """One ordinary body per kind; `issuer` is one of `WHO`."""
    others = [who.did for who in WHO if who.did != issuer.did]
    permission = ck.Permission(
        actions=("fetch", "invoke"),
        targets=("text-generation", MODEL_URN + CID),
        purposes=("research",),
        regions=("eu",),
        audience=tuple(sorted(others)),
        requests_per_day=1000,
        tokens_per_day=1_000_000,
        concurrency=4,
    )
    return {
        Kind.GRANT: ck.GrantBody(id=others[0], permission=permission, delegable=2),
        Kind.DELEGATION: ck.DelegationBody(
            id=others[1], parent=CID, permission=permission, delegable=1, on_behalf=True
        ),
        Kind.STATUS_LIST: ck.StatusListBody(
            id=ck.status_list_of(issuer.did), encoded_list=encode_bits(with_bit(no_bits(), 94_567))
        ),
        Kind.STATUS_DELEGATION: ck.StatusDelegationBody(
            id=ck.status_list_of(issuer.did), delegates=tuple(sorted(others)), quorum=2
        ),
        Kind.RECEIPT: ReceiptBody(
            id=others[0],
            request_id="req_00000001",
            model=content_id(b"a model"),
            manifest=content_id(b"a manifest"),
            request_hash="11" * 32,
            prefix_hash="22" * 32,
            output_hash="33" * 32,
            prompt_tokens=9,
            completion_tokens=17,
            began=format_ms(1_790_000_000_000),
            ended=format_ms(1_790_000_001_500),
            reason="stop",
            presentation="44" * 32,
            credentials=(CID,),
        ),
    }
