"""An answer that keeps to its capability's contract: where one does not, the next node is asked."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from types import TracebackType
from typing import Self, TypeVar

from aigrid.metagraph.preferences import Preferences
from aigrid.node.gateway.by_capability import spoken
from aigrid.node.gateway.generation import Generation
from aigrid.node.gateway.step import Step
from aigrid.node.mesh.routing.answer import Answer, Segment
from aigrid.node.mesh.routing.waiting import Waiting
from aigrid.node.observing.course import Course
from aigrid.node.outcome.contract import Contract
from aigrid.protocol.errors import Code, EngineError, InvalidRequestError, NoCandidateError
from aigrid.protocol.limits import LIMITS

T = TypeVar("T")


class WrongAnswerError(EngineError):
    """An answer that is none of the capability's, and who gave it (a PeerId)."""

    def __init__(self, message: str, node: str) -> None:
        super().__init__(message, Code.ENGINE_FAILED)
        self.node = node


async def first_fitting(ask: Callable[[Preferences], Awaitable[T]], preferences: Preferences) -> T:
    """What the first node answers that keeps to the contract; `ask` raises WrongAnswerError.

    It is asked with `preferences` themselves first, then without the nodes that were wrong.

    Raises:
        AigridError: as `ask`; where nobody else is left, what was wrong first.
    """
    wrong: list[WrongAnswerError] = []
    wanted = preferences
    while True:
        try:
            return await ask(wanted)
        except WrongAnswerError as error:
            wrong.append(error)
            if not preferences.allow_fallbacks or len(wrong) >= LIMITS.mode_candidates_max:
                raise wrong[0] from None
            wanted = replace(wanted, ignore=(*wanted.ignore, error.node))
        except (NoCandidateError, InvalidRequestError) as error:
            if not wrong or error.code is Code.SHUTTING_DOWN:
                raise
            raise wrong[0] from None


class Fitting:
    """Looks as one `Generation`: the answer to a task, spoken, which is one step.

    Entering waits for the whole answer, so that nothing of a wrong one is told to anybody; each is
    charged, and counts as an attempt.
    """

    def __init__(
        self,
        make: Callable[[Preferences], Generation],
        preferences: Preferences,
        contract: Contract,
        *,
        check: Callable[[], None],
        misfit: Callable[[str, str, str], None],
    ) -> None:
        """`misfit`: see `GatewayCore`.

        `check` raises what entering raises before anybody is asked: as an error of the answer, it
        is told in the words of the dialect.
        """
        self._make = make
        self._preferences = preferences
        self._contract = contract
        self._check = check
        self._misfit = misfit
        self._generation = make(preferences)
        self._before: list[Segment] = []
        self._step: Step | None = None

    @property
    def waiting(self) -> Waiting:
        """What is known of the load that the node asked last waits for."""
        return self._generation.waiting

    @property
    def answer(self) -> Answer:
        """Who answers; known once entered."""
        return self._generation.answer

    @property
    def course(self) -> Course:
        """What is noted of the request."""
        return self._generation.course

    @property
    def segments(self) -> list[Segment]:
        """See `Generation`; where nobody keeps to the contract, those of all who were asked."""
        return [*self._before, *self._generation.segments]

    async def __aenter__(self) -> Self:
        self._check()
        self._step = await first_fitting(self._whole, self._preferences)
        self._before.clear()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """What there was to leave is left already."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Step:
        step, self._step = self._step, None
        if step is None:
            raise StopAsyncIteration
        return step

    async def _whole(self, preferences: Preferences) -> Step:
        if preferences is not self._preferences:
            made = self._make(preferences)
            self._before += self._generation.segments
            self._generation = made
        async with self._generation as generation:
            steps = [step async for step in generation]
        answer, output = generation.answer, b"".join(step.output for step in steps)
        try:
            text = spoken(self._contract, output)
        except EngineError as error:
            self._misfit(answer.node, answer.model, self._contract.capability)
            raise WrongAnswerError(error.message, answer.node) from None
        return Step(text, (), steps[-1].finish)
