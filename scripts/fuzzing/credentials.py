"""What is signed: records of all kinds, presentations, chains, status lists, invitations."""

import base64
import json
from functools import cache
from random import Random
from typing import Any

import msgspec
from scripts.fuzzing import statements, vectors
from scripts.fuzzing.mutations import Bytes
from scripts.fuzzing.target import RefusedError, Target
from scripts.fuzzing.trees import Tree

from aigrid.metagraph.mapping import from_quads, to_quads
from aigrid.metagraph.revocations import check_status_record
from aigrid.protocol import chain, membership, presentation, record, status
from aigrid.protocol.canonical import canonical, parse
from aigrid.protocol.credential_kinds import StatusDelegationBody, status_list_of
from aigrid.protocol.errors import PolicyDeniedError, VerificationError
from aigrid.protocol.identity import Identity, multibase
from aigrid.protocol.kinds import Kind, MembershipBody
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.record_status import StatusEntry
from aigrid.protocol.rotation import agreed
from aigrid.protocol.timestamp import format_ms, parse_ms

NOW_MS = 1_790_000_000_000
_CHAIN_LINKS = 3
_DAY_MS = 86_400_000
_LIFETIMES_MS = (60_000, *(days * _DAY_MS + 1 for days in (1, 7, 31, 366, 9999)))
_SHIFTS_MS = (0, 0, 1, -30_000, -400 * _DAY_MS, 119_000, 121_000)


@cache
def signers() -> dict[str, Identity]:
    """Who signed the vectors."""
    seeds = {case["issuer_seed"] for case in vectors.vector("records")}
    seeds |= {case["seed"] for case in vectors.vector("identities")}
    seeds |= {f"{n:02x}" * 32 for n in range(64)}
    return {who.did: who for who in (Identity(bytes.fromhex(seed)) for seed in seeds)}


@cache
def _signing() -> tuple[Identity, ...]:
    return tuple(signers().values())


def _records() -> list[bytes]:
    """Valid records; they, and those refused for their time alone, are signed by their issuers."""
    cases = vectors.vector("refusals")
    late = [one for one in cases if one["code"] in ("expired", "from_future")]
    statements.of_seeds(bytes.fromhex(one["record"]) for one in late)
    return statements.of_seeds(vectors.records())


def _move(rng: Random, document: dict[str, Any]) -> None:
    """Let a record be valid at another time, and for longer or not as long."""
    begins_ms = parse_ms(document["validFrom"]) + rng.choice(_SHIFTS_MS)
    document["validFrom"] = format_ms(begins_ms)
    document["validUntil"] = format_ms(begins_ms + rng.choice(_LIFETIMES_MS))
    if "rotated" in document["credentialSubject"]:
        document["credentialSubject"]["rotated"] = document["validFrom"]


class Signed(Tree):
    """Records with something odd in them, signed again: what the signature would hide is seen.

    Some are not signed again, or with the key of somebody else, or are valid at other times.
    """

    def make(self, rng: Random) -> bytes:
        elsewhen = rng.getrandbits(2) == 0
        seed = rng.choice(self._trees)
        data = seed if elsewhen else self.changed(rng, seed)
        try:
            document = json.loads(data)
            issuer = signers()[document["issuer"]]
            proof = dict(document.pop("proof"))
            value = proof.pop("proofValue")
            if elsewhen:
                _move(rng, document)
            if rng.getrandbits(3):
                proof["created"] = document["validFrom"]
            signer = rng.choice((None, *_signing())) if rng.getrandbits(2) == 0 else issuer
            if signer is not None:
                value = record.sign_jcs(document, proof, signer)
            made = canonical({**document, "proof": {**proof, "proofValue": value}})
            return statements.signed(made) if signer is issuer else made
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return data
        except VerificationError:
            return data


def _record(raw: bytes) -> None:
    """What is taken is in canonical form, says who it is about, and comes back out of its quads."""
    read = record.verify_form_and_signature(raw)
    statements.record_accepted(raw)
    assert read.raw == raw
    assert canonical(json.loads(raw)) == raw
    assert from_quads(to_quads(raw, read.content_id)) == raw
    try:
        check_status_record(read)
        if isinstance(read.body, MembershipBody):
            statements.record_accepted(membership.check_renewal(read, [read.issuer]).raw)
    except VerificationError:
        pass


_GRID, _PEER, _HOST = (Identity(bytes([n]) * 32) for n in (1, 2, 3))


def _joining_seeds() -> list[bytes]:
    """What is of this grid and this peer, so that nothing but a change stands against it."""
    entry = StatusEntry(_GRID.did, 5, 600)
    admitted = membership.issue_membership(
        _GRID, _PEER.did, now_ms=NOW_MS - 1, valid_ms=_DAY_MS, status=entry
    )
    invited = membership.issue_invitation(
        _GRID,
        _PEER.did,
        peer_id=_HOST.peer_id,
        addresses=("/ip4/192.0.2.1/tcp/4001",),
        nonce="a" * 22,
        now_ms=NOW_MS - 1,
        valid_ms=_DAY_MS,
    )
    renewed = record.build(
        Kind.MEMBERSHIP,
        membership.renewal_body(admitted),
        _HOST,
        valid_from_ms=NOW_MS,
        valid_until_ms=NOW_MS + _DAY_MS,
        status=entry,
    )
    delegated = record.build(
        Kind.STATUS_DELEGATION,
        StatusDelegationBody(status_list_of(_GRID.did), (_HOST.did,), 1),
        _GRID,
        valid_from_ms=NOW_MS - 1,
        valid_until_ms=NOW_MS + _DAY_MS,
    )
    rotated = record.build(
        Kind.ROTATION,
        agreed(_GRID.did, _PEER, rotated_ms=NOW_MS - 1),
        _GRID,
        valid_from_ms=NOW_MS - 1,
        valid_until_ms=NOW_MS + _DAY_MS,
    )
    own = (admitted, invited, renewed, delegated, rotated)
    raws = statements.of_seeds(one.raw for one in own)
    return [*(raw for raw in raws for _ in range(8)), *_records()]


def _join(raw: bytes) -> None:
    """The ways in which records are presented when somebody joins."""
    grid, peer = _GRID.did, _PEER
    refused, took = None, False
    for look in (
        lambda: membership.check_membership(
            raw, grid=grid, peer_id=peer.peer_id, now_ms=NOW_MS, delegates=[_HOST.did]
        ),
        lambda: membership.delegates_in(raw, grid=grid, now_ms=NOW_MS),
        lambda: membership.check_invitation(raw, did=peer.did, now_ms=NOW_MS),
        lambda: membership.check_presented_rotation(raw, peer_id=peer.peer_id, now_ms=NOW_MS),
    ):
        try:
            found = look()
        except VerificationError as error:
            refused = error
            continue
        if found:
            took = True
            statements.record_accepted(raw, NOW_MS)
    if not took:
        raise refused or RefusedError


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
    statements.of_seeds(filter(_is_object, (said["presentation"].encode(), *refused)))
    return [said["presentation"].encode(), *(one for one in refused if len(one) < 20_000)]


def _is_object(raw: bytes) -> bool:
    try:
        return isinstance(json.loads(raw), dict)
    except ValueError:
        return False


class Presented(Tree):
    """Presentations with something odd in them, signed again by their holder."""

    def __init__(self) -> None:
        super().__init__(_presentation_seeds())
        self._holder = Identity(bytes.fromhex(vectors.vector("presentations")["holder_seed"]))
        self._credentials = Signed([raw for raw in _records() if _may_be_shown(raw)])
        statements.of_seeds(_credentials_in(self.seeds[0]))

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
            if rng.getrandbits(4) == 0:
                longer_ms = rng.choice((1, 299_000, 300_001, _DAY_MS))
                proof["expires"] = format_ms(parse_ms(proof["created"]) + longer_ms)
            write = msgspec.json.Encoder(order="sorted").encode
            hashed = record.jcs_hash(document, proof, write)
            value = multibase(self._holder.sign(hashed))
            made = write({**document, "proof": {**proof, "proofValue": value}})
            own = document["holder"] == self._holder.did
            return statements.signed(made) if own else made
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return data
        except VerificationError:
            return data


def _may_be_shown(raw: bytes) -> bool:
    return json.loads(raw)["type"][1] in presentation.PRESENTED


def _credentials_in(raw: bytes) -> list[bytes]:
    return [canonical(one) for one in json.loads(raw)["verifiableCredential"]]


def _presentation(raw: bytes) -> None:
    """What is taken was signed, all of it, and is for now."""
    shown = presentation.verify(raw)
    statements.presentation_verified(raw)
    for one in shown.credentials:
        statements.record_accepted(one.raw)
    links = [one for one in shown.credentials if one.kind is not Kind.MEMBERSHIP]
    if links:
        chain.check(links, shown.holder, {}, NOW_MS)
    presentation.check(shown, shown.binding, node=shown.audience, peer=shown.holder, now_ms=NOW_MS)
    statements.presentation_accepted(raw, NOW_MS)


class Chains:
    """A few credentials as records, most of them changed and signed again, one on a line."""

    def __init__(self) -> None:
        raws = [raw for raw in vectors.vector("chains")["records"].values() if len(raw) < 8000]
        self._raws = tuple(statements.of_seeds(raw.encode() for raw in raws))
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
    for one in links:
        statements.record_accepted(one.raw)
    holder = links[-1].subject
    known = {one.status.issuer: status.IssuerStatus(own_ms=NOW_MS) for one in links if one.status}
    found = chain.check(links, holder, known, NOW_MS)
    if isinstance(found, chain.Broken):
        raise RefusedError(found.code)
    for one in found.links:
        statements.record_accepted(one.raw, NOW_MS)
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
        self._records = Signed(statements.of_seeds([said]))

    def make(self, rng: Random) -> bytes:
        if rng.getrandbits(1):
            return super().make(rng)
        raw = self._records.make(rng)
        return membership.INVITATION_PREFIX.encode() + base64.urlsafe_b64encode(raw).rstrip(b"=")


def _invitation(data: bytes) -> None:
    """What is taken was signed by the grid that it names."""
    found, _ = membership.parse_invitation(data.decode("utf-8", "surrogateescape"))
    statements.record_accepted(found.raw)


REFUSED = (VerificationError,)
TARGETS = (
    Target(
        "records",
        lambda: Tree([*_records(), *vectors.refused_records()]),
        _record,
        REFUSED,
    ),
    Target("signed-records", lambda: Signed(_records()), _record, REFUSED),
    Target("joining-records", lambda: Signed(_joining_seeds()), _join, REFUSED),
    Target("canonical-json", lambda: Tree(_json_seeds()), _json, REFUSED),
    Target("presentations", Presented, _presentation, (VerificationError, PolicyDeniedError)),
    Target("chains", Chains, _chain, REFUSED),
    Target("status-lists", lambda: Bytes(_status_seeds()), _status, REFUSED),
    Target("invitations", Invited, _invitation, REFUSED),
)
