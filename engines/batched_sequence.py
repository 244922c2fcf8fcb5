"""One sequence of a batch, as the thread of its request sees it."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import numpy as np

from aigrid.engines.batch_rows import Row
from aigrid.engines.sampling import Logits, all_finite
from aigrid.protocol.errors import Code, EngineError

if TYPE_CHECKING:
    from aigrid.engines.batching import Batch


class Cancellable(Protocol):
    """A request, as far as the batch has to know."""

    @property
    def cancelled(self) -> bool: ...

    def on_cancel(self, hook: Callable[[], object]) -> None:
        """Call `hook` from the cancelling thread."""

    def advance(self) -> None:
        """Say that the work goes on, of which this request has no result yet."""


R = TypeVar("R", bound=Cancellable)


class BatchedSequence(Generic[R]):
    """One sequence of a batch, a `text_generate.Decoder` for the thread of its request.

    Attributes:
        run: its request's way into the runtime.
        logits: float32 (vocabulary,), until the next step.
        turn: notified when there is something to look at. This and what follows is the batch's.
        wish, is_chunk: tokens to append, and whether they are a chunk of the prompt.
        is_last: whether its logits are asked for, and another step will be.
        outcome: of the wish; None while it is open.
        aside, lost: it waits for memory, and these tokens have to be computed again.
        again: it may do so now.
        row: what it has in the batch; None before `prefill` and after `leave`.
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

    def __init__(self, batch: "Batch[R]") -> None:
        """A sequence that is yet to be begun, with `prefill`; `leave` has to follow."""
        self._batch = batch
        self.turn = batch.condition()
        self.logits: Logits = np.zeros(0, np.float32)
        self.row: Row[BatchedSequence[R]] | None = None
        self.wish: Sequence[int] = ()
        self.is_chunk = self.is_last = False
        self.aside = self.again = False
        self.lost: list[int] = []
        self._prompt = 0
        self.outcome: bool | EngineError | None = None

    @property
    def held(self) -> "Row[BatchedSequence[R]]":
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
