"""What a member may write into messages of the DHT, asked or asking."""

import inspect
from contextlib import suppress
from typing import Any

import libp2p.peer.envelope
import libp2p.peer.id
import pytest
import trio
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from libp2p.kad_dht import kad_dht, peer_routing, provider_store, value_store
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from libp2p.network.stream.exceptions import StreamEOF
from tests.node.network import nodes
from tests.patience import PATIENCE_SECONDS

from aigrid.metagraph.quota import TokenBucket
from aigrid.node.network import compat, dht_messages, negotiation
from aigrid.node.network.dht_messages import DhtMessageError, Paced, bounded
from aigrid.node.network.dht_places import Place
from aigrid.node.network.gossip_author import PEER_ID_BYTES_MAX
from aigrid.protocol.limits import LIMITS

ADDRESS = compat.Multiaddr("/ip4/192.0.2.1/tcp/1").to_bytes()
KEY = b"\x12\x20" + b"k" * 32
GIANT = Message.Peer(id=b"\x12" * 60_000, addrs=[ADDRESS])


def lined(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return negotiation.encode_varint(len(data)) + data


def named(count: int) -> list[Any]:
    return [
        Message.Peer(id=b"\x12\x20" + n.to_bytes(32, "big"), addrs=[ADDRESS]) for n in range(count)
    ]


@pytest.fixture
def spelled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How long each PeerId was that anybody wrote as text."""
    lengths, really = [0], libp2p.peer.id.base58.b58encode

    def counted(data: bytes) -> bytes:
        lengths.append(len(data))
        return b"long" if len(data) > PEER_ID_BYTES_MAX else bytes(really(data))

    monkeypatch.setattr(libp2p.peer.id.base58, "b58encode", counted)
    return lengths


@pytest.mark.parametrize("module", [kad_dht, peer_routing, provider_store, value_store])
def test_every_message_of_the_dht_is_read_by_ours(module: Any) -> None:
    compat.build(nodes.new_seed(), lambda: ())
    assert module.read_varint_prefixed_bytes_limited is dht_messages.read
    code = inspect.getsource(module)
    reads = "await read_varint_prefixed_bytes_limited(\n"
    assert code.count(reads) == code.count("stream, MAX_DHT_MESSAGE_SIZE\n") > 0
    assert ".read(" not in code


async def test_who_offers_under_a_giant_id_loses_its_stream_before_the_id_is_spelled(
    pair: nodes.Pair, hostile: nodes.Hostile, spelled: list[int]
) -> None:
    _, two = pair
    two.admit([hostile.peer_id])
    stream = await (await hostile.connect(two)).open_stream()
    await negotiation.select(stream, compat.KAD_PROTOCOL)
    await stream.write(
        lined(Message(type=Message.MessageType.ADD_PROVIDER, key=KEY, providerPeers=[GIANT]))
    )
    with trio.fail_after(PATIENCE_SECONDS), pytest.raises(compat.MuxedStreamError):
        await stream.read(1)
    assert max(spelled) <= PEER_ID_BYTES_MAX


def lies(node: Any, **peers: Any) -> list[int]:
    """From now on the node answers every question of the DHT with these; the types of questions."""
    asked: list[int] = []

    async def answer(stream: Any) -> None:
        length = await length_of(stream)
        question = b""
        while len(question) < length:
            question += await stream.read(length - len(question))
        kind = Message.FromString(question).type
        asked.append(kind)
        await stream.write(lined(Message(type=kind, key=KEY, **peers)))

    node._library.host.set_stream_handler(compat.KAD_PROTOCOL, answer)
    return asked


async def length_of(stream: Any) -> int:
    length = shift = 0
    while True:
        byte = (await stream.read(1))[0]
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return length


@pytest.mark.parametrize("field", ["closerPeers", "providerPeers"])
async def test_an_answer_with_a_giant_id_is_none(
    pair: nodes.Pair, spelled: list[int], field: str
) -> None:
    liar, asker = pair
    await nodes.eventually(lambda: asker._dht.holds(liar._library.peer_id))
    asked = lies(liar, **{field: [*named(1), GIANT]})
    with trio.fail_after(PATIENCE_SECONDS):
        assert await asker.find_providers("model") == ()
    assert {Message.MessageType.FIND_NODE, Message.MessageType.GET_PROVIDERS} <= set(asked)
    assert max(spelled) <= PEER_ID_BYTES_MAX


async def test_of_an_answer_no_more_closer_peers_are_kept_than_the_protocol_wants(
    pair: nodes.Pair,
) -> None:
    liar, asker = pair
    await nodes.eventually(lambda: asker._dht.holds(liar._library.peer_id))
    peers = asker._library.host.get_peerstore().peer_data_map
    before = set(peers)
    lies(liar, closerPeers=named(700))
    with trio.fail_after(PATIENCE_SECONDS):
        await asker.find_providers("model")
    assert len(set(peers) - before) == LIMITS.dht_closer_max


def test_what_is_over_the_limits_is_cut_and_the_rest_is_as_it_was() -> None:
    long = b"\x04" * (LIMITS.dht_address_bytes + 1)
    message = Message(
        key=KEY,
        closerPeers=named(LIMITS.dht_closer_max + 1),
        providerPeers=[Message.Peer(id=b"p", addrs=[long, *[ADDRESS] * 100])],
    )
    cut = Message.FromString(bounded(message.SerializeToString()))
    assert list(cut.closerPeers) == named(LIMITS.dht_closer_max)
    assert list(cut.providerPeers[0].addrs) == [ADDRESS] * LIMITS.addresses_max
    many = Message(providerPeers=named(LIMITS.dht_providers_max + 1)).SerializeToString()
    assert len(Message.FromString(bounded(many)).providerPeers) == LIMITS.dht_providers_max


@pytest.mark.parametrize(
    "message",
    [
        Message(key=bytes(LIMITS.dht_key_bytes + 1)),
        Message(closerPeers=[Message.Peer(id=bytes(PEER_ID_BYTES_MAX + 1))]),
        Message(providerPeers=[Message.Peer(id=bytes(PEER_ID_BYTES_MAX + 1))]),
    ],
    ids=["key", "closer", "provider"],
)
def test_what_no_honest_peer_says_is_refused(message: Any) -> None:
    with pytest.raises(DhtMessageError):
        bounded(message.SerializeToString())


def test_what_honest_peers_say_is_not_touched() -> None:
    """The largest: all closer peers with addresses, beside as many providers."""
    peers = named(LIMITS.dht_closer_max)
    for peer in peers:
        peer.addrs[:] = [ADDRESS] * LIMITS.addresses_max
    data = Message(key=KEY, closerPeers=peers, providerPeers=peers).SerializeToString()
    assert bounded(data) is data


async def test_no_signed_record_in_a_message_is_verified(
    pair: nodes.Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each costs a millisecond or more; the addresses beside it are all that is wanted of it."""
    verified: list[bytes] = []

    really = libp2p.peer.envelope.unmarshal_envelope

    def unmarshal(data: bytes) -> Any:
        verified.append(data)
        return really(data)

    monkeypatch.setattr(libp2p.peer.envelope, "unmarshal_envelope", unmarshal)
    assert "unmarshal_envelope(data)" in inspect.getsource(libp2p.peer.envelope.consume_envelope)
    liar, asker = pair
    await nodes.eventually(lambda: asker._dht.holds(liar._library.peer_id))
    peers = named(LIMITS.dht_closer_max)
    for peer in peers:
        peer.signedRecord = b"a record"
    closer = peers[1:]  # or the liar itself may be none of the closest, and not be asked
    lies(liar, closerPeers=closer, providerPeers=peers, senderRecord=b"a record")
    with trio.fail_after(PATIENCE_SECONDS):
        found = await asker.find_providers("model")
    assert len(found) == len(peers)
    assert b"a record" not in verified


def test_of_a_peer_that_is_named_again_and_again_the_first_word_counts() -> None:
    other = "/ip4/192.0.2.2/tcp/2"
    again = Message.Peer(id=named(1)[0].id, addrs=[compat.Multiaddr(other).to_bytes()])
    message = Message(providerPeers=[*named(2), again, again], senderRecord=b"r")
    assert Message.FromString(bounded(message.SerializeToString())) == Message(
        providerPeers=named(2)
    )


class Said:
    """A stream on which this is said, and its end."""

    def __init__(self, said: bytes) -> None:
        self._left = said

    async def read(self, n: int) -> bytes:
        await trio.lowlevel.checkpoint()
        if not self._left:
            raise StreamEOF
        said, self._left = self._left[:n], self._left[n:]
        return said


FIND = Message(type=Message.MessageType.FIND_NODE, key=KEY)


@pytest.mark.parametrize(
    ("said", "turns", "is_used"),
    [
        (lined(FIND), 1, True),
        (lined(FIND) * 3, 3, True),
        (b"\x02\xff\xff", 1, False),
        (negotiation.encode_varint(LIMITS.dht_message_bytes + 1), 1, False),
        (b"\xff" * 11, 1, False),
        (lined(Message(key=bytes(LIMITS.dht_key_bytes + 1))), 1, False),
        (lined(FIND)[:-1], 1, False),
        (lined(FIND) + b"\x02\xff\xff", 2, True),
        (b"", 0, False),
    ],
    ids=["one", "three", "none", "large", "endless", "key", "cut", "one and none", "nothing"],
)
async def test_whatever_comes_waits_for_its_turn_a_question_or_not(
    autojump_clock: Any, said: bytes, turns: int, is_used: bool
) -> None:
    began = trio.current_time()
    rate = TokenBucket(burst=1, per_second=1.0, now_seconds=began)
    assert rate.take(began)
    place = Place("peer", began, lambda: None)
    stream = Paced(Said(said), rate, place)
    with suppress(Exception):  # the library's, of many kinds
        while True:
            await dht_messages.read(stream, LIMITS.dht_message_bytes)
    assert trio.current_time() - began == pytest.approx(turns, abs=0.01)
    assert place.used is is_used


@given(st.binary(max_size=500))
def test_garbage_is_within_bounds_or_refused(data: bytes) -> None:
    try:
        message = Message.FromString(bounded(data))
    except (DecodeError, DhtMessageError):
        return
    for peer in (*message.closerPeers, *message.providerPeers):
        assert len(peer.id) <= PEER_ID_BYTES_MAX
        assert len(peer.addrs) <= LIMITS.addresses_max
