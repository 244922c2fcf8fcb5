"""Where ends of Yamux do not agree: the closed list.

Our muxer must do as stock py-libp2p 0.8.1 and @chainsafe/libp2p-yamux 8.0.1 do, but for these.
docs/data-path.md has the list for readers; a test holds the two equal, and another puts each
`example` through all three, so that no difference is listed which is none.
"""

from dataclasses import dataclass

from scripts.yamux.conversations import WINDOW_BYTES, Act, Script, data, header, update

from aigrid.node.network.yamux_frames import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    PING,
    RST,
    SYN,
)
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
        example: a script that shows it; `by_chance`, not each time.
    """

    sides: tuple[str, ...]
    reach: str
    ours: str
    theirs: str
    why: str
    example: Script
    by_chance: bool = False


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
        ("js",), CONNECTION, "it is ignored, unless they come without end", _ENDS,
        "A late answer to an old ping looks the same.",
        _peer(header(PING, ACK, 0, 7)),
    ),
    "behind a go-away": Difference(
        ("js",), CONNECTION, "nothing is looked at, however it was cut",
        "in the same read all of it counts",
        "The session is terminated; what comes of it must not hang on how TCP cuts it.",
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
    "late data": Difference(
        ("stock", "js"), CONNECTION,
        "for streams that are over, a window more than these still allowed ends the connection",
        "it is ignored, however much it is", "It is read and deciphered at the cost of others.",
        _peer(*(data(1, bytes(WINDOW_BYTES)),) * 3),
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
    "closed while a write waits": Difference(
        ("js",), STREAM, "the write fails, and the end is sent at once",
        "js sends the end when the window has let the rest through",
        "Who closes while another task writes breaks off.",
        _peer(_OPEN, Act("write", 1, WINDOW_BYTES + 1), Act("close", 1), update(1, 99)),
    ),
    "a window of 12 bytes": Difference(
        ("js",), STREAM, "any window is used", "a window of up to 12 bytes is left unused",
        "The specification counts payload, not headers.",
        _peer(_OPEN, Act("write", 1, WINDOW_BYTES + 1), update(1, 1)),
    ),
    "a window just before a reset": Difference(
        ("stock", "js"), STREAM, "a waiting write uses it, where its task runs in between",
        "stock's writes look at it every 10 ms; js uses it, unless both came in one read",
        "After the reset nobody misses the bytes.",
        _peer(_OPEN, Act("write", 1, WINDOW_BYTES + 99), update(1, 99), update(1, 0, RST)),
        by_chance=True,
    ),
    "close after their reset": Difference(
        ("stock",), STREAM, "nothing is sent", "FIN for a stream that is gone", "It is over.",
        _peer(_OPEN, update(1, 0, RST), Act("close", 1)),
    ),
}  # fmt: skip


def table() -> str:
    """The list for docs/data-path.md."""
    rows = ["| | ours | | theirs | why |", "|---|---|---|---|---|"]
    for name, one in DIFFERENCES.items():
        rows.append(f"| {name} | {one.ours} | {', '.join(one.sides)} | {one.theirs} | {one.why} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    print(table(), end="")
