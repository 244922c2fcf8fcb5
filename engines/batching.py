"""Continuous batching: sequences that are answered at once share each step of the decoder.

A sequence is driven by its request's own thread, as if it had the decoder for itself. What it wants
computed is put before the others, and one of the waiting threads computes for all: a sequence that
is alone is computed by its own thread, with nobody to hand over to. Sequences join and leave
between two steps. What is computed next, and how long a prompt can hold up the others, is said in
`batch_plan.next_run`.

Rows have more positions than there is memory for at once. Where that runs out, first what idle rows
keep is let go, and then the sequence that began last stands aside: it loses its keys and values,
and computes them again, as they were, once others have left. The oldest always goes on.

Sequences do not touch each other. One that is cancelled leaves at the end of the step, and a run of
its own ends at once. A step of several that fails is repeated one by one, so that only those fail
that fail by themselves.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from aigrid.engines.batch_plan import Held, best_row, next_run, side_by_side
from aigrid.engines.sampling import Logits, all_finite
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.limits import LIMITS


class Cancellable(Protocol):
    """A request, as far as the batch has to know."""

    @property
    def cancelled(self) -> bool: ...

    def on_cancel(self, hook: Callable[[], object]) -> None:
        """Call `hook` from the cancelling thread."""

    def advance(self) -> None:
        """Say that the work goes on, of which this request has no result yet."""


R = TypeVar("R", bound=Cancellable)
R_contra = TypeVar("R_contra", contravariant=True)


class Computer(Protocol[R_contra]):
    """Keys and values in rows. For one thread at a time; see `onnx_decoder.Rows`."""

    @property
    def logits(self) -> npt.NDArray[np.float32]: ...

    def compute(
        self, first: int, starts: Sequence[int], tokens: Sequence[int], run: R_contra
    ) -> bool: ...

    def swap(self, one: int, other: int, positions: int) -> None: ...
    def drop(self, row: int, start: int) -> None: ...


@dataclass(slots=True, eq=False)
class _Row(Generic[R]):
    """What lies in a row: tokens, of which the first `whole` were computed in whole chunks.

    `written` positions have taken memory since it was last given back.
    """

    tokens: list[int] = field(default_factory=list)
    whole: int = 0
    written: int = 0
    used: int = 0
    sequence: "BatchedSequence[R] | None" = None


class Batch(Generic[R]):
    """The sequences of one model, and whose turn it is."""

    def __init__(
        self,
        computer: Computer[R],
        shared: R,
        *,
        rows: int,
        chunk: int,
        room: int,
        reuse: bool,
        gather_seconds: float = LIMITS.batch_gather_seconds,
    ) -> None:
        """Manage all rows of a computer.

        Args:
            computer: what computes.
            shared: what to run steps of several under; never cancelled.
            rows: how many sequences can run at once.
            chunk: tokens of a prompt that are computed at once.
            room: positions that all rows may hold together, at least those of one whole row.
            reuse: whether a sequence may go on from what one before it left.
            gather_seconds: how long a step may wait for those who just got their last token.
        """
        self.chunk = chunk
        self._computer = computer
        self._shared = shared
        self._room = room
        self._reuse = reuse
        self._gather_seconds = gather_seconds
        self._lock = threading.Lock()
        self._vacant = threading.Condition(self._lock)
        self._rows = [_Row[R]() for _ in range(rows)]
        self._opened = 0
        self._waiting: list[BatchedSequence[R]] = []
        # Who got logits and is about to ask for a step, and until when others wait for that.
        self._expected: dict[BatchedSequence[R], float] = {}
        self._busy = False  # whether a thread computes, and so holds no lock
        self._leader: BatchedSequence[R] | None = None
        self._after_chunk = False

    def condition(self) -> threading.Condition:
        """Something for a sequence to wait on."""
        return threading.Condition(self._lock)

    def enter(self, sequence: "BatchedSequence[R]", tokens: Sequence[int]) -> int | None:
        """Give a row for a new sequence, which may have to wait for one.

        Returns:
            how many of its first tokens need not be computed; None if it was cancelled.
        """
        with self._lock:
            self._release(sequence)
            while (found := best_row(self._held(), tokens, self.chunk)) is None:
                if sequence.run.cancelled:
                    return None
                self._vacant.wait()
            number, known = found
            row = self._rows[number]
            row.tokens = row.tokens[:known]
            self._opened += 1
            row.whole, row.used, row.sequence = known, self._opened, sequence
            sequence.row = row
            return known

    def leave(self, sequence: "BatchedSequence[R]") -> None:
        """Free the row of a sequence. Others may go on from the whole chunks in it."""
        with self._lock:
            self._release(sequence)

    def compute(self, sequence: "BatchedSequence[R]") -> bool | None:
        """Append what a sequence wishes to it, with others where possible; False if cancelled.

        None says that it stood aside: what it `lost` has to be computed again first.

        Raises:
            EngineError: the computer's.
        """
        with self._lock:
            self._expected.pop(sequence, None)
            self._waiting.append(sequence)
            sequence.aside = sequence.aside or self._is_behind(sequence)
            if self._leader is None:
                self._leader = sequence
            elif not self._busy:
                self._leader.turn.notify()
            while (outcome := sequence.outcome) is None and not sequence.again:
                if sequence.run.cancelled and sequence in self._waiting:
                    self._waiting.remove(sequence)
                    sequence.outcome = False
                elif self._leader is sequence:
                    self._lead(sequence)
                else:
                    sequence.turn.wait()
            self._hand_over(sequence)
        if isinstance(outcome, EngineError):
            raise outcome
        return outcome and not sequence.run.cancelled  # None stays None

    def look(self, sequence: "BatchedSequence[R]") -> None:
        """Have a sequence that waits look whether it was cancelled."""
        with self._lock:
            sequence.turn.notify()
            self._vacant.notify_all()

    def spoil(self, sequence: "BatchedSequence[R]") -> None:
        """Have nobody go on from what a sequence computed."""
        with self._lock:
            if (row := sequence.row) is not None:
                row.tokens, row.whole = [], 0

    def _lead(self, sequence: "BatchedSequence[R]") -> None:
        """Compute what is next, or wait a moment for those who will want to be part of it."""
        self._call_back()
        if sequence.again:
            return
        now = time.monotonic()
        left = max(self._expected.values(), default=now) - now
        able = [waiting for waiting in self._waiting if not waiting.aside]
        picked = next_run(
            [waiting.is_chunk for waiting in able],
            expected=left > 0,
            after_chunk=self._after_chunk,
        )
        if picked is None:
            # Where all stand aside, those who do not will be back, or leave, and tell.
            sequence.turn.wait(left if able else None)
            return
        running = self._make_room([able[n] for n in picked])
        if not running:
            return
        if sequence not in running:
            # Nobody is kept by a run that is not his own: he may be cancelled meanwhile.
            self._leader = running[0]
            self._leader.turn.notify()
            return
        self._waiting = [waiting for waiting in self._waiting if waiting not in running]
        self._after_chunk = running[0].is_chunk
        spans, others = self._arrange(running), list(self._waiting)
        self._busy = True
        self._lock.release()
        try:
            for first, members in spans:
                self._run(first, members)
            for each in others:
                each.run.advance()
        finally:
            self._lock.acquire()
            self._busy = False
            for each in running:
                self._settle(each)
                if each is not sequence:
                    each.turn.notify()

    def _make_room(self, running: "list[BatchedSequence[R]]") -> "list[BatchedSequence[R]]":
        """Those that can be computed now; others stand aside, the youngest first."""
        if self._fits(running):
            return running
        for row in self._rows:
            self._trim(row)
        for row in sorted(self._rows, key=lambda row: row.used):
            if row.sequence is None and not self._fits(running):
                row.tokens, row.whole = [], 0
                self._trim(row)
        for row in sorted(self._rows, key=lambda row: -row.used):
            if (each := row.sequence) is not None and not self._fits(running):
                each.lost, each.aside = row.tokens + each.lost, True
                row.tokens, row.whole = [], 0
                self._trim(row)
        return [each for each in running if not each.aside]

    def _call_back(self) -> None:
        """Have the oldest that stands aside begin again, if there is room for more than that."""
        aside = [each for each in self._waiting if each.aside]
        if not aside:
            return
        first = min(aside, key=lambda each: each.held.used)
        active = [row for row in self._rows if row.sequence is not None and row.tokens]
        held = sum(len(row.tokens) for row in active)
        wanted = len(first.lost) + len(first.wish) + self.chunk * (1 + len(active))
        if not active or held + wanted <= self._room:
            first.aside, first.again = False, True
            self._waiting.remove(first)
            first.turn.notify()

    def _is_behind(self, sequence: "BatchedSequence[R]") -> bool:
        """Whether it has nothing to lose, and an older one stands aside and waits for memory."""
        return not sequence.held.tokens and any(
            each.aside and each.held.used < sequence.held.used for each in self._waiting
        )

    def _fits(self, running: "list[BatchedSequence[R]]") -> bool:
        """Whether there is memory for a step of those that do not stand aside."""
        after = {each.held: len(each.wish) for each in running if not each.aside}
        counted = (max(row.written, len(row.tokens) + after.get(row, 0)) for row in self._rows)
        return sum(counted) <= self._room

    def _trim(self, row: _Row[R]) -> None:
        """Give memory back that a row has no tokens in."""
        if row.written > len(row.tokens):
            self._computer.drop(self._rows.index(row), len(row.tokens))
            row.written = len(row.tokens)

    def _arrange(
        self, running: "Sequence[BatchedSequence[R]]"
    ) -> "list[tuple[int, list[BatchedSequence[R]]]]":
        """Bring rows next to each other; the first row and the sequences of each span."""
        at = {self._number(each): each for each in running}
        fixed = {self._number(each) for each in self._expected}
        layout = side_by_side(at, fixed, len(self._rows))
        for one, other in layout.swaps:
            rows = self._rows
            positions = max(len(rows[one].tokens), len(rows[other].tokens))
            self._computer.swap(one, other, positions)
            written = [max(rows[n].written, positions) for n in (one, other)]
            rows[one], rows[other] = rows[other], rows[one]
            rows[one].written, rows[other].written = written
            self._trim(rows[one])
            self._trim(rows[other])
        at = {self._number(each): each for each in running}
        return [(first, [at[first + n] for n in range(count)]) for first, count in layout.spans]

    def _run(self, first: int, members: "Sequence[BatchedSequence[R]]") -> None:
        """Compute for sequences in neighbouring rows, and set their outcomes. Never raises."""
        run = self._shared if len(members) > 1 else members[0].run
        starts = [len(each.held.tokens) for each in members]
        tokens = [token for each in members for token in each.wish]
        try:
            done = self._computer.compute(first, starts, tokens, run)
        except Exception as error:  # noqa: BLE001 -- boundary: whoever waits has to be told
            if len(members) > 1:
                for n, each in enumerate(members):
                    self._run(first + n, [each])
                return
            members[0].outcome = _typed(error)
            return
        for each in members:
            each.outcome = done

    def _settle(self, sequence: "BatchedSequence[R]") -> None:
        """Note what was computed for a sequence, whose thread may still be asleep."""
        row, count = sequence.held, len(sequence.wish)
        row.written = max(row.written, len(row.tokens) + count)  # whatever became of it
        if sequence.outcome is not True:
            return
        if sequence.is_chunk and count == self.chunk and row.whole == len(row.tokens):
            row.whole += count
        row.tokens.extend(sequence.wish)
        sequence.logits = self._computer.logits[self._number(sequence)]
        if sequence.is_last:
            self._expected[sequence] = time.monotonic() + self._gather_seconds

    def _hand_over(self, sequence: "BatchedSequence[R]") -> None:
        """Leave it to another thread that waits to compute what is next."""
        if self._leader is sequence:
            self._leader = self._waiting[0] if self._waiting else None
            if self._leader is not None:
                self._leader.turn.notify()

    def _release(self, sequence: "BatchedSequence[R]") -> None:
        self._expected.pop(sequence, None)
        if self._leader is not None and not self._busy:
            self._leader.turn.notify()
        if (row := sequence.row) is not None:
            del row.tokens[row.whole :]
            row.sequence = sequence.row = None
            self._vacant.notify()

    def _number(self, sequence: "BatchedSequence[R]") -> int:
        return self._rows.index(sequence.held)

    def _held(self) -> list[Held]:
        return [
            Held(row.tokens[: row.whole] if self._reuse else (), row.sequence is None, row.used)
            for row in self._rows
        ]


class BatchedSequence(Generic[R]):
    """One sequence of a batch, a `text_generate.Decoder` for the thread of its request.

    Attributes:
        run: its request's way into the runtime.
        logits: float32 (vocabulary,), until the next step.
        turn: notified when there is something to look at. This and what follows is the batch's.
    """

    __slots__ = (
        "_batch",
        "_prompt",
        "again",
        "aside",
        "is_chunk",
        "is_last",
        "logits",
        "lost",
        "outcome",
        "row",
        "run",
        "turn",
        "wish",
    )

    run: R

    def __init__(self, batch: Batch[R]) -> None:
        """A sequence that is yet to be begun, with `prefill`; `leave` has to follow."""
        self._batch = batch
        self.turn = batch.condition()
        self.logits: Logits = np.zeros(0, np.float32)
        self.row: _Row[R] | None = None
        self.wish: Sequence[int] = ()
        self.is_chunk = self.is_last = False
        self.aside = self.again = False
        self.lost: list[int] = []
        self._prompt = 0
        self.outcome: bool | EngineError | None = None

    @property
    def held(self) -> _Row[R]:
        """Its row.

        Raises:
            EngineError: `engine_failed` if it has none, for it was not begun.
        """
        if self.row is None:
            raise EngineError("a sequence begins with a prompt", Code.ENGINE_FAILED)
        return self.row

    def prefill(self, tokens: Sequence[int], run: R) -> Iterator[bool]:
        """Begin anew with `tokens`, a chunk per item; False, the last, if cancelled.

        Whole chunks that a sequence before it began with as well are not computed again. Reuse
        never changes a result: what a chunk gives depends, in the last bits, on where it begins and
        ends, so these are the same for every sequence, and no chunk is computed beside others.

        Raises:
            EngineError: `engine_failed` if the runtime fails or the logits are not finite.
        """
        self.run, self._prompt = run, len(tokens)
        run.on_cancel(self._wake)
        known = self._batch.enter(self, tokens)
        if known is None:
            yield False
            return
        chunk = self._batch.chunk
        for start in range(known, len(tokens), chunk):
            end = start + chunk
            alive = self._advance(tokens[start:end], run, is_last=end >= len(tokens), is_chunk=True)
            yield alive
            if not alive:
                return

    def step(self, tokens: Sequence[int], run: R) -> bool:
        """Append one token; False if cancelled.

        Raises:
            EngineError: `engine_failed` if the runtime fails or the logits are not finite.
        """
        return self._advance(tokens, run, is_last=True, is_chunk=False)

    def leave(self) -> None:
        """Make room for others, who may go on from its whole chunks."""
        self._batch.leave(self)

    def _wake(self) -> None:
        self._batch.look(self)

    def _advance(self, tokens: Sequence[int], run: R, *, is_last: bool, is_chunk: bool) -> bool:
        again: list[int] = []  # what was lost, to be computed as it was before
        while True:
            if again:
                start = len(self.held.tokens)
                of_prompt = start < self._prompt
                end = min(start + self._batch.chunk, self._prompt) if of_prompt else start + 1
                part = again[: end - start]
                done = self._ask(part, run, is_last=not of_prompt, is_chunk=of_prompt)
                del again[: len(part) if done else 0]
            else:
                done = self._ask(tokens, run, is_last=is_last, is_chunk=is_chunk)
                if done:
                    return True
            if done is None:
                again, self.lost = self.lost + again, []
            elif not done:
                return False

    def _ask(self, tokens: Sequence[int], run: R, *, is_last: bool, is_chunk: bool) -> bool | None:
        self.run, self.again = run, False
        self.wish, self.is_chunk, self.is_last, self.outcome = tokens, is_chunk, is_last, None
        done = self._batch.compute(self)
        if done and not all_finite(self.logits):
            self._batch.spoil(self)
            raise EngineError("the model computed logits that are not finite", Code.ENGINE_FAILED)
        return done


def _typed(error: Exception) -> EngineError:
    if isinstance(error, EngineError):
        return error
    typed = EngineError(f"a step failed with {type(error).__name__}", Code.ENGINE_FAILED)
    if isinstance(error, MemoryError):
        typed = EngineError("no memory for a step", Code.OUT_OF_MEMORY)
    typed.__cause__ = error
    return typed
