"""Mutated frame sequences against the Yamux session, as fast as it takes them.

    python -m scripts.fuzz_yamux 1000000 --seed 7

Each execution feeds a fresh session a few frames, valid ones, edge cases and mutations among them,
cut anywhere, and does to its streams what an owner might. An execution fails if anything is raised,
if a bound is passed, or if another cutting of the same bytes gives other events. The same seed
makes the same executions. Among all other decoders it is the target `yamux-sessions` of
`scripts.fuzz`.
"""

import argparse
import random
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.fuzzing.asked import between

from aigrid.node.network import yamux_frames as frames
from aigrid.node.network.yamux_events import Event, Opened, Received, Violated
from aigrid.node.network.yamux_session import Session
from aigrid.protocol.limits import KIB, LIMITS, Limits

TIGHT = replace(
    LIMITS,
    mux_streams_max=3,
    mux_control_max_bytes=20 * frames.HEADER_BYTES,
    mux_provocations_max=8,
    mux_provocations_per_second=4.0,
    mux_memory_windows=2,
    mux_window_bytes=256 * KIB,
)
_EDGES = (0, 1, 2, 11, 12, 255, 256 * KIB, 256 * KIB + 1, 1 << 20, (1 << 31) - 1, (1 << 32) - 1)
_OPENINGS = (
    b"",
    frames.window_update(1, 0, frames.SYN),
    frames.window_update(1, 0, frames.SYN) + frames.window_update(3, 0, frames.SYN),
)
_PREPARED = 4096
_COMPARED_EACH = 8  # executions of which one is repeated with another cutting


@dataclass
class Tally:
    """What the executions came to."""

    executions: int = 0
    events: int = 0
    violations: int = 0
    seconds: float = 0.0


def prepare(rng: random.Random) -> list[bytes]:
    """Frames to draw from: most are valid, for a handful of streams so that they meet."""
    prepared = []
    for _ in range(_PREPARED):
        kind = rng.choice((0,) * 12 + (1,) * 8 + (2, 2, 2, 3))
        stream_id = rng.choice((1,) * 16 + (3,) * 8 + (2, 4, 5, 7))
        flags = rng.choice((0,) * 20 + (4, 4, 8, 8, 2, 12, 1, 5, 9, 13))
        if kind == frames.DATA:
            payload = rng.randbytes(rng.choice((0, 1, 3, 30, 200)))
            prepared.append(frames.HEADER.pack(0, 0, flags, stream_id, len(payload)) + payload)
        elif kind == frames.WINDOW_UPDATE:
            length = rng.choice(_EDGES) if rng.random() < 0.3 else 0
            prepared.append(frames.window_update(stream_id, length, flags))
        elif kind == frames.PING:
            prepared.append(frames.ping(rng.choice(_EDGES), rng.choice((1,) * 9 + (2, 2, 0, 3))))
        else:
            prepared.append(frames.go_away(rng.choice((0, 1, 2, 99))))
    for _ in range(_PREPARED // 64):
        wild = (rng.choice((0, 1)), rng.randrange(6), rng.choice((0, 1, 16, 0x8000, 0xFFFF)))
        prepared.append(frames.HEADER.pack(*wild, rng.choice(_EDGES), rng.choice(_EDGES)))
    opening = frames.window_update(1, 0, frames.SYN)
    for length in (256 * KIB, 256 * KIB + 1):  # a window filled, and one overrun
        body = frames.HEADER.pack(0, 0, 0, 1, length) + bytes(length)
        prepared.append(opening + body)
    return prepared


def sequence(rng: random.Random, prepared: Sequence[bytes]) -> bytes:
    """A few frames; half of the time some bytes are changed, lost or repeated."""
    data = b"".join((rng.choice(_OPENINGS), *rng.choices(prepared, k=1 + rng.getrandbits(3))))
    if rng.getrandbits(1):
        return data
    at = int(rng.random() * len(data))
    match rng.getrandbits(2):
        case 0:
            return data[:at] + rng.randbytes(1) + data[at + 1 :]
        case 1:
            return data[:at] + data[at + 1 + rng.getrandbits(3) :]
        case 2:
            return data[:at] + data[at // 2 :]
        case _:
            return data[:at]


def cut(rng: random.Random, data: bytes) -> list[bytes]:
    first, second = sorted((int(rng.random() * len(data)), int(rng.random() * len(data))))
    return [data[:first], data[first:second], data[second:]]


def feed(session: Session, pieces: Iterable[bytes]) -> list[Event]:
    events = [event for piece in pieces for event in session.receive(piece, 1.0)]
    while session.has_more:
        events += session.receive(b"", 1.0)
    return events


def normal(events: Iterable[Event]) -> list[Event]:
    """With the pieces of a stream that came one after the other put together."""
    out: list[Event] = []
    for event in events:
        last = out[-1] if out else None
        if (
            isinstance(event, Received)
            and isinstance(last, Received)
            and event.stream_id == last.stream_id
        ):
            out[-1] = Received(event.stream_id, last.data + event.data)
        else:
            out.append(event)
    return out


def use(rng: random.Random, session: Session, events: Iterable[Event]) -> None:
    """What an owner might do with the streams these events are about."""
    for event in events:
        if not isinstance(event, Opened | Received):
            continue
        stream = session.streams.get(event.stream_id)
        if stream is None:
            continue
        action = rng.getrandbits(3)
        if isinstance(event, Received) and action < 4:
            session.consumed(stream, len(event.data))
        elif action == 4:
            session.end(stream)
        elif action == 5:
            session.reset(stream)
        elif action == 6:
            session.discard(stream)
        else:
            session.send(stream, memoryview(b"answer"), 1000)


def check(session: Session, limits: Limits) -> None:
    """Raises AssertionError where a bound is passed or the books do not balance."""
    streams = session.streams.values()
    assert session.unread_bytes == sum(stream.unread_bytes for stream in streams)
    assert 0 <= session.unread_bytes <= session.memory_max_bytes
    assert all(stream.receive_credit >= 0 for stream in streams)
    assert sum(not stream.ours for stream in streams) <= limits.mux_streams_max
    sent = 0
    while session.unsent_bytes:
        message = session.next_message()
        assert 0 < len(message) <= frames.NOISE_MESSAGE_MAX_BYTES
        sent += len(message)
    assert sent <= limits.mux_control_max_bytes + (256 << 10)
    assert not session.next_message()


def judge(rng: random.Random, data: bytes, *, compare: bool, opens: bool) -> tuple[int, bool]:
    """How many events there were, and whether it ended in a violation.

    `opens`: the session is the one that opened the connection, and has a stream of its own; what
    is said to it is for the streams of the other then. `compare`: no owner does anything, and
    another cutting has to give the same.
    """
    limits = TIGHT if rng.getrandbits(1) else LIMITS
    session = _session(limits, opens=opens)
    if compare:
        whole = normal(feed(session, [data]))
        again = _session(limits, opens=opens)
        # A message of the link with nothing in it is no cut: it counts by itself, as a provocation.
        assert normal(feed(again, filter(None, cut(rng, data)))) == whole
        count = len(whole)
    else:
        session.open()
        count = 0
        for piece in cut(rng, data):
            events = session.receive(piece, 1.0)
            use(rng, session, events)
            count += len(events)
    check(session, limits)
    violated = session.violated is not None
    assert not violated or isinstance(session.violated, Violated)
    return count, violated


def _session(limits: Limits, *, opens: bool) -> Session:
    session = Session(is_initiator=opens, limits=limits)
    if opens:
        session.open()
    return session


def execute(rng: random.Random, prepared: Sequence[bytes], *, compare: bool) -> tuple[int, bool]:
    """How many events there were, and whether it ended in a violation."""
    return judge(rng, sequence(rng, prepared), compare=compare, opens=False)


def fuzz(executions: int, seed: int) -> Tally:
    rng = random.Random(seed)
    prepared = prepare(rng)
    tally = Tally()
    began = time.perf_counter()
    for number in range(executions):
        count, violated = execute(rng, prepared, compare=number % _COMPARED_EACH == 0)
        tally.executions += 1
        tally.events += count
        tally.violations += violated
    tally.seconds = time.perf_counter() - began
    return tally


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("executions", type=between(int, 1, 1 << 60))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    tally = fuzz(options.executions, options.seed)
    print(
        f"{tally.executions} executions in {tally.seconds:.1f} s"
        f" ({tally.executions / tally.seconds:.0f}/s): {tally.events} events,"
        f" {tally.violations} violations, nothing raised"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
