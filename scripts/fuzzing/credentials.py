"""What is signed: records of all kinds, presentations, chains, status lists, invitations."""

import base64
import json
from functools import cache
from random import Random

import msgspec
from scripts.fuzzing import vectors
from scripts.fuzzing.mutations import Bytes, Text
from scripts.fuzzing.target import Target
from scripts.fuzzing.trees import Tree

from aigrid.metagraph.mapping import from_quads, to_quads
from aigrid.metagraph.revocations import check_status_record
from aigrid.protocol import chain, membership, presentation, record, status
from aigrid.protocol.canonical import canonical, parse
from aigrid.protocol.credential_kinds import StatusDelegationBody, status_list_of
from aigrid.protocol.errors import PolicyDeniedError, VerificationError
from aigrid.protocol.identity import (
    Identity,
    multibase,
    public_key_of_did,
    public_key_of_peer_id,
)
from aigrid.protocol.kinds import Kind, MembershipBody
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.record_status import StatusEntry
from aigrid.protocol.rotation import agreed
from aigrid.protocol.timestamp import format_ms, parse_ms

NOW_MS = 1_790_000_000_000
_CHAIN_LINKS = 3


@cache
def signers() -> dict[str, Identity]:
    """Who signed the vectors."""
    seeds = {case["issuer_seed"] for case in vectors.vector("records")}
    seeds |= {case["seed"] for case in vectors.vector("identities")}
    seeds |= {f"{n:02x}" * 32 for n in range(64)}
    return {who.did: who for who in (Identity(bytes.fromhex(seed)) for seed in seeds)}


class Signed(Tree):
    """Records with something odd in them, signed again: what the signature would hide is seen."""

    def make(self, rng: Random) -> bytes:
        data = self.changed(rng, rng.choice(self._trees))
        try:
            document = json.loads(data)
            issuer = signers()[document["issuer"]]
            proof = dict(document.pop("proof"))
            proof.pop("proofValue")
            if rng.getrandbits(3):
                proof["created"] = document["validFrom"]
            value = record.sign_jcs(document, proof, issuer)
            return canonical({**document, "proof": {**proof, "proofValue": value}})
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return data
        except VerificationError:
            return data


def _record(raw: bytes) -> None:
    """What is taken is in canonical form, says who it is about, and comes back out of its quads."""
    read = record.verify_form_and_signature(raw)
    assert read.raw == raw
    assert canonical(json.loads(raw)) == raw
    assert from_quads(to_quads(raw, read.content_id)) == raw
    try:
        check_status_record(read)
        if isinstance(read.body, MembershipBody):
            membership.check_renewal(read, [read.issuer])
    except VerificationError:
        pass


_GRID, _PEER, _HOST = (Identity(bytes([n]) * 32) for n in (1, 2, 3))


def _joining_seeds() -> list[bytes]:
    """What is of this grid and this peer, so that nothing but a change stands against it."""
    day_ms = 86_400_000
    entry = StatusEntry(_GRID.did, 5, 600)
    admitted = membership.issue_membership(
        _GRID, _PEER.did, now_ms=NOW_MS - 1, valid_ms=day_ms, status=entry
    )
    invited = membership.issue_invitation(
        _GRID,
        _PEER.did,
        peer_id=_HOST.peer_id,
        addresses=("/ip4/192.0.2.1/tcp/4001",),
        nonce="a" * 22,
        now_ms=NOW_MS - 1,
        valid_ms=day_ms,
    )
    renewed = record.build(
        Kind.MEMBERSHIP,
        membership.renewal_body(admitted),
        _HOST,
        valid_from_ms=NOW_MS,
        valid_until_ms=NOW_MS + day_ms,
        status=entry,
    )
    delegated = record.build(
        Kind.STATUS_DELEGATION,
        StatusDelegationBody(status_list_of(_GRID.did), (_HOST.did,), 1),
        _GRID,
        valid_from_ms=NOW_MS - 1,
        valid_until_ms=NOW_MS + day_ms,
    )
    rotated = record.build(
        Kind.ROTATION,
        agreed(_GRID.did, _PEER, rotated_ms=NOW_MS - 1),
        _GRID,
        valid_from_ms=NOW_MS - 1,
        valid_until_ms=NOW_MS + day_ms,
    )
    own = (admitted, invited, renewed, delegated, rotated)
    return [*(one.raw for one in own for _ in range(8)), *vectors.records()]


def _join(raw: bytes) -> None:
    """The ways in which records are presented when somebody joins."""
    grid, peer = _GRID.did, _PEER
    for look in (
        lambda: membership.check_membership(
            raw, grid=grid, peer_id=peer.peer_id, now_ms=NOW_MS, delegates=[_HOST.did]
        ),
        lambda: membership.delegates_in(raw, grid=grid, now_ms=NOW_MS),
        lambda: membership.check_invitation(raw, did=peer.did, now_ms=NOW_MS),
        lambda: membership.check_presented_rotation(raw, peer_id=peer.peer_id, now_ms=NOW_MS),
    ):
        try:
            look()
        except VerificationError:
            pass


def _json(raw: bytes) -> None:
    """What is told to be canonical is what the careful way finds to be."""
    parsed = parse(raw, max_bytes=LIMITS.record_max_bytes, depth_max=LIMITS.record_depth_max)
    assert not parsed.plain or canonical(parsed.value) == raw
    assert json.loads(canonical(parsed.value), parse_int=float) == parsed.value


def _json_seeds() -> list[bytes]:
    cases = vectors.vector("canonical")["canonical"]
    return [case[form].encode() for case in cases for form in ("json", "canonical")]


def _presentation_seeds() -> list[bytes]:
    said = vectors.vector("presentations")
    refused = [case["presentation"].encode() for case in said["refused"]]
    return [said["presentation"].encode(), *(one for one in refused if len(one) < 20_000)]


class Presented(Tree):
    """Presentations with something odd in them, signed again by their holder."""

    def __init__(self) -> None:
        super().__init__(_presentation_seeds())
        self._holder = Identity(bytes.fromhex(vectors.vector("presentations")["holder_seed"]))
        self._credentials = Signed(vectors.records())

    def make(self, rng: Random) -> bytes:
        if rng.getrandbits(1):
            return super().make(rng)
        data = self.changed(rng, self.seeds[0])
        try:
            document = json.loads(data)
            if rng.getrandbits(1):
                extra = msgspec.Raw(self._credentials.make(rng))
                document["verifiableCredential"] = [*document["verifiableCredential"], extra]
            proof = document.pop("proof")
            proof.pop("proofValue")
            write = msgspec.json.Encoder(order="sorted").encode
            hashed = record.jcs_hash(document, proof, write)
            value = multibase(self._holder.sign(hashed))
            return write({**document, "proof": {**proof, "proofValue": value}})
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return data


def _presentation(raw: bytes) -> None:
    shown = presentation.verify(raw)
    try:
        presentation.check(
            shown, shown.binding, node=shown.audience, peer=shown.holder, now_ms=NOW_MS
        )
    except PolicyDeniedError:
        pass
    links = [one for one in shown.credentials if one.kind is not Kind.MEMBERSHIP]
    if links:
        chain.check(links, shown.holder, {}, NOW_MS)


class Chains:
    """A few credentials as records, most of them changed and signed again, one on a line."""

    def __init__(self) -> None:
        raws = [raw for raw in vectors.vector("chains")["records"].values() if len(raw) < 8000]
        self._raws = tuple(raw.encode() for raw in raws)
        self._signed = Signed(self._raws)

    def make(self, rng: Random) -> bytes:
        count = 1 + rng.randrange(_CHAIN_LINKS)
        links = [rng.choice(self._raws) for _ in range(count)]
        if rng.getrandbits(1):
            links[rng.randrange(count)] = self._signed.make(rng)
        return b"\n".join(links)


def _chain(data: bytes) -> None:
    """A chain that holds permits at no link what the one before it does not."""
    links = [record.verify_form_and_signature(raw) for raw in data.split(b"\n")]
    holder = links[-1].subject
    known = {one.status.issuer: status.IssuerStatus(own_ms=NOW_MS) for one in links if one.status}
    found = chain.check(links, holder, known, NOW_MS)
    if isinstance(found, chain.Chain):
        for parent, child in zip(found.links, found.links[1:], strict=False):
            allowed, claimed = chain.permission_of(parent), chain.permission_of(child)
            assert set(claimed.actions) <= set(allowed.actions)
            assert not allowed.audience or set(claimed.audience) <= set(allowed.audience)
            assert child.valid_until_ms <= parent.valid_until_ms
            assert child.issuer == parent.subject


def _status_seeds() -> list[bytes]:
    said = vectors.vector("status_lists")
    return [case["encoded_list"].encode() for case in (*said["lists"], *said["refused"])]


def _status(data: bytes) -> None:
    bits = status.decode_bits(data.decode("utf-8", "replace"))
    assert status.decode_bits(status.encode_bits(bits)) == bits
    assert status.union([bits, status.no_bits()]) == bits


def _invitation_seeds() -> list[bytes]:
    return [vectors.vector("joining")["invitation"]["text"].encode(), b"aigrid-invitation-e30"]


class Invited(Bytes):
    """Invitations as text: one changed byte by byte, or as a record that is signed again."""

    def __init__(self) -> None:
        super().__init__(_invitation_seeds())
        said = vectors.vector("joining")["invitation"]["record"].encode()
        self._records = Signed([said])

    def make(self, rng: Random) -> bytes:
        if rng.getrandbits(1):
            return super().make(rng)
        raw = self._records.make(rng)
        return membership.INVITATION_PREFIX.encode() + base64.urlsafe_b64encode(raw).rstrip(b"=")


def _invitation(data: bytes) -> None:
    membership.parse_invitation(data.decode("utf-8", "surrogateescape"))


def _names(data: bytes) -> None:
    """Names of keys, and times: no two texts stand for the same one."""
    text = data.decode("utf-8", "surrogateescape")
    for read, write in (
        (public_key_of_did, record.verification_method),
        (public_key_of_peer_id, None),
        (parse_ms, format_ms),
    ):
        try:
            found = read(text)
        except VerificationError:
            continue
        assert read is not parse_ms or format_ms(found) == text  # type: ignore[arg-type]
        assert write is not None or len(found) == 32  # type: ignore[arg-type]


def _name_seeds() -> list[bytes]:
    cases = vectors.vector("identities")
    times = [b"2026-09-21T14:13:20.000Z", b"1970-01-01T00:00:00.000Z", b"9999-12-31T23:59:59.999Z"]
    return [*(case[form].encode() for case in cases for form in ("did", "peer_id")), *times]


REFUSED = (VerificationError,)
TARGETS = (
    Target(
        "records",
        lambda: Tree([*vectors.records(), *vectors.refused_records()]),
        _record,
        REFUSED,
    ),
    Target("signed-records", lambda: Signed(vectors.records()), _record, REFUSED),
    Target("joining-records", lambda: Signed(_joining_seeds()), _join, REFUSED),
    Target("canonical-json", lambda: Tree(_json_seeds()), _json, REFUSED),
    Target("presentations", Presented, _presentation, (VerificationError, PolicyDeniedError)),
    Target("chains", Chains, _chain, REFUSED),
    Target("status-lists", lambda: Bytes(_status_seeds()), _status, REFUSED),
    Target("invitations", Invited, _invitation, REFUSED),
    Target("names-and-times", lambda: Text(_name_seeds(), (), b":"), _names, REFUSED),
)
