"""The grid as modes see it: candidates in order, and one of them asked, over the gateway's core."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from typing import Any, Protocol

import msgspec
import trio

from aigrid.metagraph.preferences import ANY, Preferences
from aigrid.metagraph.selection import Explained, explain
from aigrid.node.gateway.by_capability import decoded
from aigrid.node.gateway.call import TaskCall, TextCall
from aigrid.node.gateway.core import GatewayCore
from aigrid.node.gateway.fitting import WrongAnswerError, first_fitting
from aigrid.node.gateway.patience import Wish
from aigrid.node.learning.pace import Paces
from aigrid.node.mesh.routing.answer import Answer, Segment
from aigrid.node.mesh.routing.candidates import Sought
from aigrid.node.outcome.asking import Reply, Target, Want
from aigrid.node.policy.metering import Visit
from aigrid.protocol.errors import EngineError
from aigrid.protocol.inference import TaskRequest, TensorRequest, TextRequest
from aigrid.protocol.more import needed


class Explains(Protocol):
    """What a router knows of candidates without asking them."""

    async def explain(self, sought: Sought) -> tuple[Explained, ...]:
        """What would become of every candidate now."""


@dataclass(frozen=True, slots=True)
class Known:
    """What else is known here.

    Attributes:
        router: of candidates.
        size_bytes: of a model's files, by id; 0 where that is unknown.
        paces: how long answers took so far.
    """

    router: Explains
    size_bytes: Callable[[str], int] = lambda _: 0
    paces: Paces = field(default_factory=Paces)


@dataclass(slots=True)
class Grid:
    """One request of a client, whomever it asks: implements `Mesh`.

    Attributes:
        parts: numbers of what is asked of nodes.
        paid: segments of every answer that was given so far, of whatever use it was.
        explained: what became of each candidate, of the choice that was made last.
    """

    core: GatewayCore
    known: Known
    request_id: str
    visit: Visit
    wish: Wish | None = None
    parts: "count[int]" = field(default_factory=count)
    paid: list[Segment] = field(default_factory=list)
    explained: tuple[Explained, ...] = ()
    capability: str = ""

    def for_step(self) -> "Grid":
        """The same request, for one step of its pipeline."""
        return replace(self, explained=(), capability="")

    async def candidates(self, want: Want) -> Sequence[Target]:
        """Those that may be asked, the best first."""
        capability = want.contract.capability
        sought = Sought(
            (), capability, ANY, needed(want.request), criteria=want.criteria, task=capability
        )
        self.explained = await self.known.router.explain(sought)
        self.capability = capability
        return [
            Target(one.node, one.model, self.known.size_bytes(one.model))
            for one in self.explained
            if one.place is not None
        ]

    def late_after_seconds(self, target: Target) -> float | None:
        """See `Mesh`."""
        return self.known.paces.late_after_seconds(target.node, target.model, self.capability)

    async def ask(self, want: Want, target: Target | None) -> Reply:
        """The answer of one, or of the first that answers as the contract has it."""
        if target is not None:
            return await self._timed(want, target)
        return await first_fitting(partial(self._asked, want, None), ANY)

    async def _timed(self, want: Want, target: Target) -> Reply:
        """The answer of one; where it is given up, how long it took at least is remembered."""
        paces, began_seconds = self.known.paces, trio.current_time()
        of = target.node, target.model, want.contract.capability
        try:
            return await self._asked(want, target, ANY)
        except trio.Cancelled:
            paces.given_up(*of, trio.current_time() - began_seconds)
            raise

    def _took(self, answer: Answer, want: Want) -> None:
        """For the next time, how long it took; not what others took before or after it."""
        if answer.asked_seconds is None or len(answer.segments) > 1:
            return
        of = answer.node, answer.model, want.contract.capability
        self.known.paces.took(*of, trio.current_time() - answer.asked_seconds)

    async def _asked(self, want: Want, target: Target | None, preferences: Preferences) -> Reply:
        models = () if target is None else (target.model,)
        if target is not None:
            preferences = replace(preferences, pinned=target.node)
        request = want.request
        if isinstance(request, TextRequest):
            call = TextCall(
                models,
                request,
                preferences=preferences,
                capability=want.contract.capability if target is None else "",
                criteria=want.criteria,
            )
            answer, output, logprobs, segments = await self._written(call)
        else:
            task = TaskCall(models, _task(request), preferences=preferences, criteria=want.criteria)
            found = await self.core.run_task(task, part=next(self.parts), **self._who())
            answer, output, logprobs = found.answer, found.output, ()
            segments = tuple(found.told.segments)
        self.paid += segments
        if target is None:
            self.explained = explain(answer.ranking)
        try:
            value = decoded(want.contract, output)
        except EngineError as error:
            self.core.misfit(answer.node, answer.model, want.contract.capability)
            raise WrongAnswerError(error.message, answer.node) from None
        self._took(answer, want)
        target = target or Target(answer.node, answer.model)
        return Reply(target, output, value, logprobs, segments)

    async def _written(
        self, call: TextCall
    ) -> tuple[Answer, bytes, tuple[float, ...], tuple[Segment, ...]]:
        """A generated text as the capability's output has it."""
        texts: list[str] = []
        logprobs: list[float] = []
        asked = self.core.generate(call, part=next(self.parts), **self._who())
        async with asked as generation:
            async for step in generation:
                texts.append(step.text)
                logprobs += (token.logprob for token in step.logprobs)
            output = msgspec.json.encode({"text": "".join(texts)})
            return generation.answer, output, tuple(logprobs), tuple(generation.segments)

    def _who(self) -> dict[str, Any]:
        return {"request_id": self.request_id, "visit": self.visit, "wish": self.wish}


def _task(request: TaskRequest | TensorRequest) -> TaskRequest:
    if isinstance(request, TensorRequest):
        raise TypeError("a capability with a contract takes no tensors")
    return request
