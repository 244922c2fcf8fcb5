"""GossipSub frames on their way in and out, in place of the loops of `Pubsub`.

The library reads a length byte by byte, starts a task for each message, copies a message several
times for each peer it goes to, and writes every frame alone. Here what has arrived is split at
once, a frame is built once for all peers, and what waits for a peer is written together.

It also writes to one stream from several tasks, so that frames of a slow peer can mingle: here
everything goes through the queue of the peer.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import trio
from google.protobuf.message import DecodeError
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2
from libp2p.stream_muxer.exceptions import MuxedStreamError

from aigrid.node.network import gossip_counts, negotiation
from aigrid.node.network.gate import Gate
from aigrid.node.network.gossip_patience import (
    BYTES_PER_WORK,
    FRAME_WORK,
    MESSAGE_WORK,
    SUBSCRIPTION_WORK,
    WORK_PER_CHECKPOINT,
    FloodError,
    Patience,
)
from aigrid.node.network.gossip_queue import BoundedQueue
from aigrid.node.network.gossip_rates import GossipRates, Said
from aigrid.protocol.limits import LIMITS

READ_BYTES = 64 * 1024
WRITE_BYTES = 128 * 1024  # frames are joined up to this; a larger one is written alone
_LENGTH_BYTES_MAX = 10


class FrameTooLargeError(Exception):
    """More than `gossip_frame_bytes` are announced, or the length does not end."""


class FrameBuffer:
    """Bytes in, whole frames out. Each frame follows its length, a varint."""

    def __init__(self) -> None:
        self._waiting = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The frames that are complete now, without their lengths. Exhaust it before the next.

        Raises:
            FrameTooLargeError: before any of such a frame is kept.
        """
        waiting = self._waiting
        waiting += data
        at = 0
        try:
            while (head := _length(waiting, at)) is not None:
                length, start = head
                if len(waiting) - start < length:
                    return
                at = start + length
                yield bytes(waiting[start:at])
        finally:
            del waiting[:at]


def _length(data: bytearray, at: int) -> tuple[int, int] | None:
    """The length that stands there and where its frame begins; None if it is not all there yet."""
    length = 0
    for place in range(_LENGTH_BYTES_MAX):
        if at + place == len(data):
            return None
        byte = data[at + place]
        length |= (byte & 0x7F) << (7 * place)
        if length > LIMITS.gossip_frame_bytes:
            break
        if byte < 0x80:
            return length, at + place + 1
    raise FrameTooLargeError


def said(message: Any) -> Said:
    """What counts of a message."""
    return Said(message.from_id, message.seqno, len(message.data))


def framed(rpc: Any) -> bytes:
    data: bytes = rpc.SerializeToString()
    return negotiation.encode_varint(len(data)) + data


class GossipWire:
    """Puts itself in place of the parts of `Pubsub` and `GossipSub` that read and write."""

    def __init__(
        self, pubsub: Any, gossip: Any, gate: Gate, patience: Patience, rates: GossipRates
    ) -> None:
        self._pubsub, self._gossip, self._gate = pubsub, gossip, gate
        self._patience, self._rates = patience, rates
        self._send = gossip.send_rpc
        self._publish = gossip.publish
        self._last: tuple[Any, bytes] | None = None
        self._own_id = pubsub.my_id.to_bytes()
        pubsub.continuously_read_stream = self.read
        pubsub.handle_sending_messages = self.write
        pubsub.write_msg = self._queue
        gossip.send_rpc = self.send
        gossip.publish = self.publish
        gossip.send_recent_messages = self._catch_up

    # In

    async def read(self, stream: Any) -> None:
        """Until the stream ends. Raises what a frame makes go wrong; the gate is behind it."""
        raw, peer = stream.muxed_stream, stream.muxed_conn.peer_id
        buffer = FrameBuffer()
        self._greet_again(peer)
        try:
            while self._pubsub.manager.is_running:
                for frame in buffer.feed(await raw.read(READ_BYTES)):
                    await self._take(frame, peer)
        except FrameTooLargeError:
            await stream.reset()
            self._pubsub._handle_dead_peer(peer)  # noqa: SLF001 - as the library does
        except FloodError:
            self._gate.on_flood(str(peer))
        except MuxedStreamError:
            return  # the end of the stream, a reset, or of the connection

    def _greet_again(self, peer: Any) -> None:
        """Say once more what we listen to.

        Whoever opens another stream to us has lost the one before, and forgotten what we said.
        """
        queue = self._pubsub.peer_queues.get(peer)
        if queue is not None and self._pubsub.topic_ids:
            queue.push(framed(self._pubsub.get_hello_packet()))

    async def _take(self, frame: bytes, peer: Any) -> None:
        """Raises FloodError: that was too much of what is of no use."""
        try:
            fields = gossip_counts.check(frame)
            rpc = rpc_pb2.RPC.FromString(frame)
        except (gossip_counts.TooManyPartsError, DecodeError):
            self._gate.counts["gossip_refused"] += 1
            self._patience.bear(peer, LIMITS.gossip_refused_counts)
            await self._patience.pause(WORK_PER_CHECKPOINT)
            return
        await self._patience.pause(FRAME_WORK + fields + len(frame) // BYTES_PER_WORK)
        if not await self._accept(rpc, peer):
            return
        rpc.ClearField("senderRecord")  # or the router would ask again
        if not (rpc.publish or rpc.subscriptions or rpc.HasField("control")):
            self._patience.bear(peer)
        for message in rpc.publish:
            if self._pubsub._is_subscribed_to_msg(message):  # noqa: SLF001 - see compat
                await self._pubsub.push_msg(peer, message)
            else:
                self._patience.bear(peer)
            await self._patience.pause(MESSAGE_WORK)
        await self._subscribe(peer, rpc.subscriptions)
        if rpc.HasField("control"):
            await self._gossip.handle_rpc(rpc, peer)

    async def _accept(self, rpc: Any, peer: Any) -> bool:
        """Whether the sender's record is its own. One that it did not send last costs it."""
        records = self._pubsub.host.peer_records
        is_new = rpc.HasField("senderRecord") and not records.knows(rpc.senderRecord, peer)
        if is_new:
            self._patience.bear(peer, LIMITS.gossip_record_counts)
        accepted: bool = records.accept(rpc, peer)
        if is_new:
            await self._patience.pause(WORK_PER_CHECKPOINT)
        if not accepted:
            self._gate.counts["gossip_refused"] += 1
        return accepted

    async def _subscribe(self, peer: Any, said: Any) -> None:
        """Of each topic the last word: the library starts three tasks for every subscription."""
        if said:
            self._patience.bear(peer, len(said))
        for subscription in {each.topicid: each for each in said}.values():
            self._pubsub.handle_subscription(peer, subscription)
            await self._patience.pause(SUBSCRIPTION_WORK)

    # Out

    async def publish(self, forwarder: Any, message: Any) -> None:
        """Pass a verified message on to the mesh."""
        (topic,) = message.topicIDs
        if topic not in self._gossip.mesh:
            await self._publish(forwarder, message)  # to some that listen
            return
        self._gossip.mcache.put(message)
        rpc = rpc_pb2.RPC(publish=[message], senderRecord=self._pubsub.host.peer_records.own())
        origin = ID(message.from_id)
        for peer in self._gossip._get_peers_to_send([topic], forwarder, origin):  # noqa: SLF001 - see compat
            self.send(peer, rpc)

    def send(self, peer: Any, rpc: Any, priority: bool = False) -> None:  # noqa: FBT001, FBT002 - the library's signature
        """Queue a frame for a peer. Dropped if the queue is full: the next sync repairs it.

        So are messages that the peer would take for too many. What goes to nobody, as the peer's
        stream is not open yet, takes nothing from what it may be sent then.
        """
        if peer in self._pubsub.peer_queues and not self._is_held_back(peer, rpc):
            self._push(peer, rpc, priority=priority)

    def say_again(self, peer: Any, messages: Sequence[Any]) -> None:
        """To a peer that lacks them, in one frame: as many, from the first on, as it will take."""
        if peer not in self._pubsub.peer_queues:
            return
        count = self._rates.may_say_again(
            str(peer), [said(message) for message in messages], trio.current_time()
        )
        self._gate.counts["gossip_held_back"] += len(messages) - count
        if count:
            own = self._pubsub.host.peer_records.own()
            self._push(peer, rpc_pb2.RPC(publish=messages[:count], senderRecord=own))

    async def _catch_up(self, peer: Any, topic: str) -> None:
        """Tell somebody who has just subscribed what was said lately, the latest first."""
        cache, room, lately = self._gossip.mcache, LIMITS.gossip_wanted_bytes, list[Any]()
        for message_id in cache.window(topic)[: LIMITS.gossip_asked_max]:
            message = cache.get(message_id)
            room -= message.ByteSize()
            if room < 0:
                break
            lately.append(message)
        self.say_again(peer, lately)
        await trio.lowlevel.checkpoint()  # not before: what is said from now on goes to the mesh

    def _push(self, peer: Any, rpc: Any, *, priority: bool = False) -> None:
        queue = self._pubsub.peer_queues[peer]
        if self._last is None or self._last[0] is not rpc:
            self._last = (rpc, framed(rpc))  # the same for every peer it goes to
        data = self._last[1]
        if peer in self._gossip._pending_control or len(data) > queue.max_message_size:  # noqa: SLF001 - see compat
            self._send(peer, rpc, priority)  # adds what was dropped before, splits it
        elif not queue.push(data, priority=priority):
            self._gossip._handle_dropped_rpc(peer, rpc, "queue_full")  # noqa: SLF001 - as above

    def _is_held_back(self, peer: Any, rpc: Any) -> bool:
        """Whether it is a message that the peer would take for too much, alone in its frame."""
        now, held = trio.current_time(), 0
        for message in rpc.publish:
            own = message.from_id == self._own_id
            held += not self._rates.may_pass_on(str(peer), said(message), now, own=own)
        self._gate.counts["gossip_held_back"] += held
        return held > 0

    async def _queue(self, stream: Any, rpc: Any) -> bool:
        """For what the library would write past the queue: whether it is done with."""
        peer = stream.muxed_conn.peer_id
        queue = self._pubsub.peer_queues.get(peer)
        await trio.lowlevel.checkpoint()
        if self._is_held_back(peer, rpc):
            return True
        return queue is not None and queue.push(framed(rpc))

    async def write(self, peer: Any, stream: Any, queue: Any) -> None:
        """What is queued for a peer, until the queue is closed or the stream is gone."""
        # The library's takes 32 of any size: too few at once, and too much to keep.
        queue._queue = BoundedQueue(queue._queue)  # noqa: SLF001 - see compat
        try:
            while (first := await queue.pop()) is not None:
                await stream.muxed_stream.write(_joined(first, queue))
        except Exception:  # noqa: BLE001 - boundary: whatever it was, nobody writes to the peer now
            self._pubsub._handle_dead_peer(peer)  # noqa: SLF001 - as the library does


def _joined(first: Any, queue: Any) -> bytes:
    """This frame and those behind it; some entries are the library's, not bytes yet."""
    data = _as_bytes(first)
    if not len(queue):
        return data
    parts, size = [data], len(data)
    while size < WRITE_BYTES and len(queue):
        parts.append(_as_bytes(queue._queue.pop()))  # noqa: SLF001 - pop() would wait
        size += len(parts[-1])
    return b"".join(parts)


def _as_bytes(entry: Any) -> bytes:
    return entry if isinstance(entry, bytes) else framed(entry)
