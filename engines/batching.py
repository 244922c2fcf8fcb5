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
from collections.abc import Sequence
from typing import Final, Generic

from aigrid.engines.batch_plan import next_run
from aigrid.engines.batch_rows import BatchRows, Computer
from aigrid.engines.batched_sequence import BatchedSequence, R
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.limits import LIMITS

_LEAVE_SECONDS: Final = 0.1  # others hold the lock for far less


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
        self._gather_seconds = gather_seconds
        self._lock = threading.Lock()
        self._vacant = threading.Condition(self._lock)
        self._rows = BatchRows[BatchedSequence[R]](
            computer, rows, chunk=chunk, room=room, reuse=reuse
        )
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
            while (row := self._rows.give(sequence, tokens)) is None:
                if sequence.run.cancelled:
                    return None
                self._vacant.wait()
            sequence.row = row
            return row.whole

    def leave(self, sequence: "BatchedSequence[R]") -> None:
        """Free the row of a sequence. Others may go on from the whole chunks in it.

        An abandoned answer ends where garbage is collected: perhaps in a thread that is inside of
        this batch, and would wait for itself. So whoever waits for long has another thread do it.
        """
        if not self._lock.acquire(timeout=_LEAVE_SECONDS):
            threading.Thread(target=self.leave, args=(sequence,), daemon=True).start()
            return
        try:
            self._release(sequence)
        finally:
            self._lock.release()

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
                row.clear()

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
        fixed = [each.held for each in self._expected]
        spans = self._rows.arrange([each.held for each in running], fixed)
        others = list(self._waiting)
        self._busy = True
        self._lock.release()
        try:
            for first, rows in spans:
                self._run(first, [row.sequence for row in rows if row.sequence is not None])
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
        more = {each.held: len(each.wish) for each in running}
        if self._rows.fits(more):
            return running
        self._rows.let_go(more)
        for row in sorted(self._rows, key=lambda row: -row.used):
            if (each := row.sequence) is not None and not self._rows.fits(more):
                each.lost, each.aside = row.tokens + each.lost, True
                more.pop(row, None)
                row.clear()
                self._rows.trim(row)
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
        if not active or held + wanted <= self._rows.room:
            first.aside, first.again = False, True
            self._waiting.remove(first)
            first.turn.notify()

    def _is_behind(self, sequence: "BatchedSequence[R]") -> bool:
        """Whether it has nothing to lose, and an older one stands aside and waits for memory."""
        return not sequence.held.tokens and any(
            each.aside and each.held.used < sequence.held.used for each in self._waiting
        )

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
        self._rows.append(row, sequence.wish, is_chunk=sequence.is_chunk)
        sequence.logits = self._computer.logits[self._rows.number(row)]
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


def _typed(error: Exception) -> EngineError:
    if isinstance(error, EngineError):
        return error
    typed = EngineError(f"a step failed with {type(error).__name__}", Code.ENGINE_FAILED)
    if isinstance(error, MemoryError):
        typed = EngineError("no memory for a step", Code.OUT_OF_MEMORY)
    typed.__cause__ = error
    return typed
