"""Text as an HTTP answer in any dialect: whole or streamed, with signs of life, never just stopped.

A dialect says how each part is spelled (`Spelling`); that it comes at all, in what order, and what
happens when it breaks off or when the client leaves is here, once.
"""

import math
from collections.abc import Sequence
from typing import Protocol

import trio

from aigrid.node.gateway.choices import Generated
from aigrid.node.gateway.http.boundary import error_response, internal_error
from aigrid.node.gateway.http.request import Request
from aigrid.node.gateway.http.response import JSON_TYPE, Response, encoded
from aigrid.node.gateway.http.turn import Turn
from aigrid.node.gateway.limits import GatewayLimits
from aigrid.node.gateway.step import Step
from aigrid.node.gateway.told import Told
from aigrid.node.mesh.routing.answer import Answer, Segment
from aigrid.protocol.errors import AigridError
from aigrid.protocol.inference import Finish
from aigrid.protocol.limits import LIMITS


class Spelling(Protocol):
    """How a dialect spells one answer; made for it, so what does not change is encoded once.

    Attributes:
        media_type: of a stream.
    """

    media_type: str

    def error(self, error: AigridError, segments: Sequence[Segment]) -> bytes:
        """The body of an error that is an HTTP status."""

    def whole(self, steps: Sequence[Step], told: Told) -> bytes:
        """The body of a plain answer, after `begin`; its last step carries the finish."""

    def begin(self, answer: Answer) -> bytes:
        """Called first, once the first chunk is there: what a stream begins with, if anything."""

    def step(self, step: Step) -> bytes:
        """A piece of the answer; nothing when the step holds none."""

    def end(self, finish: Finish, told: Told) -> bytes:
        """What follows the last piece."""

    def comment(self, text: str) -> bytes:
        """A sign of life that clients skip, which says how far a load is; b"" if there is none."""

    def failed(self, error: AigridError, segments: Sequence[Segment]) -> bytes:
        """What ends a stream that failed."""


class TextAnswer:
    """The answer to a request for text, however it is asked for."""

    def __init__(
        self,
        generation: Generated,
        spelling: Spelling,
        *,
        stream: bool,
        limits: GatewayLimits,
    ) -> None:
        self.generation = generation
        self.spelling = spelling
        self.stream = stream
        self.limits = limits

    async def __call__(self, request: Request) -> None:
        try:
            if self.stream:
                await request.unless_gone(_Stream(self, request).run())
                return
            response = await request.unless_gone(self._plain())
        except AigridError as error:  # a stream that has begun ends in an event instead
            self.generation.course.code = error.code
            response = error_response(
                error, self.limits, self.spelling.error, segments=self.generation.segments
            )
        await response(request)

    async def _plain(self) -> Response:
        generation = self.generation
        async with generation:
            self.spelling.begin(generation.answer)
            steps = [step async for step in generation]
            told = Told.of(generation.answer, generation.segments, generation.course)
            body = self.spelling.whole(steps, told)
            headers = served_by(generation.answer, told)
        return Response(body, headers=headers, media_type=JSON_TYPE)


class _Stream:
    """A stream of pieces. Writers take turns; the lock also guards `_began` and `_ended`.

    `_head` is what it begins with, until it is written, with whatever is written first.
    """

    def __init__(self, whole: TextAnswer, request: Request) -> None:
        self._generation = whole.generation
        self._spelling = whole.spelling
        self._limits = whole.limits
        self._request = request
        self._turn = Turn()
        self._head = b""
        self._began = False
        self._ended = False
        self._wrote_at = -math.inf

    async def run(self) -> None:
        """Write it. Raises an AigridError that can still be an HTTP status."""
        failure: AigridError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_alive)
            try:
                await self._pieces()
            except AigridError as error:
                failure = await self._fail(error)
            except Exception as error:  # noqa: BLE001  boundary: headers may be out, so the error is an event
                failure = await self._fail(internal_error(error, self._request.id))
            nursery.cancel_scope.cancel()
        try:
            if failure is not None:
                raise failure
        finally:
            del failure  # it holds this frame, and with it the whole request

    async def _pieces(self) -> None:
        generation, spelling, course = self._generation, self._spelling, self._generation.course
        async with generation:
            headers = served_by(generation.answer)
            self._head = spelling.begin(generation.answer)
            last = b""
            async for step in generation:
                piece = spelling.step(step)
                if step.finish is not None:
                    told = Told.of(generation.answer, generation.segments, course)
                    last = piece + spelling.end(step.finish, told)
                elif piece or self._head:
                    began_seconds = trio.current_time()
                    await self._write(piece, headers)
                    course.waited(trio.current_time() - began_seconds)
        await self._write(last, headers, last=True)

    async def _fail(self, error: AigridError) -> AigridError | None:
        """End with an error event; the error itself while it can still be an HTTP status."""
        async with self._turn:
            if not self._began:
                self._ended = True
                return error
        self._generation.course.code = error.code
        await self._write(self._spelling.failed(error, self._generation.segments), last=True)
        return None

    async def _keep_alive(self) -> None:
        """Send headers without waiting for ever, and comments.

        These come whenever the stream is silent, and while a model is being loaded with every word
        on how far that is, about one a second.
        """
        await trio.sleep(self._limits.first_chunk_seconds)
        silence_seconds = self._limits.keepalive_seconds
        shown = ""
        while not self._ended:
            waiting = self._generation.waiting  # of whoever is asked now
            with trio.move_on_at(self._wrote_at + silence_seconds):
                await waiting.changed.wait()
                await trio.sleep_until(self._wrote_at + LIMITS.loading_seconds)
            text = "" if waiting.said is None else waiting.said.text
            silent = trio.current_time() >= self._wrote_at + silence_seconds
            if silent or (text and text != shown):
                shown = text
                await self._write(self._spelling.comment(text))

    async def _write(
        self, data: bytes, headers: dict[str, str] | None = None, *, last: bool = False
    ) -> None:
        async with self._turn:
            if self._ended:
                return
            self._ended = last
            if not self._began:
                self._began = True
                self._request.begin(200, _headers(self._spelling.media_type, headers or {}))
            self._wrote_at = trio.current_time()
            data, self._head = self._head + data, b""
            await self._request.write(data, last=last)


def served_by(answer: Answer, told: Told | None = None) -> dict[str, str]:
    """Headers that say who answers, and what a whole answer has cost: its body says the same."""
    if told is not None:
        return headers_of(answer.node, answer.model, told.attempts, told.overhead_ms)
    return {"x-aigrid-node": answer.node, "x-aigrid-model": answer.model}


def headers_of(node: str, model: str, attempts: int, overhead_ms: float) -> dict[str, str]:
    """Those of a whole answer."""
    return {
        "x-aigrid-node": node,
        "x-aigrid-model": model,
        "x-aigrid-attempts": str(attempts),
        "x-aigrid-overhead-ms": str(overhead_ms),
    }


def _headers(media_type: str, served: dict[str, str]) -> list[tuple[bytes, bytes]]:
    fields = {"content-type": media_type, "cache-control": "no-store", "x-accel-buffering": "no"}
    return encoded({**fields, **served})
