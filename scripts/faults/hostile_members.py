"""A member that says in gossip, identify and the DHT what costs others, beside honest ones.

    python scripts/faults/hostile_members.py [--seconds 5] [--kind NAME]...

The processes, the table and what counts as a failure are those of `hostile_muxers.py`; only what
the member says differs. It keeps to Yamux and to GossipSub's format, and is signed where it has to
be: a node must tell by the amount.
"""

import itertools
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import trio
from scripts.faults import hostile_muxers
from scripts.faults.hostile_muxers import HONEST, HOSTILE, SERVER, TOPIC

from aigrid.node.network.negotiation import encode_varint, offer, select
from aigrid.protocol.limits import LIMITS

READ_BYTES: Final = 64 * 1024
TOGETHER: Final = 16


class Gossiper:
    """The hostile end: a gossip stream on which it says what it likes."""

    def __init__(self, muxer: Any, stream: Any, library: Any) -> None:
        from libp2p.pubsub.pb import rpc_pb2

        self.muxer = muxer
        self._stream = stream
        self.library = library
        self.pb = rpc_pb2

    async def say(self, *frames: Any) -> None:
        parts = [one.SerializeToString() for one in frames]
        await self._stream.write(b"".join(encode_varint(len(one)) + one for one in parts))

    async def for_ever(self, frame: Any) -> None:
        frames = [frame] * (TOGETHER if frame.ByteSize() < READ_BYTES else 1)
        while True:
            await self.say(*frames)

    def control(self, **entries: Any) -> Any:
        return self.pb.RPC(control=self.pb.ControlMessage(**entries))

    def message(self, number: int, size: int = 300) -> Any:
        made = self.pb.Message(
            from_id=self.library.peer_id.to_bytes(),
            data=bytes(size),
            seqno=number.to_bytes(8, "big"),
            topicIDs=[TOPIC],
        )
        key = self.library.host.get_private_key()
        made.signature = key.sign(b"libp2p-pubsub:" + made.SerializeToString())
        return made


async def graft(says: Gossiper) -> None:
    """One a frame, of seven bytes."""
    await says.for_ever(says.control(graft=[says.pb.ControlGraft(topicID=TOPIC)]))


async def grafts(says: Gossiper) -> None:
    """Each was answered with a PRUNE once it had been pruned itself."""
    await says.say(says.control(prune=[says.pb.ControlPrune(topicID=TOPIC, backoff=60)]))
    many = [says.pb.ControlGraft(topicID=TOPIC)] * LIMITS.gossip_control_max
    await says.for_ever(says.control(graft=many))


async def prunes(says: Gossiper) -> None:
    many = [says.pb.ControlPrune(topicID=TOPIC, backoff=1 << 62)] * LIMITS.gossip_control_max
    await says.for_ever(says.control(prune=many))


async def prune_peers(says: Gossiper) -> None:
    peers = [says.pb.PeerInfo()] * 2000
    await says.for_ever(says.control(prune=[says.pb.ControlPrune(topicID=TOPIC, peers=peers)]))


def _ids(count: int) -> list[bytes]:
    """As long as they may be, and that nobody has seen."""
    return [os.urandom(LIMITS.gossip_id_bytes // 2).hex().encode() for _ in range(count)]


async def ihave_empty(says: Gossiper) -> None:
    """5000 ids in 10 KB."""
    nothing = [b""] * (LIMITS.gossip_ids_max - 10)
    have = says.pb.ControlIHave(topicID=TOPIC, messageIDs=nothing)
    await says.for_ever(says.control(ihave=[have]))


async def ihave(says: Gossiper) -> None:
    """600 KB of ids in each."""
    while True:
        have = says.pb.ControlIHave(topicID=TOPIC, messageIDs=_ids(4990))
        await says.say(says.control(ihave=[have]))


async def ihave_unread(says: Gossiper) -> None:
    """And what is asked for then is not read."""
    await ihave(says)


async def iwant(says: Gossiper) -> None:
    await says.for_ever(says.control(iwant=[says.pb.ControlIWant(messageIDs=_ids(4990))]))


async def iwant_held(says: Gossiper) -> None:
    """What there is, again and again; it reads none of it."""
    sent = [says.message(number) for number in range(200)]
    await says.say(says.pb.RPC(publish=sent))
    ids = [one.from_id + one.seqno for one in sent]
    await says.for_ever(says.control(iwant=[says.pb.ControlIWant(messageIDs=ids)]))


async def idontwant(says: Gossiper) -> None:
    entries = [says.pb.ControlIDontWant(messageIDs=_ids(1000))]
    await says.for_ever(says.control(idontwant=entries))


def _record(says: Gossiper, count: int, number: int) -> bytes:
    from libp2p.peer.envelope import seal_record
    from libp2p.peer.peer_record import PeerRecord

    from aigrid.node.network.compat import Multiaddr

    addresses = [Multiaddr(f"/tcp/{n + 1}") for n in range(count)]
    record = PeerRecord(says.library.peer_id, addresses, (1 << 62) + number)
    made: bytes = seal_record(record, says.library.host.get_private_key()).marshal_envelope()
    return made


async def records(says: Gossiper) -> None:
    """Signed records of as many addresses as fit one, another with each frame."""
    await _records(says, 450)


async def records_long(says: Gossiper) -> None:
    """Of 8 KiB."""
    await _records(says, 1100)


async def _records(says: Gossiper, count: int) -> None:
    made = [_record(says, count, number) for number in range(2 * TOGETHER)]
    for turn in itertools.count():
        half = made[(turn % 2) * TOGETHER :][:TOGETHER]
        await says.say(*(says.pb.RPC(senderRecord=one) for one in half))
        if turn == 1:
            made = [_record(says, count, 1000 + number) for number in range(2 * TOGETHER)]


async def forged(says: Gossiper) -> None:
    """Under the name of another member."""
    from aigrid.node.network.compat import ID

    made = says.message(1)
    made.from_id = ID.from_base58(HONEST.peer_id).to_bytes()
    await says.for_ever(says.pb.RPC(publish=[made] * 100))


async def written(says: Gossiper) -> None:
    """Messages of its own, all in order, faster than anybody writes."""
    for number in itertools.count(int.from_bytes(os.urandom(4), "big") << 16):
        await says.say(says.pb.RPC(publish=[says.message(number)]))


async def written_large(says: Gossiper) -> None:
    """As large as they may be, and no more of them than an author may write."""
    from aigrid.protocol.limits import LIMITS

    for number in itertools.count(time.time_ns()):
        await says.say(says.pb.RPC(publish=[says.message(number, LIMITS.gossip_max_bytes)]))
        await trio.sleep(1 / LIMITS.gossip_author_per_second)


async def long_seqno(says: Gossiper) -> None:
    """What makes the ids of messages long, which are kept for minutes."""
    while True:
        made = says.message(0)
        made.seqno = os.urandom(900_000)
        await says.say(says.pb.RPC(publish=[made]))


async def big_key(says: Gossiper) -> None:
    """What is signed by nobody and would be kept and passed on."""
    for number in itertools.count(int.from_bytes(os.urandom(4), "big") << 16):
        made = says.message(number)
        made.key = bytes(900_000)
        await says.say(says.pb.RPC(publish=[made]))


async def seen(says: Gossiper) -> None:
    """A message that was heard, far over the rate of a mesh."""
    await says.for_ever(says.pb.RPC(publish=[says.message(1)] * 100))


async def strange_fields(says: Gossiper) -> None:
    """A message that was heard, with what no version knows behind it."""
    made = says.message(1)
    strange = type(made).FromString(made.SerializeToString() + b"\x78\x01" * 10_000)
    await says.for_ever(says.pb.RPC(publish=[strange]))


async def subscriptions(says: Gossiper) -> None:
    both = [says.pb.RPC.SubOpts(subscribe=each, topicid=TOPIC) for each in (False, True)]
    while True:
        for one in both:
            await says.say(*[says.pb.RPC(subscriptions=[one])] * TOGETHER)


async def push_protocols(says: Gossiper) -> None:
    """What it serves, in identify: half a million of nothing, and what is too long as well."""
    from libp2p.identity.identify.pb.identify_pb2 import Identify

    await _push(says, Identify(protocols=[""] * 500_000), Identify(protocols=["/a/1"] * 3000))


async def push_addresses(says: Gossiper) -> None:
    from libp2p.identity.identify.pb.identify_pb2 import Identify
    from multiaddr import Multiaddr

    addresses = [Multiaddr(f"/ip4/1.2.3.4/tcp/{port}").to_bytes() for port in range(1, 1001)]
    await _push(says, Identify(listen_addrs=addresses))


async def _push(says: Gossiper, *messages: Any) -> None:
    from aigrid.node.network.compat import IDENTIFY_PUSH_PROTOCOL

    parts = [one.SerializeToString() for one in messages]
    wires = [encode_varint(len(one)) + one for one in parts]

    async def again_and_again() -> None:
        for wire in itertools.cycle(wires):
            stream = await says.muxer.open_stream()
            try:
                await select(stream, IDENTIFY_PUSH_PROTOCOL)
                await stream.write(wire)
                while await stream.read(READ_BYTES):
                    pass
            except Exception:  # noqa: BLE001 - this stream is over
                await trio.lowlevel.checkpoint()

    await _together(says, again_and_again)


async def dht_find(says: Gossiper) -> None:
    """Whom the node knows near a key, asked without waiting for the answers."""
    from libp2p.kad_dht.pb.kademlia_pb2 import Message

    from aigrid.node.network.compat import KAD_PROTOCOL

    kind = Message.MessageType.FIND_NODE
    asked = Message(type=kind, key=b"\x12\x20" + bytes(32)).SerializeToString()
    wire = (encode_varint(len(asked)) + asked) * 100

    async def ask(stream: Any) -> None:
        while True:
            await stream.write(wire)

    async def again_and_again() -> None:
        while True:
            stream = await says.muxer.open_stream()
            try:
                await select(stream, KAD_PROTOCOL)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(ask, stream)
                    while await stream.read(READ_BYTES):
                        pass
                    nursery.cancel_scope.cancel()
            except Exception:  # noqa: BLE001 - this stream is over
                await trio.lowlevel.checkpoint()

    await _together(says, again_and_again)


async def dht_idle(says: Gossiper) -> None:
    """Streams on which nothing is asked, as many as one may have."""
    from aigrid.node.network.compat import KAD_PROTOCOL

    async def again_and_again() -> None:
        while True:
            stream = await says.muxer.open_stream()
            try:
                await select(stream, KAD_PROTOCOL)
                while await stream.read(READ_BYTES):
                    pass
            except Exception:  # noqa: BLE001 - this stream is over
                await trio.lowlevel.checkpoint()

    await _together(says, again_and_again)


async def _together(says: Gossiper, task: Callable[[], Awaitable[None]]) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(task)
        await says.muxer.event_shutting_down.wait()
        raise ConnectionError


DEAF = {ihave_unread, iwant_held}
KINDS: dict[str, Callable[[Gossiper], Awaitable[None]]] = {
    one.__name__: one
    for one in (
        graft,
        grafts,
        prunes,
        prune_peers,
        ihave_empty,
        ihave,
        ihave_unread,
        iwant,
        iwant_held,
        idontwant,
        records,
        records_long,
        forged,
        written,
        written_large,
        long_seqno,
        big_key,
        seen,
        strange_fields,
        subscriptions,
        push_protocols,
        push_addresses,
        dht_find,
        dht_idle,
    )
}


async def talk(address: str, kind: str) -> None:
    """One connection; raises when it is ended."""
    from aigrid.node.network import compat
    from aigrid.node.network.tcp import TcpStream, Traffic, parse_address

    at = parse_address(address)
    library = compat.build(HOSTILE.seed, lambda: ("/ip4/127.0.0.1/tcp/1",))
    tcp = TcpStream(await trio.open_tcp_stream(at.host, at.port), Traffic())
    muxer = await compat.secure(tcp, library.noise, compat.ID.from_base58(SERVER.peer_id))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(muxer.start)
        await muxer.event_started.wait()
        nursery.start_soon(_listen, muxer, KINDS[kind] not in DEAF)
        stream = await muxer.open_stream()
        await select(stream, compat.MESHSUB_PROTOCOL)
        says = Gossiper(muxer, stream, library)
        await says.say(says.pb.RPC(subscriptions=[{"subscribe": True, "topicid": TOPIC}]))
        await KINDS[kind](says)


async def _listen(muxer: Any, reads: bool) -> None:  # noqa: FBT001 - of a task
    """Take the streams that the node opens, and read and forget what it says."""
    from aigrid.node.network.compat import MESHSUB_PROTOCOL

    async def take(stream: Any) -> None:
        try:
            await offer(stream, (MESHSUB_PROTOCOL,))
            while reads:
                await stream.read(READ_BYTES)
        except Exception:  # noqa: BLE001 - it is over, or was for something else
            return
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        while True:
            nursery.start_soon(take, await muxer.accept_stream())


if __name__ == "__main__":
    sys.exit(hostile_muxers.main(__file__, __doc__, tuple(KINDS), talk))
