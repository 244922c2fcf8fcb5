"""Keys and their two spellings."""

from typing import Any

import base58
import pytest
from hypothesis import given
from hypothesis import strategies as st
from libp2p.crypto.ed25519 import Ed25519PublicKey
from libp2p.peer.id import ID
from tests.protocol.strategies import ALICE, BOB

from aigrid.protocol.errors import VerificationError
from aigrid.protocol.identity import (
    Identity,
    did_of,
    did_of_peer_id,
    multibase,
    multibase_decode,
    peer_id_of,
    peer_id_of_did,
    public_key_of_did,
    public_key_of_peer_id,
    verify_signature,
)

keys = st.binary(min_size=32, max_size=32)
BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


@given(keys)
def test_the_peer_id_is_the_one_libp2p_derives(seed: bytes) -> None:
    identity = Identity(seed)
    theirs = ID.from_pubkey(Ed25519PublicKey.from_bytes(identity.public_key))
    assert identity.peer_id == str(theirs)
    assert public_key_of_peer_id(str(theirs)) == identity.public_key


@given(keys)
def test_did_and_peer_id_are_two_spellings_of_one_key(key: bytes) -> None:
    did, peer_id = did_of(key), peer_id_of(key)
    assert public_key_of_did(did) == public_key_of_peer_id(peer_id) == key
    assert peer_id_of_did(did) == peer_id
    assert did_of_peer_id(peer_id) == did
    assert did.startswith("did:key:z6Mk")
    assert peer_id.startswith("12D3KooW")


def test_a_seed_of_another_size_is_refused() -> None:
    for size in (0, 31, 33, 64):
        with pytest.raises(ValueError, match="32 bytes"):
            Identity(bytes(size))


def test_the_seed_is_not_shown() -> None:
    assert ALICE.seed.hex() not in repr(ALICE)
    assert ALICE.did in repr(ALICE)


OTHER_SPELLINGS = [
    "",
    "did:key:",
    "did:key:z",
    ALICE.did + " ",
    " " + ALICE.did,
    ALICE.did + "\n",
    ALICE.did.upper(),
    "DID:key:" + ALICE.did.removeprefix("did:key:"),
    ALICE.did + "#" + ALICE.did.removeprefix("did:key:"),
    ALICE.did.replace("did:key:z", "did:key:z1"),  # a leading zero byte
    ALICE.did[:-1],
    ALICE.did + "1",
    "did:key:f" + (b"\xed\x01" + ALICE.public_key).hex(),  # base16 multibase
    "did:key:" + multibase(b"\xe7\x01" + bytes(33)),  # secp256k1
    "did:key:" + multibase(b"\xed\x01" + bytes(31)),
    "did:key:" + multibase(b"\xed\x01" + bytes(33)),
    "did:web:example.org",
    ALICE.peer_id,
]


@pytest.mark.parametrize("text", OTHER_SPELLINGS)
def test_other_spellings_of_a_did_are_refused(text: str) -> None:
    with pytest.raises(VerificationError):
        public_key_of_did(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ALICE.peer_id + " ",
        "1" + ALICE.peer_id,
        ALICE.peer_id[:-1],
        ALICE.did,
        "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",  # RSA
        base58.b58encode(b"\x00\x25\x08\x02\x12\x21" + bytes(33)).decode(),  # secp256k1
        "bafzaajaiaejcaiyhcgn3lqwbscy3slbhqjmhjezn4qkhtqnwwjr5tgvaj7zgqxge",  # CIDv1 spelling
    ],
)
def test_other_peer_ids_are_refused(text: str) -> None:
    with pytest.raises(VerificationError):
        public_key_of_peer_id(text)


mostly_base58 = st.text(st.sampled_from(BASE58), max_size=90)


@given(st.text() | mostly_base58 | mostly_base58.map("did:key:z".__add__))
def test_arbitrary_text_raises_nothing_but_verification_errors(text: str) -> None:
    for read, write in ((public_key_of_did, did_of), (public_key_of_peer_id, peer_id_of)):
        try:
            key = read(text)
        except VerificationError:
            continue
        assert write(key) == text


@given(st.text(max_size=200))
def test_multibase_decodes_or_says_none(text: str) -> None:
    assert multibase_decode(text, max_chars=10) is None or len(text) <= 10


@given(st.binary(max_size=70))
def test_multibase_round_trips(data: bytes) -> None:
    assert multibase_decode(multibase(data), max_chars=100) == data


@given(st.binary(max_size=200))
def test_a_signature_holds_for_its_message_and_key_alone(message: bytes) -> None:
    signature = ALICE.sign(message)
    assert verify_signature(ALICE.public_key, message, signature)
    assert not verify_signature(BOB.public_key, message, signature)
    assert not verify_signature(ALICE.public_key, message + b"\x00", signature)


@given(st.binary(max_size=80), st.binary(max_size=80), st.binary(max_size=80))
def test_verifying_garbage_is_false(key: bytes, message: bytes, signature: bytes) -> None:
    assert not verify_signature(key, message, signature)


ORDER = 2**252 + 27742317777372353535851937790883648493


def test_a_signature_cannot_be_respelled_by_adding_the_group_order() -> None:
    signature = ALICE.sign(b"message")
    s = int.from_bytes(signature[32:], "little")
    respelled = signature[:32] + (s + ORDER).to_bytes(32, "little")
    assert not verify_signature(ALICE.public_key, b"message", respelled)


@pytest.mark.parametrize(
    "point", [bytes(32), b"\x01" + bytes(31), b"\xec" + b"\xff" * 30 + b"\x7f"]
)
def test_a_key_of_small_order_verifies_nothing(point: bytes) -> None:
    signature: Any = b"\x01" + bytes(63)
    assert not verify_signature(point, b"any message", signature)


@given(st.binary(max_size=70) | st.binary(max_size=5).map(b"\0\0".__add__))
def test_base58_is_written_as_the_library_does(data: bytes) -> None:
    assert multibase(data) == "z" + base58.b58encode(data).decode()
