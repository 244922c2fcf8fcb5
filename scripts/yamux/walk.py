"""Where in a script the listed differences show, by what is known of each stream at each frame."""

import bisect
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from scripts.yamux.conversations import WINDOW_BYTES, Act, Script

from aigrid.node.network.yamux_frames import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    HEADER,
    PING,
    RST,
    SYN,
    WINDOW_UPDATE,
)
from aigrid.protocol.limits import LIMITS


@dataclass(frozen=True, slots=True)
class Finding:
    """A difference that a script has: at the frame that starts at `offset`, of this stream."""

    name: str
    offset: int
    stream_id: int = 0


@dataclass(slots=True)
class _Stream:
    """What matters of a stream that is open on at least one side."""

    inbound: bool
    read: int = -1  # which brought its SYN
    received: int = 0
    finished: bool = False
    closed: bool = False
    window: int = WINDOW_BYTES
    waiting: int = 0  # of what was written
    allowed: bool = False  # that something waiting goes out, since the last act

    def write(self, size: int) -> None:
        self.waiting += 0 if self.closed else size
        self.use()

    def use(self) -> None:
        sent = min(self.waiting, self.window)
        self.allowed |= sent > 0
        self.waiting -= sent
        self.window -= sent


class _Walk:
    """The frames and acts of a script in their order, with what is known of each stream."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._bytes = script.bytes_in
        self._live: dict[int, _Stream] = {}
        self._known: set[int] = set()
        self._given_up: dict[int, int] = {}  # for data after FIN, and what had come
        self._late = 0  # bytes for streams that are over
        self._next_id = 3 - script.theirs
        sizes = (len(step) for step in script.steps if isinstance(step, bytes))
        self._reads = list(itertools.accumulate(sizes))
        self._span = (0, 0)  # the reads that bring the header of this frame, and its end

    def findings(self) -> Iterator[Finding]:
        """In order; ends where the connection does for us, or where nobody knows."""
        acts = self._acts()
        position = 0
        while True:
            body = position + HEADER.size
            while acts and acts[0][0] < body:
                yield from self._act(acts.pop(0)[1], position)
            if body > len(self._bytes):
                break
            version, kind, flags, stream_id, length = HEADER.unpack_from(self._bytes, position)
            end = body + (length if kind == DATA else 0)
            self._span = self._read_of(body), self._read_of(end)
            names = list(self._frame(version, kind, flags, stream_id, length))
            yield from (Finding(name, position, stream_id) for name in names)
            unfinished = end > len(self._bytes) or (acts and acts[0][0] < end)
            if unfinished:
                yield Finding("unfinished frame", position)
            if unfinished or _ENDING.intersection(names):
                return
            if kind == GO_AWAY:
                yield Finding("behind a go-away", end)
                return
            position = end

    def _acts(self) -> list[tuple[int, Act]]:
        acts: list[tuple[int, Act]] = []
        offset = 0
        for step in self._script.steps:
            if isinstance(step, Act):
                acts.append((offset, step))
            else:
                offset += len(step)
        return acts

    def _act(self, act: Act, offset: int) -> Iterator[Finding]:
        for stream in self._live.values():
            stream.allowed = False
        if act.verb == "open":
            self._live[self._next_id] = _Stream(inbound=False)
            self._known.add(self._next_id)
            self._next_id += 2
            return
        named = self._live.get(act.stream_id)
        if named is None:
            if act.stream_id in self._known and act.verb == "close":
                yield Finding("close after their reset", offset, act.stream_id)
        elif act.verb == "write":
            named.write(act.size)
            named.allowed = False
        elif act.verb == "reset":
            del self._live[act.stream_id]
            if not named.finished:
                yield Finding("reset here", offset, act.stream_id)
        else:
            if named.waiting:
                yield Finding("closed while a write waits", offset, act.stream_id)
            named.closed, named.waiting = True, 0
            self._settle(act.stream_id)

    def _read_of(self, end: int) -> int:
        """Which read brings the byte before `end`."""
        return bisect.bisect_left(self._reads, end)

    def _frame(
        self, version: int, kind: int, flags: int, stream_id: int, length: int
    ) -> Iterator[str]:
        if version != 0:
            yield "version"
        elif flags > SYN | ACK | FIN | RST:
            yield "unknown flags"
        elif kind > GO_AWAY:
            yield "unknown type"
        elif kind in {PING, GO_AWAY}:
            if stream_id:
                yield "session frame of a stream"
            if kind == PING and flags != SYN:
                yield "pong unasked for" if flags == ACK else "ping with other flags"
        elif kind == DATA and length > LIMITS.mux_window_bytes:
            yield "length"
        else:
            if flags & SYN:
                yield from self._syn(stream_id)
            elif stream_id == 0:
                yield "frame of stream 0"
            elif stream_id % 2 != self._script.theirs % 2 and stream_id >= self._next_id:
                yield "stream never opened"
            if kind == DATA and length and stream_id not in self._live:
                self._late += max(length, 64)
                if self._late > WINDOW_BYTES:
                    yield "late data"  # or not, where streams that are over had allowed more
            if kind == DATA and stream_id in self._given_up:
                self._given_up[stream_id] += length
                if self._given_up[stream_id] > WINDOW_BYTES:
                    yield "window overrun"  # for those who have not
            if stream_id in self._live:
                if kind == WINDOW_UPDATE:
                    yield from self._on_window(self._live[stream_id], length)
                yield from self._on_stream(stream_id, flags, length if kind == DATA else 0)

    def _on_window(self, stream: _Stream, more: int) -> Iterator[str]:
        stream.window += more
        if stream.waiting and stream.window <= HEADER.size:
            yield "a window of 12 bytes"
        stream.use()

    def _syn(self, stream_id: int) -> Iterator[str]:
        if stream_id == 0 or stream_id % 2 != self._script.theirs % 2:
            yield "opens a stream that is not its own"
        elif stream_id in self._live:
            yield "second SYN"
        elif sum(one.inbound for one in self._live.values()) >= LIMITS.mux_streams_max:
            yield "streams at once"
        else:
            self._live[stream_id] = _Stream(inbound=True, read=self._span[0])
            self._known.add(stream_id)

    def _on_stream(self, stream_id: int, flags: int, payload: int) -> Iterator[str]:
        stream = self._live[stream_id]
        stream.received += payload
        if stream.received > WINDOW_BYTES:
            yield "window overrun"  # or not, where the reader was quick
        if payload and stream.finished:
            yield "data after FIN"
            self._given_up[stream_id] = stream.received
            del self._live[stream_id]
            return
        if flags & ACK and not flags & SYN and flags & (FIN | RST):
            yield "ACK with an end"
        if flags & RST:
            if payload:
                yield "payload with RST"
            if stream.finished:
                yield "reset after FIN"
            if stream.allowed:
                yield "a window just before a reset"
            if stream.read == self._span[1]:
                yield "opened and reset in one read"
            if flags & FIN:
                yield "FIN and RST"
            del self._live[stream_id]
        elif flags & FIN:
            if payload and stream.closed:
                yield "payload with FIN, closed here"
            stream.finished = True
            self._settle(stream_id)

    def _settle(self, stream_id: int) -> None:
        stream = self._live[stream_id]
        if stream.finished and stream.closed:
            del self._live[stream_id]


_ENDING = frozenset(
    {
        "version",
        "unknown flags",
        "unknown type",
        "ping with other flags",
        "length",
        "frame of stream 0",
        "stream never opened",
        "opens a stream that is not its own",
        "second SYN",
        "streams at once",
        "window overrun",
        "late data",
    }
)


def findings(script: Script) -> list[Finding]:
    """Where `script` has what is done in different ways, in order."""
    return list(_Walk(script).findings())
