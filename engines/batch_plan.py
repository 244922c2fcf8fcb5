"""What a batch computes next, and in which rows; pure functions over small data."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from aigrid.engines.prefix import reusable


@dataclass(frozen=True, slots=True)
class Held:
    """What a row of keys and values holds.

    Attributes:
        kept: tokens that a new sequence may begin with, whole chunks of them.
        free: whether no sequence runs in it.
        used: when it was last given to a sequence; larger is later.
    """

    kept: Sequence[int]
    free: bool
    used: int


def best_row(rows: Sequence[Held], tokens: Sequence[int], chunk: int) -> tuple[int, int] | None:
    """The free row for a new sequence, and how many of its tokens are there; None if all run.

    A conversation that goes on finds the row with its beginning. Of equals it is the one unused
    for longest, so that what others may go on with is kept for as long as possible.
    """
    free = [row for row, held in enumerate(rows) if held.free]
    if not free:
        return None
    known = {row: reusable(rows[row].kept, tokens, chunk) for row in free}
    row = min(free, key=lambda row: (-known[row], rows[row].used))
    return row, known[row]


def next_run(
    waiting: Sequence[bool], *, expected: bool, after_chunk: bool
) -> tuple[int, ...] | None:
    """Which of those that wait are computed next, as indices; None to wait for others.

    Steps of one token are computed together; a chunk of a prompt only by itself. They take turns:
    between two tokens of a sequence at most one chunk is computed, however many prompts wait, and
    the prompts share those turns one chunk each. So a long prompt makes the others slower, and
    never silent for longer than one chunk takes.

    Args:
        waiting: in order of arrival: whether it is a chunk.
        expected: whether a sequence is about to ask for its next token.
        after_chunk: whether the last run was a chunk.
    """
    chunks = [n for n, is_chunk in enumerate(waiting) if is_chunk]
    tokens = [n for n, is_chunk in enumerate(waiting) if not is_chunk]
    if chunks and not (after_chunk and (tokens or expected)):
        return (chunks[0],)
    # Too early, those expected would miss this step and have one for themselves.
    return tuple(tokens) if tokens and not expected else None


@dataclass(frozen=True, slots=True)
class Layout:
    """Rows to exchange, in order, and then the spans (first, count) to compute."""

    swaps: tuple[tuple[int, int], ...]
    spans: tuple[tuple[int, int], ...]


def side_by_side(wanted: Collection[int], fixed: Collection[int], rows: int) -> Layout:
    """Bring rows next to each other, for the runtime computes only neighbours in one go.

    Args:
        wanted: the rows to compute.
        fixed: others that must stay where they are.
        rows: how many there are.
    """
    count = len(wanted)
    chosen: tuple[set[int], set[int]] | None = None
    for first in range(rows - count + 1):
        window = set(range(first, first + count))
        holes = window.difference(wanted)
        if not holes.intersection(fixed) and (chosen is None or len(holes) < len(chosen[1])):
            chosen = window, holes
    if chosen is None:
        return Layout((), _spans(sorted(wanted)))
    window, holes = chosen
    outside = sorted(set(wanted) - window)
    return Layout(tuple(zip(outside, sorted(holes), strict=True)), ((min(window), count),))


def _spans(rows: Sequence[int]) -> tuple[tuple[int, int], ...]:
    spans: list[tuple[int, int]] = []
    for row in rows:
        if spans and row == sum(spans[-1]):
            spans[-1] = (spans[-1][0], spans[-1][1] + 1)
        else:
            spans.append((row, 1))
    return tuple(spans)
