"""Keys of other types than ours: nothing of them is computed with, wherever they stand."""

from typing import Any

import libp2p.crypto.rsa
import pytest
from libp2p.crypto import serialization
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.keys import KeyType, PublicKey
from libp2p.crypto.pb import crypto_pb2
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer import envelope
from libp2p.records import pubkey, utils
from libp2p.security.noise.messages import NoiseHandshakePayload
from libp2p.security.noise.pb import noise_pb2
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_PROTOCOL_ID
from tests.node.network import nodes

from aigrid.node.network import compat, key_types, negotiation

OTHER_TYPES = [kind for kind in KeyType if kind is not KeyType.Ed25519]
DATA = b"\x30" + bytes(300)


@pytest.fixture(autouse=True)
def nothing_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library is set up as a node does it, and reading an RSA key fails the test."""

    def imported(*_: Any) -> None:
        pytest.fail("a key was read")

    compat.build(nodes.new_seed(), lambda: ())
    monkeypatch.setattr(libp2p.crypto.rsa.RSA, "import_key", imported)


def as_protobuf(kind: KeyType) -> bytes:
    message = crypto_pb2.PublicKey(key_type=kind.value, data=DATA)
    return bytes(message.SerializeToString())


def test_those_that_are_refused_are_all_there_are() -> None:
    """Canary: a type that upstream learns has to be refused, too."""
    known = set(serialization.key_type_to_public_key_deserializer)
    assert known == {KeyType.Ed25519.value, *(kind.value for kind in key_types.OTHERS)}
    written_for = {"Ed25519PublicKey", "RSAPublicKey", "Secp256k1PublicKey"}
    never_read = {"ECCPublicKey", "X25519PublicKey"}  # by SecIO, which is not used, and by Noise
    assert {one.__name__ for one in PublicKey.__subclasses__()} == written_for | never_read


@pytest.mark.parametrize("kind", key_types.OTHERS, ids=str)
def test_no_reader_of_the_library_takes_another_type(kind: KeyType) -> None:
    with pytest.raises(key_types.KeyTypeError):
        serialization.deserialize_public_key(as_protobuf(kind))
    in_record = envelope.cryto_pb.PublicKey(Type=kind.value, Data=DATA)
    with pytest.raises(key_types.KeyTypeError):
        envelope.pub_key_from_protobuf(in_record)
    with pytest.raises(key_types.KeyTypeError):
        pubkey.unmarshal_public_key(as_protobuf(kind))
    with pytest.raises(key_types.KeyTypeError):
        utils._unmarshal_public_key(as_protobuf(kind))


def test_an_ed25519_key_is_read_as_before() -> None:
    key = create_new_key_pair(bytes(32)).public_key
    assert serialization.deserialize_public_key(key.serialize()).to_bytes() == key.to_bytes()


async def test_a_stranger_with_another_key_comes_no_further_than_its_handshake(
    start: nodes.Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = await start()
    stranger = compat.build(nodes.new_seed(), lambda: ())
    tcp = await nodes.raw_connection(target)
    await negotiation.select(tcp, str(NOISE_PROTOCOL_ID))
    rsa = noise_pb2.NoiseHandshakePayload(
        identity_key=as_protobuf(KeyType.RSA), identity_sig=b"x"
    ).SerializeToString()
    ours, said = stranger.host.get_public_key(), NoiseHandshakePayload.serialize
    monkeypatch.setattr(
        NoiseHandshakePayload,
        "serialize",
        lambda payload: rsa if payload.id_pubkey == ours else said(payload),
    )
    raw, expected = RawConnection(tcp, True), compat.ID.from_base58(target.peer_id)
    await stranger.noise.secure_outbound(raw, expected)  # the last word of a handshake is ours
    assert await tcp.read(1) == b""
    await nodes.eventually(lambda: target.counters()["pre_auth_failed"] == 1)
