"""Sequences that share a batch get what each would have got alone."""

import gc
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engines.batch_doubles import (
    FAILS,
    NO_NUMBER,
    POSITIONS,
    FakeRows,
    Request,
    likeliest,
)

from aigrid.engines.batch_rows import BatchRows
from aigrid.engines.batched_sequence import BatchedSequence
from aigrid.engines.batching import Batch
from aigrid.protocol.errors import Code, EngineError

CHUNK = 4
FOREVER = 20.0


@dataclass
class Script:
    """One request: after `steps` tokens it ends; `forced` is then appended, and does harm."""

    prompt: list[int]
    steps: int
    forced: int | None = None
    request: Request = field(default_factory=Request)
    said: list[int] = field(default_factory=list)
    end: str = ""
    why: BaseException | None = None

    def play(self, batch: Batch[Request]) -> None:
        sequence = BatchedSequence(batch)
        try:
            self.end = self._play(sequence)
        except EngineError as error:
            self.end, self.why = error.code, error.__cause__ or error
        finally:
            sequence.leave()

    def _play(self, sequence: BatchedSequence[Request]) -> str:
        if not all(sequence.prefill(self.prompt, self.request)):
            return "cancelled"
        for _ in range(self.steps):
            self.said.append(int(sequence.logits.argmax()))
            if not sequence.step(self.said[-1:], self.request):
                return "cancelled"
        if self.forced is not None:
            sequence.step([self.forced], self.request)
        return "done"

    def alone(self) -> list[int]:
        """What it says with nobody beside it."""
        said: list[int] = []
        for _ in range(self.steps):
            said.append(likeliest([*self.prompt, *said]))
        return said


def batch_of(
    rows: FakeRows, *, gather_seconds: float = FOREVER, reuse: bool = True
) -> Batch[Request]:
    return Batch(
        rows,
        Request(),
        rows=len(rows.logits),
        chunk=CHUNK,
        room=rows.room,
        reuse=reuse,
        gather_seconds=gather_seconds,
    )


def play(scripts: Sequence[Script], batch: Batch[Request]) -> None:
    threads = [threading.Thread(target=script.play, args=(batch,)) for script in scripts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(FOREVER)
        assert not thread.is_alive(), "it hangs"


# Few tokens, so that many a prompt begins as another did.
SCRIPTS = st.builds(
    Script,
    st.lists(st.integers(0, 1), min_size=1, max_size=13),
    st.integers(0, 9),
    st.sampled_from([None, None, None, FAILS, NO_NUMBER]),
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(SCRIPTS, min_size=1, max_size=7),
    st.dictionaries(st.integers(1, 40), st.integers(0, 6), max_size=3),
    st.sampled_from([0.0, FOREVER]),
    st.booleans(),
    st.sampled_from([24, 40, 0]),
)
def test_each_says_what_it_would_have_said_alone(
    scripts: list[Script], cancels: dict[int, int], gather_seconds: float, reuse: bool, room: int
) -> None:
    def between(run: int) -> None:
        if (number := cancels.get(run, len(scripts))) < len(scripts):
            cancelled.add(number)
            scripts[number].request.cancel()

    cancelled: set[int] = set()
    rows = FakeRows(4, between, room=room)
    batch = batch_of(rows, gather_seconds=gather_seconds, reuse=reuse)
    play(scripts, batch)
    for number, script in enumerate(scripts):
        expected = script.alone()
        if script.end == "cancelled":
            assert number in cancelled
            assert script.said == expected[: len(script.said)]
            continue
        assert script.said == expected, script.why
        codes = {None: "done", FAILS: Code.OUT_OF_MEMORY, NO_NUMBER: Code.ENGINE_FAILED}
        assert script.end in {codes[script.forced], "done" if number in cancelled else ""} | {
            codes[script.forced]
        }
    # And whoever comes next finds nothing amiss.
    after = Script([0, 1, 0, 1, 0, 1], 5)
    play([after], batch)
    assert (after.said, after.end) == (after.alone(), "done")


def play_at_once(scripts: Sequence[Script]) -> list[list[list[int]]]:
    """The runs, where all the others ask while the first chunk of the first is computed."""

    def between(run: int) -> None:
        if run == 1:
            others.start()
            while len(batch._waiting) < len(scripts) - 1:
                time.sleep(0)

    rows = FakeRows(len(scripts), between)
    batch = batch_of(rows)
    others = threading.Thread(target=play, args=(scripts[1:], batch))
    play(scripts[:1], batch)
    others.join(FOREVER)
    return rows.runs


def test_sequences_join_and_leave_between_steps() -> None:
    runs = play_at_once([Script([n], 10) for n in range(4)])
    # A prompt, a step, and so on until all have begun; and the last to come is the last to go.
    assert [len(run) for run in runs] == [1, 1, 1, 2, 1, 3, 1, 4, *[4] * 6, 3, 2, 1]


def test_a_long_prompt_holds_up_the_others_by_one_chunk_at_a_time() -> None:
    runs = play_at_once([Script([0], 12), Script([1] * 40, 0)])
    assert [len(run[0]) for run in runs] == [1, *[1, CHUNK] * 10, 1, 1]


def test_a_cancelled_sequence_leaves_while_it_waits_for_its_turn() -> None:
    waits, other = Request(), Request()

    def between(run: int) -> None:
        if run == 2:
            threading.Thread(target=ask).start()
            started.wait(FOREVER)
            waits.cancel()
            assert left.wait(FOREVER), "it waits for the others' step"

    def ask() -> None:
        sequence = BatchedSequence(batch)
        started.set()
        assert not all(sequence.prefill([5, 6], waits))
        left.set()

    started, left = threading.Event(), threading.Event()
    batch = batch_of(FakeRows(2, between))
    sequence = BatchedSequence(batch)
    assert all(sequence.prefill([1], other))
    assert sequence.step([2], other)
    assert left.is_set()


def test_nobody_waits_long_for_one_whose_reader_is_slow() -> None:
    rows = FakeRows(3)
    batch = batch_of(rows, gather_seconds=0.0)
    slow, quick, request = BatchedSequence(batch), BatchedSequence(batch), Request()
    assert all(slow.prefill([1], request))
    first = slow.logits.copy()
    assert all(quick.prefill([2], request))
    for token in (3, 4, 5):
        assert quick.step([token], request)
    assert (slow.logits == first).all()  # its logits are where they were when it comes back
    assert slow.step([7], request)
    assert int(slow.logits.argmax()) == likeliest([1, 7])


def test_more_sequences_than_rows_wait_for_one() -> None:
    scripts = [Script([n % 2, n], 3) for n in range(9)]
    play(scripts, batch_of(FakeRows(2)))
    assert all((script.said, script.end) == (script.alone(), "done") for script in scripts)


def test_one_that_waits_for_a_row_can_be_cancelled() -> None:
    batch, request = batch_of(FakeRows(1)), Request()
    holder, waits = BatchedSequence(batch), BatchedSequence(batch)
    assert all(holder.prefill([1], Request()))
    asking = threading.Thread(target=lambda: ends.append(list(waits.prefill([2], request))))
    ends: list[list[bool]] = []
    asking.start()
    request.cancel()
    asking.join(FOREVER)
    assert ends == [[False]]


def test_an_abandoned_sequence_may_end_in_the_middle_of_another() -> None:
    batch = batch_of(FakeRows(1))

    def answer() -> Iterator[None]:
        sequence = BatchedSequence(batch)
        try:
            assert all(sequence.prefill([1], Request()))
            yield
        finally:
            sequence.leave()

    def abandon() -> None:
        held: list[object] = [answer()]
        next(held[0])  # type: ignore[call-overload]
        held.append(held)  # only the collector finds it

    def collect() -> None:
        abandon()
        with batch._lock:
            gc.collect()

    collecting = threading.Thread(target=collect, daemon=True)
    collecting.start()
    collecting.join(FOREVER)
    assert not collecting.is_alive()
    following = Script([2], 3)
    play([following], batch)
    assert following.end == "done"


def test_what_is_not_begun_cannot_go_on() -> None:
    with pytest.raises(EngineError, match="begins with a prompt"):
        BatchedSequence(batch_of(FakeRows(1))).step([1], Request())


def test_a_conversation_goes_on_in_its_row_beside_another() -> None:
    rows = FakeRows(2)
    batch = batch_of(rows)
    first, other = Script([1] * 8, 2), Script([0] * 8, 2)
    for script in (first, other):
        script.play(batch)
    rows.runs.clear()
    again = Script([1] * 8 + [0, 0], 1)
    again.play(batch)
    assert rows.runs[0] == [[0, 0]]
    assert again.said == again.alone()


def test_where_memory_runs_out_the_youngest_stands_aside_and_computes_again_what_it_had() -> None:
    scripts = [Script([n] * 6, 12) for n in range(3)]
    rows = FakeRows(3, room=30)
    play(scripts, batch_of(rows))
    assert [script.said for script in scripts] == [script.alone() for script in scripts]


def test_what_idle_rows_keep_goes_before_anybody_stands_aside() -> None:
    rows = FakeRows(3, room=24)
    batch = batch_of(rows)
    for n in range(3):
        Script([n] * 8, 0).play(batch)
    rows.runs.clear()
    last = Script([5] * 12, 4)
    last.play(batch)
    assert [len(run[0]) for run in rows.runs] == [CHUNK] * 3 + [1] * 4
    assert last.said == last.alone()


def test_rows_that_cannot_be_exchanged_are_computed_where_they_lie() -> None:
    class Full(FakeRows):
        def swap(self, one: int, other: int, positions: int) -> None:
            raise MemoryError

    spans = []
    for computer in (FakeRows(3), Full(3)):
        rows = BatchRows[int](computer, 3, chunk=CHUNK, room=3 * POSITIONS, reuse=False)
        given_rows = [rows.give(n, [1]) for n in range(3)]
        first, last = given_rows[0], given_rows[2]
        assert first is not None
        assert last is not None
        found = rows.arrange([first, last], [])
        spans.append([(at, [row.sequence for row in those]) for at, those in found])
    together, apart = spans
    assert [len(those) for _, those in together] == [2]
    assert apart == [(0, [0]), (2, [2])]
