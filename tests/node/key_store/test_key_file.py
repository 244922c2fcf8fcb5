"""Key files: no passphrase but the right one opens them, and no byte changes unnoticed."""

import json
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigrid.node.key_store.key_file import (
    Cost,
    KeyFile,
    check_passphrase,
    decode_key,
    encode_key,
    encode_protected,
    read_key_file,
)
from aigrid.protocol.errors import Code, UsageError
from aigrid.protocol.identity import Identity
from aigrid.protocol.limits import LIMITS

CHEAP = Cost(operations=1, memory_bytes=8192)
IDENTITY = Identity(bytes(range(32)))
ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
seeds = st.binary(min_size=32, max_size=32)
passphrases = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


def protected(seed: bytes = IDENTITY.seed, passphrase: str = "open sesame") -> bytes:
    return encode_protected(Identity(seed), passphrase, os.urandom, CHEAP)


def read(raw: bytes) -> KeyFile:
    found = read_key_file(raw)
    assert found is not None
    return found


def code_of(found: KeyFile, passphrase: str) -> Code:
    with pytest.raises(UsageError) as caught:
        found.open(passphrase)
    return caught.value.code


@given(seeds)
def test_a_key_file_round_trips(seed: bytes) -> None:
    decoded = decode_key(encode_key(Identity(seed)))
    assert decoded is not None
    assert decoded.seed == seed


@given(seeds, passphrases)
def test_a_protected_key_file_round_trips_and_tells_its_did(seed: bytes, passphrase: str) -> None:
    raw = protected(seed, passphrase)
    found = read(raw)
    assert found.protected
    assert found.did == Identity(seed).did
    assert found.open(passphrase).seed == seed
    assert decode_key(raw) is None
    assert seed not in raw
    assert len(raw) < LIMITS.key_file_max_bytes


@given(passphrases, passphrases)
def test_another_passphrase_never_yields_a_key(right: str, wrong: str) -> None:
    found = read(protected(passphrase=right))
    if check_passphrase(right) == check_passphrase(wrong):
        assert found.open(wrong).seed == IDENTITY.seed
    else:
        assert code_of(found, wrong) is Code.PASSPHRASE_WRONG


@pytest.mark.parametrize("flip", [1, 2, 32, 128])
def test_every_byte_flip_of_a_protected_file_is_refused(flip: int) -> None:
    raw = protected()
    said = json.loads(raw)
    for position in range(len(raw)):
        changed = bytearray(raw)
        changed[position] ^= flip
        found = read_key_file(bytes(changed))
        if found is not None and json.loads(changed) != said:  # else only blanks have changed
            assert code_of(found, "open sesame") is Code.PASSPHRASE_WRONG


@given(st.data())
def test_a_changed_secret_never_becomes_another_identity(data: st.DataObject) -> None:
    document = json.loads(encode_key(IDENTITY))
    secret = document["secretKeyMultibase"]
    position = data.draw(st.integers(1, len(secret) - 1))
    letter = data.draw(st.sampled_from(ALPHABET))
    document["secretKeyMultibase"] = secret[:position] + letter + secret[position + 1 :]
    decoded = decode_key(json.dumps(document).encode())
    assert decoded is None or decoded.did == IDENTITY.did


@given(st.binary(max_size=300))
def test_any_bytes_are_a_key_or_none(raw: bytes) -> None:
    assert read_key_file(raw) is None


def changed(**changes: Any) -> bytes:
    document = json.loads(protected())
    document["secretKeyProtected"] |= changes
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    "raw",
    [
        changed(memoryBytes=1 << 40),
        changed(memoryBytes=LIMITS.key_memory_max_bytes + 1),
        changed(memoryBytes=-1),
        changed(memoryBytes=8192.5),
        changed(memoryBytes=0),
        changed(operations=1 << 31),
        changed(operations=LIMITS.key_operations_max + 1),
        changed(operations=0),
        changed(operations=True),
        changed(kdf="none"),
        changed(cipher="none"),
        changed(salt=""),
        changed(salt="z" + "1" * 15),
        changed(salt="z" + "1" * 17),
        changed(nonce="z" + "1" * 12),
        changed(sealed="z" + "1" * 4000),
        changed(sealed=1),
        *(changed(sealed=text) for text in ("", "z", "z1", "z" + "1" * 49, "z" + "1" * 51)),
        changed(more="x"),
        b'{"type": "Multikey", "secretKeyProtected": 1}',
        b'{"type": "Multikey", "type": "Multikey"}',
        encode_key(IDENTITY).replace(b"}", b', "secretKeyProtected": {}}'),
        b"[" * 4000,
        b" " * (LIMITS.key_file_max_bytes + 1) + encode_key(IDENTITY),
    ],
)
def test_a_hostile_key_file_is_refused_before_anything_is_derived(raw: bytes) -> None:
    assert read_key_file(raw) is None


def test_the_did_of_another_key_does_not_pass_for_this_one() -> None:
    document, other = json.loads(protected()), Identity(bytes(32))
    document["controller"] = other.did
    document["publicKeyMultibase"] = other.did.removeprefix("did:key:")
    found = read(json.dumps(document).encode())
    assert found.did == other.did  # all that can be told without the passphrase
    assert code_of(found, "open sesame") is Code.PASSPHRASE_WRONG


@pytest.mark.parametrize("passphrase", ["", "x" * 1025, "\ud800"])
def test_what_is_no_passphrase_is_said(passphrase: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_passphrase(passphrase)
    assert caught.value.code is Code.USAGE


def test_two_keyboards_spell_a_letter_alike() -> None:
    assert read(protected(passphrase="caf\u00e9")).open("cafe\u0301").seed == IDENTITY.seed


def test_the_usual_cost_is_that_of_the_limits() -> None:
    said = json.loads(encode_protected(IDENTITY, "x", os.urandom))["secretKeyProtected"]
    assert (said["operations"], said["memoryBytes"]) == (3, 256 * 2**20)
