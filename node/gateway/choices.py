"""Several answers to one request, made at once, as one answer with numbered choices."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from types import TracebackType
from typing import Final, Self

import msgspec
import trio

from aigrid.node.gateway.call import TextCall
from aigrid.node.gateway.fitting import Fitting
from aigrid.node.gateway.generation import Generation
from aigrid.node.gateway.step import Step
from aigrid.node.mesh.routing.answer import Answer, Segment
from aigrid.node.mesh.routing.waiting import Waiting
from aigrid.node.observing.course import Course
from aigrid.protocol.errors import AigridError
from aigrid.protocol.inference import Finish, TextRequest

_SEEDS: Final = 2**63
_ID_CHARS: Final = 60  # of a request id that is numbered: as a whole it has at most 64


def requests_of(call: TextCall) -> Iterator[TextRequest]:
    """One request for each choice; where a seed was given each has its own, counted up from it."""
    for request in (call.request, *call.others):
        for number in range(call.choices):
            if request.seed is None or not number:
                yield request
            else:
                seed = (request.seed + number) % _SEEDS
                yield msgspec.structs.replace(request, seed=seed)


def numbered(request_id: str, number: int) -> str:
    """The request id of a choice; that of the first is the client's."""
    return f"{request_id[:_ID_CHARS]}-{number}" if number else request_id


class Choices:
    """Looks as one `Generation`: enter it to wait until one has begun, then iterate over steps.

    Steps come as they are ready, those of each choice in order and the last of these with `ended`;
    after all of them comes one with `finish`, the sum. A prompt, which has `each` choices, counts
    once in it, as clients expect. The first choice that fails ends them all, and so does leaving
    early: `answer` is that of the choice that began first.
    """

    def __init__(self, generations: Sequence[Generation | Fitting], each: int) -> None:
        self._generations = generations
        self._each = each
        self._began: Answer | None = None
        self._left = len(generations)
        self._prompt_tokens = self._completion_tokens = 0
        self._over = False
        self._send, self._receive = trio.open_memory_channel[Answer | Step | AigridError](0)
        self._opened: AbstractAsyncContextManager[trio.Nursery] | None = None
        self._scope = trio.CancelScope()

    @property
    def waiting(self) -> Waiting:
        """What is known of the load that the first choice waits for."""
        return self._generations[0].waiting

    @property
    def answer(self) -> Answer:
        """Who answers; known once entered."""
        if self._began is None:
            raise RuntimeError("the choices have not been entered")
        return self._began

    @property
    def course(self) -> Course:
        """What is noted of the request."""
        return self._generations[0].course

    @property
    def segments(self) -> list[Segment]:
        """Those of all choices, in their order."""
        return [segment for one in self._generations for segment in one.segments]

    async def __aenter__(self) -> Self:
        self._opened = trio.open_nursery()
        nursery = await self._opened.__aenter__()
        self._scope = nursery.cancel_scope
        for number, generation in enumerate(self._generations):
            nursery.start_soon(self._run, number, generation)
        try:
            said = await self._receive.receive()
        except BaseException:
            await self._close()
            raise
        if isinstance(said, AigridError):
            await self._close()
            raise said
        self._began = said if isinstance(said, Answer) else None
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Step:
        if self._over:
            raise StopAsyncIteration
        while self._left:
            said = await self._receive.receive()
            if isinstance(said, AigridError):
                raise said
            if isinstance(said, Step):
                return self._counted(said)
        self._over = True
        return Step("", (), Finish("stop", self._prompt_tokens, self._completion_tokens))

    async def _run(self, number: int, generation: Generation | Fitting) -> None:
        """One choice; what fails is told to whoever reads."""
        try:
            async with generation:
                await self._send.send(generation.answer)
                async for step in generation:
                    ended = step.finish
                    await self._send.send(replace(step, choice=number, finish=None, ended=ended))
        except AigridError as error:
            await self._send.send(error)

    def _counted(self, step: Step) -> Step:
        if step.ended is not None:
            self._left -= 1
            if step.choice % self._each == 0:
                self._prompt_tokens += step.ended.prompt_tokens
            self._completion_tokens += step.ended.completion_tokens
        return step

    async def _close(self) -> None:
        """Cancel what still runs, and wait until it has told the nodes at work so."""
        opened, self._opened = self._opened, None
        if opened is not None:
            self._scope.shield = True  # its own end cancels them, so that what is raised is plain
            self._scope.cancel()
            await opened.__aexit__(None, None, None)


Generated = Generation | Fitting | Choices
