"""What the peer of a Yamux connection says: valid conversations, then mutated, from a seed alone.

A `Script` is what one end under test is put through: bytes that arrive, in whatever pieces, and
what its own application does in between. The same seed and number give the same script.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from aigrid.node.network import yamux_frames as frames

WINDOW_BYTES = frames.INITIAL_WINDOW_BYTES
FLAGS = (frames.SYN, frames.ACK, frames.FIN, frames.RST)


@dataclass(frozen=True, slots=True)
class Act:
    """What the application under test does: `open`; `close`, `reset` or `write` to this stream."""

    verb: str
    stream_id: int = 0
    size: int = 0


Step = bytes | Act


@dataclass(frozen=True, slots=True)
class Script:
    """`dialer`: whether the end under test dialed (so it opens odd streams, the peer even ones)."""

    dialer: bool
    steps: tuple[Step, ...]

    @property
    def theirs(self) -> int:
        """The first id of the peer's own streams."""
        return 2 if self.dialer else 1

    @property
    def bytes_in(self) -> bytes:
        return b"".join(step for step in self.steps if isinstance(step, bytes))

    def until(self, offset: int) -> "Script":
        """As it would be if the peer had stopped after `offset` bytes."""
        kept: list[Step] = []
        for step in self.steps:
            if isinstance(step, Act):
                kept.append(step)
                continue
            kept.append(step[:offset])
            if offset < len(step):
                break
            offset -= len(step)
        return Script(self.dialer, tuple(kept))


def header(kind: int, flags: int, stream_id: int, length: int, version: int = 0) -> bytes:
    return frames.HEADER.pack(version, kind, flags & 0xFFFF, stream_id, length & 0xFFFF_FFFF)


def data(stream_id: int, payload: bytes, flags: int = 0) -> bytes:
    return header(frames.DATA, flags, stream_id, len(payload)) + payload


def update(stream_id: int, increment: int = 0, flags: int = 0) -> bytes:
    return header(frames.WINDOW_UPDATE, flags, stream_id, increment)


def script(seed: int, number: int) -> Script:
    """The script of this number; about a third are valid conversations in odd pieces."""
    rng = random.Random(f"yamux {seed} {number}")
    dialer = rng.random() < 0.5
    steps = _conversation(rng, dialer=dialer)
    if rng.random() < 0.7:
        for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 5))):
            rng.choice(MUTATIONS)(rng, steps)
    if rng.random() < 0.15:
        _cut_short(rng, steps)
    return Script(dialer, tuple(_in_pieces(rng, steps)))


def _conversation(rng: random.Random, *, dialer: bool) -> list[Step]:
    """Several streams, each in order, side by side."""
    ours, theirs = (1, 2) if dialer else (2, 1)
    opened = rng.choice((0, 0, 1, 1, 2, 3))
    lanes = [_stream(rng, ours + 2 * i, ours=True) for i in range(opened)]
    lanes += [_stream(rng, theirs + 2 * i, ours=False) for i in range(rng.randrange(1, 6))]
    lanes.append([_session_frame(rng) for _ in range(rng.choice((0, 0, 1, 2, 4)))])
    steps: list[Step] = [Act("open") for _ in range(opened)]
    while lanes := [lane for lane in lanes if lane]:
        steps.append(rng.choice(lanes).pop(0))
    if rng.random() < 0.05:
        steps.append(header(frames.GO_AWAY, 0, 0, rng.choice((0, 1, 2, 77))))
    return steps


def _session_frame(rng: random.Random) -> bytes:
    return header(frames.PING, frames.SYN, 0, rng.getrandbits(32))


def _stream(rng: random.Random, stream_id: int, *, ours: bool) -> list[Step]:
    """What is said of one stream. `ours` was opened by the end under test."""
    lane: list[Step] = []
    first = frames.ACK if ours else frames.SYN
    if rng.random() < 0.7:
        lane.append(update(stream_id, rng.choice((0, 0, 1, WINDOW_BYTES)), first))
        first = 0
    for _ in range(rng.choice((0, 1, 1, 2, 3, 6))):
        if rng.random() < 0.2:
            lane.append(update(stream_id, rng.randrange(1, 100_000), first))
        else:
            lane.append(data(stream_id, rng.randbytes(_size(rng)), first))
        first = 0
    if not ours and rng.random() < 0.2:
        lane.insert(rng.randrange(1, len(lane) + 1), Act("close", stream_id)) if lane else None
    if lane and rng.random() < 0.25:
        at = rng.randrange(0 if ours else 1, len(lane) + 1)
        lane.insert(at, Act("write", stream_id, _written(rng)))
    end = rng.choice(("fin", "fin", "fin", "data fin", "rst", "open", "act"))
    if end == "fin":
        lane.append(update(stream_id, 0, first | frames.FIN))
    elif end == "data fin":
        lane.append(data(stream_id, rng.randbytes(_size(rng)), first | frames.FIN))
    elif end == "rst":
        lane.append(update(stream_id, 0, first | frames.RST))
    elif end == "act" and first != frames.SYN:
        lane.append(Act(rng.choice(("close", "reset")), stream_id))
        lane.append(data(stream_id, rng.randbytes(_size(rng))))
        lane.append(update(stream_id, 0, rng.choice((frames.FIN, frames.RST))))
    return lane


def _size(rng: random.Random) -> int:
    return rng.choice((0, 1, rng.randrange(40), rng.randrange(400), rng.randrange(9000)))


def _written(rng: random.Random) -> int:
    return rng.choice((1, rng.randrange(9000), WINDOW_BYTES, rng.randrange(2 * WINDOW_BYTES)))


# Mutations: each changes `steps` in place.


def _frame_at(rng: random.Random, steps: Sequence[Step]) -> int | None:
    at = [i for i, step in enumerate(steps) if isinstance(step, bytes) and len(step) >= 12]
    return rng.choice(at) if at else None


def _change_flags(rng: random.Random, steps: list[Step]) -> None:
    _change(rng, steps, flags=rng.choice((0, rng.choice(FLAGS), rng.randrange(16))))


def _toggle_flag(rng: random.Random, steps: list[Step]) -> None:
    _change(rng, steps, toggled=rng.choice(FLAGS))


def _change_id(rng: random.Random, steps: list[Step]) -> None:
    some = rng.choice((rng.randrange(12), rng.randrange(12), rng.getrandbits(32)))
    _change(rng, steps, stream_id=some)


def _change_length(rng: random.Random, steps: list[Step]) -> None:
    _change(rng, steps, more=rng.choice((-12, -1, 1, 12, rng.getrandbits(10), rng.getrandbits(32))))


def _change_kind(rng: random.Random, steps: list[Step]) -> None:
    _change(rng, steps, kind=rng.choice((0, 1, 2, 3, 4, rng.randrange(256))))


def _change_version(rng: random.Random, steps: list[Step]) -> None:
    _change(rng, steps, version=rng.randrange(256))


def _change(
    rng: random.Random,
    steps: list[Step],
    *,
    version: int | None = None,
    kind: int | None = None,
    flags: int | None = None,
    toggled: int = 0,
    stream_id: int | None = None,
    more: int = 0,
) -> None:
    at = _frame_at(rng, steps)
    if at is None:
        return
    frame = steps[at]
    assert isinstance(frame, bytes)
    was = frames.HEADER.unpack_from(frame)
    steps[at] = (
        header(
            was[1] if kind is None else kind,
            (was[2] if flags is None else flags) ^ toggled,
            was[3] if stream_id is None else stream_id,
            was[4] + more,
            was[0] if version is None else version,
        )
        + frame[12:]
    )


def _repeat(rng: random.Random, steps: list[Step]) -> None:
    at = _frame_at(rng, steps)
    if at is not None:
        steps.insert(rng.randrange(at, len(steps)) + 1, steps[at])


def _drop(rng: random.Random, steps: list[Step]) -> None:
    at = _frame_at(rng, steps)
    if at is not None:
        del steps[at]


def _move(rng: random.Random, steps: list[Step]) -> None:
    at = _frame_at(rng, steps)
    if at is not None:
        frame = steps.pop(at)
        steps.insert(rng.randrange(len(steps) + 1), frame)


def _known_id(rng: random.Random, steps: Sequence[Step]) -> int:
    at = _frame_at(rng, steps)
    if at is None:
        return 1
    frame = steps[at]
    assert isinstance(frame, bytes)
    return int(frames.HEADER.unpack_from(frame)[3])


def _insert(rng: random.Random, steps: list[Step], *new: Step) -> None:
    at = rng.randrange(len(steps) + 1)
    steps[at:at] = new


def _flag_again(rng: random.Random, steps: list[Step]) -> None:
    some, flag = _known_id(rng, steps), rng.choice(FLAGS)
    _insert(rng, steps, rng.choice((update(some, 0, flag), data(some, b"again", flag))))


def _speak_after_the_end(rng: random.Random, steps: list[Step]) -> None:
    some = _known_id(rng, steps)
    steps += [update(some, 0, rng.choice((frames.FIN, frames.RST))), data(some, b"late")]
    steps.append(rng.choice((update(some, 7), data(some, b""), update(some, 0, frames.FIN))))


def _reuse_id(rng: random.Random, steps: list[Step]) -> None:
    some = _known_id(rng, steps)
    steps.append(update(some, 0, frames.RST))
    steps += [update(some, 0, frames.SYN), data(some, b"second life")]


def _allow(rng: random.Random, steps: list[Step]) -> None:
    some = _known_id(rng, steps)
    _insert(rng, steps, *(update(some, rng.choice((1, 13, 70_000, 1 << 31))) for _ in range(2)))


def _overrun(rng: random.Random, steps: list[Step]) -> None:
    some, size = _known_id(rng, steps), rng.choice((WINDOW_BYTES // 4, WINDOW_BYTES + 1))
    _insert(rng, steps, *(data(some, bytes(size)) for _ in range(rng.randrange(1, 6))))


def _many_streams(rng: random.Random, steps: list[Step]) -> None:
    first, count = rng.choice((1, 2)) + 100, rng.choice((20, 20, 300))
    _insert(rng, steps, *(update(first + 2 * i, 0, frames.SYN) for i in range(count)))


def _ping(rng: random.Random, steps: list[Step]) -> None:
    flags = rng.choice((0, frames.SYN, frames.SYN, frames.ACK, frames.SYN | frames.ACK, 0x11))
    pings = [header(frames.PING, flags, 0, rng.choice((0, 1, 2, 99))) for _ in range(20)]
    _insert(rng, steps, *pings[: rng.choice((1, 1, 2, 20))])


def _go_away(rng: random.Random, steps: list[Step]) -> None:
    _insert(rng, steps, header(frames.GO_AWAY, 0, 0, rng.choice((0, 1, 2, rng.getrandbits(32)))))


def _garbage(rng: random.Random, steps: list[Step]) -> None:
    _insert(rng, steps, rng.randbytes(rng.randrange(1, 40)))


def _flip_bit(rng: random.Random, steps: list[Step]) -> None:
    at = _frame_at(rng, steps)
    if at is None:
        return
    frame = steps[at]
    assert isinstance(frame, bytes)
    flipped = bytearray(frame)
    flipped[rng.randrange(min(len(frame), 14))] ^= 1 << rng.randrange(8)
    steps[at] = bytes(flipped)


def _act(rng: random.Random, steps: list[Step]) -> None:
    verb = rng.choice(("open", "close", "close", "reset", "write"))
    _insert(rng, steps, Act(verb, _known_id(rng, steps), _written(rng)))


MUTATIONS = (
    _change_flags, _toggle_flag, _change_id, _change_length, _change_kind, _change_version,
    _repeat, _drop, _move, _flag_again, _flag_again, _speak_after_the_end, _reuse_id, _allow,
    _overrun,
    _many_streams, _ping, _go_away, _garbage, _flip_bit, _act, _act,
)  # fmt: skip


def _cut_short(rng: random.Random, steps: list[Step]) -> None:
    at = _frame_at(rng, steps)
    if at is not None:
        frame = steps[at]
        assert isinstance(frame, bytes)
        steps[at:] = [frame[: rng.randrange(1, len(frame))]]


def _in_pieces(rng: random.Random, steps: Sequence[Step]) -> Iterator[Step]:
    """The same, with the bytes between two acts cut at other places than the frames."""
    run = bytearray()
    for step in steps:
        if isinstance(step, bytes):
            run += step
            continue
        yield from _cut(rng, bytes(run))
        run.clear()
        yield step
    yield from _cut(rng, bytes(run))


def _cut(rng: random.Random, run: bytes) -> Iterator[bytes]:
    longest = rng.choice((3, 13, 100, 1000, 20_000, len(run) + 1))
    longest = max(longest, len(run) // 60)
    position = 0
    while position < len(run):
        size = rng.randrange(1, longest + 1) if longest <= len(run) else len(run)
        yield run[position : position + size]
        position += size
