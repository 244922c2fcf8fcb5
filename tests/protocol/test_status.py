"""Status lists: the codec against hostile input, and what may be concluded from lists."""

import base64
import gzip
import itertools
import zlib
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripts import policy_world as world
from scripts.policy_world import ANN, AUTHORITY, BEN, CEM, NOW_MS, OWNER, STRANGER
from tests.protocol.credential_strategies import bitstrings, indexes
from tests.protocol.mutants import refusal_of
from tests.protocol.strategies import ALICE, document_of, example, forge

from aigrid.protocol.credential_kinds import (
    StatusDelegationBody,
    status_list_of,
)
from aigrid.protocol.errors import Code, VerificationError
from aigrid.protocol.identity import Identity
from aigrid.protocol.kinds import Kind, WithdrawnBody
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.record import Record, build, verify
from aigrid.protocol.record_status import StatusEntry, read_status
from aigrid.protocol.status import (
    IssuerStatus,
    Standing,
    decode_bits,
    delegates_of,
    encode_bits,
    has_bit,
    no_bits,
    standing,
    status_of,
    union,
    with_bit,
)

BYTES = LIMITS.status_entries // 8


def multibase64(packed: bytes) -> str:
    return "u" + base64.urlsafe_b64encode(packed).decode().rstrip("=")


@given(bitstrings)
def test_a_list_is_read_as_it_was_written(bits: bytes):
    assert decode_bits(encode_bits(bits)) == bits


@given(st.lists(indexes, max_size=6), indexes)
def test_a_bit_is_set_where_it_was_set_and_nowhere_else(set_ones: list[int], other: int):
    bits = no_bits()
    for index in set_ones:
        bits = with_bit(bits, index)
    assert has_bit(bits, other) == (other in set_ones)
    assert sum(byte.bit_count() for byte in bits) == len(set(set_ones))


def test_entry_0_is_the_most_significant_bit_of_the_first_byte():
    assert with_bit(no_bits(), 0)[0] == 0x80
    assert with_bit(no_bits(), LIMITS.status_entries - 1)[-1] == 0x01


def test_the_list_of_the_worst_case_that_is_likely_fits_its_bound():
    """A hundredth revoked at random; what is beyond, its issuer has to start anew."""
    bits = no_bits()
    for n in range(1311):
        bits = with_bit(bits, n * 7919 % LIMITS.status_entries)
    assert len(encode_bits(bits)) < LIMITS.status_list_max_chars


GOOD = gzip.compress(no_bits(), mtime=0)
HOSTILE: dict[str, bytes] = {
    "nothing": b"",
    "no gzip": b"x" * 40,
    "zlib instead": zlib.compress(no_bits()),
    "one byte short": gzip.compress(bytes(BYTES - 1)),
    "one byte long": gzip.compress(bytes(BYTES + 1)),
    "a bomb": gzip.compress(bytes(2**24)),
    "a bomb in a bomb": gzip.compress(gzip.compress(bytes(2**24))),
    "two members": GOOD + GOOD,
    "something behind": GOOD + b"\x00",
    "cut": GOOD[:-1],
    "without its checksum": GOOD[:-8],
    "another checksum": GOOD[:-8] + bytes(8),
    "another length": GOOD[:-1] + b"\x01",
    "an empty list": gzip.compress(b""),
    "a broken header": b"\x1f\x8b\x09" + GOOD[3:],
    "a header without end": b"\x1f\x8b\x08\x08" + bytes(6) + b"x" * 1000,
}


@pytest.mark.parametrize("what", list(HOSTILE))
def test_a_hostile_list_is_refused(what: str):
    with pytest.raises(VerificationError) as caught:
        decode_bits(multibase64(HOSTILE[what]))
    assert caught.value.code is Code.MALFORMED


def test_base64_of_no_length_is_refused():
    for text in ("u", "uA", "u" + "A" * 5, "u" + "A" * 9):
        with pytest.raises(VerificationError):
            decode_bits(text)


@given(st.binary(max_size=60), st.integers(0, len(GOOD) - 1))
def test_arbitrary_bytes_raise_nothing_but_a_refusal(junk: bytes, place: int):
    for packed in (junk, GOOD[:place] + junk, GOOD[:place] + junk + GOOD[place:]):
        try:
            assert len(decode_bits(multibase64(packed))) == BYTES
        except VerificationError:
            pass


def test_a_bomb_is_not_unpacked_beyond_a_list(monkeypatch: pytest.MonkeyPatch):
    sizes = []
    make = zlib.decompressobj

    class Watched:
        def __init__(self, wbits: int) -> None:
            self._inner = make(wbits=wbits)

        def decompress(self, packed: bytes, most: int) -> bytes:
            out = self._inner.decompress(packed, most)
            sizes.append(len(out))
            return out

        eof = property(lambda self: self._inner.eof)
        unused_data = property(lambda self: self._inner.unused_data)

    monkeypatch.setattr(zlib, "decompressobj", Watched)
    with pytest.raises(VerificationError):
        decode_bits(multibase64(HOSTILE["a bomb"]))
    assert sizes == [BYTES + 1]


lists = st.lists(bitstrings, max_size=4)


@settings(max_examples=50)
@given(lists, st.randoms(use_true_random=False))
def test_a_union_does_not_depend_on_order_or_repetition_and_only_grows(found, rng):
    whole = union(found)
    shuffled = [*found, *found[:2]]
    rng.shuffle(shuffled)
    assert union(shuffled) == whole
    assert union([whole, *found]) == whole
    assert union([]) == no_bits()
    for bits in found:
        assert union([whole, bits]) == whole
        assert bytes(a & b for a, b in zip(whole, bits, strict=True)) == bits


# --- What lists tell of a credential

DELEGATES = tuple(sorted((ANN.did, BEN.did, CEM.did)))


def delegating(quorum: int = 2, owner: Identity = AUTHORITY) -> Record:
    body = StatusDelegationBody(id=status_list_of(owner.did), delegates=DELEGATES, quorum=quorum)
    return build(
        Kind.STATUS_DELEGATION, body, owner, valid_from_ms=NOW_MS, valid_until_ms=NOW_MS + 1000
    )


def known(lists: Mapping[str, int], *, quorum: int = 2) -> IssuerStatus:
    """Of the authority, from lists of these ages in milliseconds."""
    found = {did: NOW_MS - age_ms for did, age_ms in lists.items()}
    return status_of(AUTHORITY.did, found, no_bits(), delegating(quorum))


MEMBER = world.membership()


def stands(status: IssuerStatus | None, now_ms: int = NOW_MS) -> Standing:
    return standing(MEMBER, {} if status is None else {AUTHORITY.did: status}, now_ms)


def test_own_lists_count_until_the_age_that_the_credential_states():
    assert stands(known({AUTHORITY.did: 600_000})) is Standing.GOOD
    assert stands(known({AUTHORITY.did: 600_001})) is Standing.STALE
    assert stands(known({})) is Standing.STALE
    assert stands(None) is Standing.STALE
    assert standing(world.MANIFEST, world.statuses(), NOW_MS) is Standing.STALE


def test_where_the_own_is_old_a_quorum_of_delegates_has_to_be_recent():
    old = {AUTHORITY.did: 10**9}
    assert stands(known({**old, ANN.did: 0})) is Standing.STALE
    assert stands(known({**old, ANN.did: 0, BEN.did: 600_001})) is Standing.STALE
    assert stands(known({**old, ANN.did: 0, BEN.did: 600_000})) is Standing.GOOD
    assert stands(known({ANN.did: 0, BEN.did: 0})) is Standing.GOOD
    assert stands(known({ANN.did: 0, BEN.did: 0}, quorum=3)) is Standing.STALE
    assert stands(known({ANN.did: 0, STRANGER.did: 0})) is Standing.STALE


ages = st.dictionaries(st.sampled_from([*DELEGATES, AUTHORITY.did]), st.integers(0, 10**6))


@given(ages, ages, st.integers(1, 3))
def test_more_and_newer_lists_never_make_a_good_one_stale_and_a_greater_quorum_never_a_stale_one_good(
    some, more, quorum
):
    merged = {did: min(some.get(did, 10**9), more.get(did, 10**9)) for did in {**some, **more}}
    assert known(merged, quorum=quorum).as_of_ms >= known(some, quorum=quorum).as_of_ms
    if quorum < 3:
        assert known(some, quorum=quorum + 1).as_of_ms <= known(some, quorum=quorum).as_of_ms


def test_revoked_is_revoked_however_old_the_list_is():
    bits = with_bit(no_bits(), 1)
    for times in ({}, {AUTHORITY.did: 1}, {AUTHORITY.did: NOW_MS}):
        assert stands(status_of(AUTHORITY.did, times, bits, None)) is Standing.REVOKED


def test_others_make_nothing_good():
    times = {STRANGER.did: NOW_MS, ANN.did: NOW_MS}
    of_another = delegating(quorum=1, owner=OWNER)
    for delegation, expected in (
        (delegating(quorum=1), Standing.GOOD),
        (delegating(quorum=2), Standing.STALE),
        (None, Standing.STALE),
        (of_another, Standing.STALE),
        (world.MANIFEST, Standing.STALE),
    ):
        status = status_of(AUTHORITY.did, times, no_bits(), delegation)
        assert stands(status) is expected


def test_a_quorum_of_nobody_makes_nothing_good():
    for quorum in (0, -1, 4):
        times = dict.fromkeys(DELEGATES, NOW_MS)
        assert IssuerStatus(delegates_ms=times, quorum=quorum).as_of_ms == 0


def test_a_withdrawn_delegation_delegates_nothing():
    gone = build(
        Kind.STATUS_DELEGATION,
        WithdrawnBody(id=status_list_of(AUTHORITY.did), withdrawn=True),
        AUTHORITY,
        valid_from_ms=NOW_MS,
        valid_until_ms=NOW_MS + 1000,
    )
    assert delegates_of(delegating(), AUTHORITY.did) == DELEGATES
    assert delegates_of(gone, AUTHORITY.did) == ()
    assert delegates_of(None, AUTHORITY.did) == ()


# --- The entry in a record

ENTRY = StatusEntry(ALICE.did, 94_567, 600)


@given(indexes, st.integers(1, LIMITS.status_age_max_seconds))
def test_an_entry_is_read_as_it_was_written(index: int, seconds: int):
    entry = StatusEntry(ALICE.did, index, seconds)
    assert read_status(entry.document(), ALICE.did) == entry


NO_TEXT: list[object] = [7, None, []]
WRONG: list[tuple[str, object]] = [
    *(
        ("statusListIndex", value)
        for value in ("", "-1", "+1", "01", " 1", "1 ", "1.0", "x", "1e3")
    ),
    *(("statusListIndex", text) for text in ("131072", "9" * 400, "\u0661", "\u00b2")),
    *(("statusListIndex", other) for other in NO_TEXT),
    *(("maxStatusAge", value) for value in (0, -1, True, 1.5, "600", None, 2**50)),
    ("maxStatusAge", LIMITS.status_age_max_seconds + 1),
    *(("type", value) for value in ("StatusList2021Entry", None, ["BitstringStatusListEntry"])),
    *(("statusPurpose", value) for value in ("suspension", "refresh", "message", None)),
    *(("statusListCredential", value) for value in ("", "https://example.org/1", None)),
    ("statusListCredential", status_list_of(STRANGER.did)),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_an_entry_that_is_not_as_prescribed_is_malformed(name: str, value: object):
    with pytest.raises(VerificationError) as caught:
        read_status({**ENTRY.document(), name: value}, ALICE.did)
    assert caught.value.code is Code.MALFORMED
    grant = example(Kind.GRANT)
    raw = forge(grant, lambda d: d["credentialStatus"].update({name: value}))
    assert refusal_of(raw) is Code.MALFORMED


def test_an_entry_with_anything_else_is_refused_and_one_without_anything_too():
    for name in ("id", "statusSize", "statusMessage", "unknown"):
        with pytest.raises(VerificationError) as caught:
            read_status({**ENTRY.document(), name: 1}, ALICE.did)
        assert caught.value.code is Code.UNKNOWN_FIELD
    for name in ENTRY.document():
        less = {n: value for n, value in ENTRY.document().items() if n != name}
        with pytest.raises(VerificationError) as caught:
            read_status(less, ALICE.did)
        assert caught.value.code is Code.MALFORMED
    for other in (None, [], [ENTRY.document()], "x", 1):
        with pytest.raises(VerificationError) as caught:
            read_status(other, ALICE.did)
        assert caught.value.code is Code.MALFORMED


def test_which_kinds_have_one():
    for kind in (Kind.GRANT, Kind.DELEGATION):
        raw = forge(example(kind), lambda d: d.pop("credentialStatus"))
        assert refusal_of(raw) is Code.MALFORMED
    own = ENTRY.document()
    for kind in Kind:
        raw = forge(example(kind), lambda d: d.update(credentialStatus=own))
        allowed = kind in (Kind.GRANT, Kind.DELEGATION, Kind.MEMBERSHIP)
        assert refusal_of(raw) is (None if allowed else Code.UNKNOWN_FIELD)
    taken_back = example(
        Kind.MEMBERSHIP,
        body=WithdrawnBody(id=document_of(MEMBER)["credentialSubject"]["id"], withdrawn=True),
    )
    raw = forge(taken_back, lambda d: d.update(credentialStatus=own))
    assert refusal_of(raw) is Code.UNKNOWN_FIELD


def test_a_renewed_membership_has_its_entry_in_the_list_of_the_authority():
    text = "x" * 8
    body: dict[str, Any] = {"grid": AUTHORITY.did, "renews": text}
    renewed = world.membership(by=ANN, status=StatusEntry(AUTHORITY.did, 5, 600), **body)
    assert verify(renewed.raw, now_ms=NOW_MS).status == StatusEntry(AUTHORITY.did, 5, 600)
    with pytest.raises(VerificationError):
        world.membership(by=ANN, status=StatusEntry(ANN.did, 5, 600), **body)


BODY = StatusDelegationBody(id=status_list_of(ALICE.did), delegates=DELEGATES, quorum=2)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"id": status_list_of(ANN.did)}, Code.ISSUER_NOT_KEY),
        ({"id": ALICE.did}, Code.ISSUER_NOT_KEY),
        ({"delegates": DELEGATES[::-1]}, Code.MALFORMED),
        ({"delegates": (DELEGATES[0], DELEGATES[0])}, Code.MALFORMED),
        ({"delegates": tuple(sorted((*DELEGATES, ALICE.did)))}, Code.MALFORMED),
        ({"delegates": ("did:key:z" + "1" * 48,)}, Code.MALFORMED),
        ({"delegates": ()}, Code.MALFORMED),
        ({"quorum": 4}, Code.MALFORMED),
        ({"quorum": 0}, Code.MALFORMED),
    ],
)
def test_a_delegation_of_a_status_list_is_of_ones_own_to_others(change, code):
    good = build(
        Kind.STATUS_DELEGATION, BODY, ALICE, valid_from_ms=NOW_MS, valid_until_ms=NOW_MS + 9
    )
    raw = forge(good, lambda d: d["credentialSubject"].update(change))
    assert refusal_of(raw) is code


def test_every_pair_of_delegates_is_a_quorum_of_two():
    for pair in itertools.combinations(DELEGATES, 2):
        assert stands(known(dict.fromkeys(pair, 0))) is Standing.GOOD
