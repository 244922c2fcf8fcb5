"""A dataset put to one model: its items are asked of whoever holds it, a few at a time."""

from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import trio

from aigrid.node.evaluating.dataset import Dataset, Item
from aigrid.node.evaluating.forms import Form
from aigrid.node.evaluating.metrics import Measure, Tally
from aigrid.node.outcome.asking import Mesh, Target, Want
from aigrid.protocol.errors import AigridError, Code, EngineError, UsageError
from aigrid.protocol.limits import LIMITS

# What is wrong then is the model's answer, which counts. Other errors say nothing of the model.
_MISFIT: Final = frozenset(
    {Code.INVALID_REQUEST, Code.UNSUPPORTED_PARAMETER, Code.CONTEXT_LENGTH_EXCEEDED}
)
_OWN: Final = _MISFIT | {Code.ENGINE_FAILED, Code.ENGINE_TIMEOUT}


@dataclass(frozen=True, slots=True)
class Measured:
    """What came of a dataset at one model.

    Attributes:
        tallies: of each item, in order.
        unanswered: items without an answer that can be compared; they count as wrong.
        node: PeerId of who answered last.
        seconds: an answer took, on average.
    """

    tallies: Sequence[Tally]
    unanswered: int
    node: str
    seconds: float


async def measure(
    mesh: Mesh,
    dataset: Dataset,
    form: Form,
    measure_: Measure,
    *,
    holders: Sequence[Target],
    negated: bool = False,
    progress: Callable[[int], Awaitable[None]],
) -> Measured:
    """Ask every item of the first of `holders`, and of the next where that can answer no more.

    `negated`: a lesser score of this model is the more unusual one. `progress` is told how many
    items are done.

    Raises:
        AigridError: why none of them answers, or why the model answers nothing.
    """
    run = _Run(mesh, dataset, form, measure_, deque(holders), negated=negated)
    rest = iter(range(len(dataset.items)))
    async with trio.open_nursery() as nursery:
        for _ in range(LIMITS.evaluated_at_once):
            nursery.start_soon(run.work, rest, nursery.cancel_scope, progress)
    if run.problem is not None:
        raise _broken_off(run.problem, len(run.tallies), len(dataset.items))
    unanswered = len(run.failures)
    if unanswered == len(dataset.items):
        line = min(run.failures)
        raise _all_unanswered(line, run.failures[line])
    tallies = [run.tallies[index] for index in range(len(dataset.items))]
    return Measured(tallies, unanswered, run.node, run.seconds / len(tallies))


def _broken_off(error: AigridError, done: int, items: int) -> AigridError:
    """What ended it when nobody was left to ask, and what to do."""
    error.message = (
        f"after {done} of {items} items no holder of the model answers: "
        f"{error.message.rstrip('.')}; nothing was signed of it: see `aigrid models` for who holds "
        "it, and evaluate it again"
    )
    return error


def _all_unanswered(line: int, error: AigridError | None) -> AigridError:
    """Of no item there is an answer: why not of the one in that line."""
    if error is None:
        return EngineError(
            f"line {line} of the dataset: no answer of the model can be compared with what is "
            "expected, nor of any other line; ask it with `aigrid run` to see what it says"
        )
    said = f"line {line} of the dataset: {error.message.rstrip('.')}; no other was answered either"
    if error.code in _MISFIT:  # it is the dataset that does not fit the model
        return UsageError(said)
    error.message = said
    return error


class _Run:
    def __init__(
        self,
        mesh: Mesh,
        dataset: Dataset,
        form: Form,
        measure_: Measure,
        holders: deque[Target],
        *,
        negated: bool,
    ) -> None:
        self._mesh = mesh
        self._dataset = dataset
        self._form = form
        self._measure = measure_
        self._holders = holders
        self._negated = negated
        self.tallies: dict[int, Tally] = {}
        self.failures: dict[int, AigridError | None] = {}  # by line of the dataset
        self.problem: AigridError | None = None
        self.node = holders[0].node
        self.seconds = 0.0

    async def work(
        self,
        rest: Iterator[int],
        scope: trio.CancelScope,
        progress: Callable[[int], Awaitable[None]],
    ) -> None:
        for index in rest:
            item = self._dataset.items[index]
            try:
                answer = await self._answer(item)
            except AigridError as error:
                self.problem = self.problem or error
                scope.cancel()
                return
            self.tallies[index] = self._measure.tally(answer, item.expected)
            await progress(len(self.tallies))

    async def _answer(self, item: Item) -> Any:
        """As `Form.matched` reads it; None, which counts as wrong, where the model gave none."""
        try:
            output = await self._output(item.want)
        except AigridError as error:
            if error.code not in _OWN:
                raise
            self.failures[item.line] = error
            return None
        answer = self._form.matched(output, item.expected, negated=self._negated)
        if answer is None:
            self.failures[item.line] = None
        return answer

    async def _output(self, want: Want) -> Any:
        while True:
            target, began_seconds = self._holders[0], trio.current_time()
            try:
                reply = await self._mesh.ask(want, target)
            except AigridError as error:
                if error.code in _OWN:
                    raise
                if self._holders[0] is not target:
                    continue  # another item has found out already
                if len(self._holders) == 1:
                    raise
                self._holders.popleft()
                continue
            self.node = target.node
            self.seconds += trio.current_time() - began_seconds
            return reply.value
