"""Where ends of Yamux do not agree: the closed list, and where in a script each shows.

Our muxer must do as stock py-libp2p 0.8.1 and @chainsafe/libp2p-yamux 8.0.1 do, but for these.
docs/data-path.md has the list for readers; a test holds the two equal, and another puts each
`example` through all three, so that no difference is listed which is none.
"""

import bisect
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from scripts.yamux.conversations import WINDOW_BYTES, Act, Script, data, header, update

from aigrid.node.network.yamux_frames import ACK, DATA, FIN, GO_AWAY, HEADER, PING, RST, SYN
from aigrid.protocol.limits import LIMITS

CONNECTION, STREAM = "connection", "stream"


@dataclass(frozen=True, slots=True)
class Difference:
    """One way in which an end does otherwise than ours.

    Attributes:
        sides: which ones: `stock`, `js`.
        reach: of the CONNECTION what comes behind it cannot be compared; of a STREAM, that stream.
        ours, theirs: what happens.
        why: why ours is right.
        example: a script that shows it.
    """

    sides: tuple[str, ...]
    reach: str
    ours: str
    theirs: str
    why: str
    example: Script


def _peer(*steps: bytes | Act) -> Script:
    return Script(dialer=False, steps=steps)


_OPEN = update(1, 0, SYN)
_SPEC = "The specification of Yamux says so."
_ENDS, _GOES_ON = "the connection ends", "it is taken, and the connection goes on"

DIFFERENCES = {
    "version": Difference(
        ("stock",), CONNECTION, _ENDS, "the version is not looked at", _SPEC,
        _peer(header(DATA, SYN, 1, 0, version=1)),
    ),
    "unknown type": Difference(
        ("stock",), CONNECTION, _ENDS, "the header is skipped",
        "Whether a body follows is not known, so everything behind it is guesswork.",
        _peer(header(4, 0, 0, 0)),
    ),
    "unknown flags": Difference(
        ("stock", "js"), CONNECTION, _ENDS, "the bits are not looked at",
        "Version 0 has four flags; what others would mean is not known.",
        _peer(update(1, 0, SYN | 0x10)),
    ),
    "session frame of a stream": Difference(
        ("js",), CONNECTION, "a ping or go-away counts whatever stream it names", _ENDS,
        "Harmless; a go-away ends the connection anyway.",
        _peer(header(PING, SYN, 1, 7)),
    ),
    "frame of stream 0": Difference(
        ("stock",), CONNECTION, _ENDS, "it is ignored", "0 is the session's own.",
        _peer(update(0, 5)),
    ),
    "stream never opened": Difference(
        ("stock", "js"), CONNECTION, "where the id is ours to give, the connection ends",
        "it is ignored", "A peer that answers what nobody said is broken.",
        _peer(update(8, 5)),
    ),
    "opens a stream that is not its own": Difference(
        ("stock",), CONNECTION, _ENDS, "it is accepted",
        "Ids of that parity, and 0, are not the peer's to give; one given by us later collides.",
        _peer(update(2, 0, SYN)),
    ),
    "second SYN": Difference(
        ("stock", "js"), CONNECTION, _ENDS,
        "stock sends RST, drops what the frame carries and goes on reading; js takes no notice",
        "Two streams of one id cannot be told apart; neither of the others' guesses is safe.",
        _peer(_OPEN, update(1, 0, SYN)),
    ),
    "streams at once": Difference(
        ("stock", "js"), CONNECTION, f"RST for each beyond {LIMITS.mux_streams_max}",
        "stock takes any number, js 1000", "A stream costs memory (`mux_streams_max`).",
        _peer(*(update(1 + 2 * i, 0, SYN) for i in range(LIMITS.mux_streams_max + 1))),
    ),
    "ping with other flags": Difference(
        ("stock",), CONNECTION, _ENDS, "with SYN it is answered, else ignored",
        "It is a question or an answer.",
        _peer(header(PING, SYN | ACK, 0, 7)),
    ),
    "pong unasked for": Difference(
        ("js",), CONNECTION, "it is ignored", _ENDS,
        "Harmless; a late answer to an old ping looks the same.",
        _peer(header(PING, ACK, 0, 7)),
    ),
    "behind a go-away": Difference(
        ("stock", "js"), CONNECTION, "of frames in the same read, data still reaches its stream",
        "stock reads no more; for js all of them count", "The connection is over either way.",
        _peer(_OPEN, header(GO_AWAY, 0, 0, 0) + data(1, b"late") + update(3, 0, SYN)),
    ),
    "length": Difference(
        ("stock", "js"), CONNECTION,
        f"a frame that declares more than {LIMITS.mux_window_bytes} bytes ends the connection",
        "stock allows 16 MiB; js waits for any length and keeps what comes",
        "No window is larger (`mux_window_bytes`), so it cannot be allowed.",
        _peer(_OPEN, header(DATA, 0, 1, LIMITS.mux_window_bytes + 1)),
    ),
    "window overrun": Difference(
        ("stock", "js"), CONNECTION, "more than the window allows ends the connection",
        "stock warns and keeps it; js renews the window on arrival, read or not",
        "The window is what bounds the memory that a peer can fill.",
        _peer(_OPEN, 2 * data(1, bytes(WINDOW_BYTES - 1))),
    ),
    "data after FIN": Difference(
        ("stock", "js"), STREAM, "the stream is reset",
        "stock gives it to a reader that has not seen the end; js takes one frame, then drops",
        "The peer said that nothing would come.",
        _peer(_OPEN, update(1, 0, FIN), data(1, b"a"), data(1, b"b")),
    ),
    "reset after FIN": Difference(
        ("stock", "js"), STREAM, "a reader that has not seen the end yet sees the reset",
        "the end, where frames are handled one by one", "Both came; either is true.",
        _peer(_OPEN + update(1, 0, FIN) + update(1, 0, RST)),
    ),
    "opened and reset in one read": Difference(
        ("stock", "js"), STREAM, "the application does not see the stream", "it sees the reset",
        "There is nothing to do for it.",
        _peer(_OPEN + update(1, 0, RST)),
    ),
    "unfinished frame": Difference(
        ("stock", "js"), CONNECTION, "a payload is passed on as it arrives, and SYN before it",
        "nothing happens until the frame is complete",
        "A token that has come is not held back for one that has not.",
        _peer(header(DATA, SYN, 1, 100) + b"half"),
    ),
    "ACK with an end": Difference(
        ("stock",), STREAM, "FIN and RST count", "beside ACK, FIN and RST are overlooked",
        "js-libp2p closes a stream that it never wrote to with ACK and FIN in one frame.",
        _peer(_OPEN, update(1, 0, ACK | FIN)),
    ),
    "payload with RST": Difference(
        ("js",), STREAM, "the payload is read, then the reset", "the payload is dropped",
        "It was sent before the reset.",
        _peer(_OPEN, data(1, b"last words", RST)),
    ),
    "payload with FIN, closed here": Difference(
        ("js",), STREAM, "the payload is read, then the end", "the payload is dropped",
        "Only our direction was closed; what the peer still says is wanted.",
        _peer(_OPEN, Act("close", 1), data(1, b"last words", FIN)),
    ),
    "FIN and RST": Difference(
        ("js",), STREAM, "a reset", "an end", "What breaks off is not taken for complete.",
        _peer(_OPEN, update(1, 0, FIN | RST)),
    ),
    "reset here": Difference(
        ("stock",), STREAM, "our own reset wakes our reader", "the reader sleeps on",
        "Whoever gives a stream up expects its tasks to end.",
        _peer(_OPEN, Act("reset", 1)),
    ),
    "close after their reset": Difference(
        ("stock",), STREAM, "nothing is sent", "FIN for a stream that is gone", "It is over.",
        _peer(_OPEN, update(1, 0, RST), Act("close", 1)),
    ),
}  # fmt: skip


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


class _Walk:
    """The frames and acts of a script in their order, with what is known of each stream."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._bytes = script.bytes_in
        self._live: dict[int, _Stream] = {}
        self._known: set[int] = set()
        self._given_up: dict[int, int] = {}  # for data after FIN, and what had come
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
        if act.verb == "open":
            self._live[self._next_id] = _Stream(inbound=False)
            self._known.add(self._next_id)
            self._next_id += 2
            return
        stream = self._live.get(act.stream_id)
        if stream is None:
            if act.stream_id in self._known and act.verb == "close":
                yield Finding("close after their reset", offset, act.stream_id)
        elif act.verb == "reset":
            del self._live[act.stream_id]
            if not stream.finished:
                yield Finding("reset here", offset, act.stream_id)
        else:
            stream.closed = True
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
            if kind == DATA and stream_id in self._given_up:
                self._given_up[stream_id] += length
                if self._given_up[stream_id] > WINDOW_BYTES:
                    yield "window overrun"  # for those who have not
            if stream_id in self._live:
                yield from self._on_stream(stream_id, flags, length if kind == DATA else 0)

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
    }
)


def table() -> str:
    """The list for docs/data-path.md."""
    rows = ["| | ours | | theirs | why |", "|---|---|---|---|---|"]
    for name, one in DIFFERENCES.items():
        rows.append(f"| {name} | {one.ours} | {', '.join(one.sides)} | {one.theirs} | {one.why} |")
    return "\n".join(rows) + "\n"


def findings(script: Script) -> list[Finding]:
    """Where `script` has what is done in different ways, in order."""
    return list(_Walk(script).findings())


if __name__ == "__main__":
    print(table(), end="")
