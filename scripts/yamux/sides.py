"""Our muxer and stock py-libp2p's, each put through a script over a connection in memory.

Time is a `trio.testing.MockClock` that stands still, but for stock's writers, who poll. So no
keep-alive interferes.
"""

import base64
import hashlib
import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import trio
import trio.testing
from libp2p.stream_muxer.exceptions import MuxedStreamEOF, MuxedStreamError, MuxedStreamReset
from libp2p.stream_muxer.yamux.yamux import Yamux
from scripts.yamux.conversations import Act, Script

from aigrid.node.network import yamux_frames as frames
from aigrid.node.network.muxed_stream import ConnectionLostError
from aigrid.node.network.muxer import Muxer

POLL_SECONDS = 0.02  # longer than stock's writers sleep before they look at the window again
CUSHION_SECONDS = 1e-5  # after everybody who waits likewise without one


@dataclass(frozen=True, slots=True)
class StreamSeen:
    """A stream as the application saw it.

    `end`: how reading ended: `fin`, `reset` (either side's), `lost` with the connection, or `open`.
    """

    ours: bool
    received: int
    digest: str
    end: str


@dataclass(frozen=True, slots=True)
class Observed:
    """What a script came to.

    Attributes:
        ended: whether the connection did.
        streams: by `ID.N`, the Nth of that id.
        pongs: the values answered, in order.
        finished, reset: ids for which the end under test sent FIN and RST.
        went_away: codes of the go-aways it sent.
        written: bytes of data that it sent, by id.
    """

    ended: bool
    streams: dict[str, StreamSeen]
    pongs: tuple[int, ...] = ()
    finished: frozenset[int] = frozenset()
    reset: frozenset[int] = frozenset()
    went_away: tuple[int, ...] = ()
    written: Mapping[int, int] = field(default_factory=dict)


def observed(streams: dict[str, StreamSeen], sent: bytes, *, ended: bool) -> Observed:
    """With what was sent taken apart."""
    pongs: list[int] = []
    went_away: list[int] = []
    finished: set[int] = set()
    reset: set[int] = set()
    written: Counter[int] = Counter()
    position = 0
    while position + frames.HEADER.size <= len(sent):
        _, kind, flags, stream_id, length = frames.HEADER.unpack_from(sent, position)
        position += frames.HEADER.size + (length if kind == frames.DATA else 0)
        if kind == frames.PING and flags & frames.ACK:
            pongs.append(length)
        elif kind == frames.GO_AWAY:
            went_away.append(length)
        elif kind != frames.PING:
            finished |= {stream_id} if flags & frames.FIN else set()
            reset |= {stream_id} if flags & frames.RST else set()
            written[stream_id] += length if kind == frames.DATA else 0
    return Observed(
        ended,
        streams,
        tuple(pongs),
        frozenset(finished),
        frozenset(reset),
        tuple(went_away),
        {stream_id: count for stream_id, count in written.items() if count},
    )


def from_json(said: Mapping[str, Any]) -> Observed:
    """What `js_side.mjs` answers."""
    if "failed" in said:
        raise RuntimeError(said["failed"])
    streams = {
        one["key"]: StreamSeen(one["ours"], one["received"], one["digest"], one["end"])
        for one in said["streams"]
    }
    return observed(streams, base64.b64decode(said["sent"]), ended=said["ended"])


class Link:
    """A secured connection whose other end is the script.

    `slow`: before a read, everybody else is waited for. The library's readers would else see what
    a frame did only after the frames behind it, and which they see first would be chance.
    """

    def __init__(self, *, is_initiator: bool, slow: bool) -> None:
        self.is_initiator = is_initiator
        self.sent = bytearray()
        self._slow = slow
        self._arrived: deque[bytes] = deque()
        self._event = trio.Event()
        self._closed = False

    def feed(self, data: bytes) -> None:
        if self._slow and self._arrived:  # its reads ask for a number of bytes: no pieces
            data = self._arrived.pop() + data
        self._arrived.append(data)
        self._event.set()

    async def read(self, n: int | None = None) -> bytes:
        if self._slow:
            await trio.testing.wait_all_tasks_blocked()
        else:
            await trio.lowlevel.checkpoint()
        while not self._arrived and not self._closed:
            self._event = trio.Event()
            await self._event.wait()
        if self._closed:
            raise ConnectionError("closed")
        data = self._arrived.popleft()
        if n is not None and len(data) > n:
            self._arrived.appendleft(data[n:])
            data = data[:n]
        return data

    async def write(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        if self._closed:
            raise ConnectionError("closed")
        self.sent += data

    async def close(self) -> None:
        await trio.lowlevel.checkpoint()
        self._closed = True
        self._event.set()

    def get_remote_address(self) -> tuple[str, int]:
        return ("127.0.0.1", 1)

    def get_transport_addresses(self) -> list[Any]:
        return []

    def get_connection_type(self) -> None:
        return None


@dataclass
class _Reader:
    stream: Any
    ours: bool
    digest: Any = field(default_factory=hashlib.sha256)
    received: int = 0
    end: str = "open"

    def seen(self) -> StreamSeen:
        return StreamSeen(self.ours, self.received, self.digest.hexdigest()[:16], self.end)


class _Side:
    """A muxer, and an application that reads all that comes."""

    def __init__(self, muxer: Any, link: Link, nursery: trio.Nursery) -> None:
        self._muxer, self._link, self._nursery = muxer, link, nursery
        self._readers: dict[str, _Reader] = {}
        self._times: Counter[int] = Counter()
        self._writing = 0

    @property
    def ended(self) -> bool:
        return bool(self._muxer.event_shutting_down.is_set())

    async def run(self, script: Script) -> Observed:
        self._nursery.start_soon(self._muxer.start)
        await self._muxer.event_started.wait()
        self._nursery.start_soon(self._accept)
        for step in script.steps:
            if isinstance(step, bytes):
                self._link.feed(step)
            else:
                await self._settle()
                await self._act(step)
                await self._settle()
        await self._settle()
        streams = {key: reader.seen() for key, reader in self._readers.items()}
        return observed(streams, bytes(self._link.sent), ended=self.ended)

    async def _act(self, act: Act) -> None:
        if self.ended:
            return
        if act.verb == "open":
            self._watch(await self._muxer.open_stream(), ours=True)
            return
        times = self._times[act.stream_id]
        reader = self._readers.get(f"{act.stream_id}.{times}")
        if reader is None:
            return
        if act.verb == "write":
            self._nursery.start_soon(self._write, reader.stream, bytes(act.size))
        else:
            await (reader.stream.close() if act.verb == "close" else reader.stream.reset())

    async def _settle(self) -> None:
        await trio.testing.wait_all_tasks_blocked(CUSHION_SECONDS)
        if self._writing and isinstance(self._muxer, Yamux):
            clock = trio.lowlevel.current_clock()
            assert isinstance(clock, trio.testing.MockClock)
            clock.jump(POLL_SECONDS)
            await trio.testing.wait_all_tasks_blocked(CUSHION_SECONDS)

    async def _write(self, stream: Any, data: bytes) -> None:
        self._writing += 1
        try:
            await stream.write(data)
        except (MuxedStreamError, ConnectionError):
            pass  # what arrives is what counts
        finally:
            self._writing -= 1

    async def _accept(self) -> None:
        while True:
            try:
                stream = await self._muxer.accept_stream()
            except Exception:  # noqa: BLE001 - each end has its own way to say that it is over
                return
            self._watch(stream, ours=False)

    def _watch(self, stream: Any, *, ours: bool) -> None:
        self._times[stream.stream_id] += 1
        reader = _Reader(stream, ours)
        self._readers[f"{stream.stream_id}.{self._times[stream.stream_id]}"] = reader
        self._nursery.start_soon(self._read, reader)

    async def _read(self, reader: _Reader) -> None:
        try:
            while True:
                data = await reader.stream.read()
                reader.digest.update(data)
                reader.received += len(data)
        except MuxedStreamError as error:
            reader.end = self._end(error)

    def _end(self, error: MuxedStreamError) -> str:
        if isinstance(error, ConnectionLostError):
            return "lost"
        if isinstance(self._muxer, Yamux) and self.ended:
            return "lost"  # the library says end or reset (T4); it was neither before the link went
        return {MuxedStreamEOF: "fin", MuxedStreamReset: "reset"}[type(error)]


async def _through(build: Callable[[Link], Any], link: Link, script: Script) -> Observed:
    async with trio.open_nursery() as nursery:
        result = await _Side(build(link), link, nursery).run(script)
        nursery.cancel_scope.cancel()
    return result


async def ours(script: Script) -> Observed:
    link = Link(is_initiator=script.dialer, slow=False)
    return await _through(lambda link: Muxer(link, "peer"), link, script)


async def stock(script: Script) -> Observed:
    link = Link(is_initiator=script.dialer, slow=True)
    return await _through(lambda link: Yamux(link, "peer"), link, script)


SIDES: Mapping[str, Callable[[Script], Awaitable[Observed]]] = {"ours": ours, "stock": stock}


def put_through(names: Iterable[str], script: Script) -> dict[str, Observed]:
    """Run a script on these sides, with the library's log silent."""
    log = logging.getLogger("libp2p.stream_muxer.yamux.yamux")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)

    async def all_of_them() -> dict[str, Observed]:
        return {name: await SIDES[name](script) for name in names}

    try:
        return trio.run(all_of_them, clock=trio.testing.MockClock())
    finally:
        log.setLevel(level)
