"""OpenAI's chat over HTTP: `chat_request` decodes, `core` answers, `answers` spells it."""

import math
from dataclasses import dataclass

import msgspec
import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Message, Receive, Scope, Send

from aigrid.node.gateway.core import GatewayCore, Generation
from aigrid.node.gateway.http.asgi import (
    JSON_TYPE,
    REQUEST_ID,
    VISIT,
    BodyReader,
    error_response,
    internal_error,
    until_gone,
)
from aigrid.node.gateway.http.guard import check_json
from aigrid.node.gateway.http.turn import Turn
from aigrid.node.gateway.limits import GatewayLimits
from aigrid.node.gateway.openai import answers
from aigrid.node.gateway.openai.chat_request import ChatCall, decode_chat
from aigrid.node.gateway.patience import Wish, wish_of
from aigrid.node.mesh.routing.answer import Answer
from aigrid.node.policy.metering import Visit
from aigrid.protocol.errors import AigridError
from aigrid.protocol.limits import LIMITS


class OpenAiEndpoints:
    """The routes of the dialect, over one core."""

    def __init__(self, core: GatewayCore, bodies: BodyReader, limits: GatewayLimits) -> None:
        self._core = core
        self._bodies = bodies
        self._limits = limits

    def routes(self) -> list[BaseRoute]:
        """What exists under /v1. Model ids may hold slashes and colons."""
        return [
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
            Route("/v1/models", self._models, methods=["GET"]),
            Route("/v1/models/{model:path}", self._model, methods=["GET"]),
        ]

    async def _models(self, _request: Request) -> Response:
        return json_response(answers.model_list(self._core.models(), self._core.whereabouts()))

    async def _model(self, request: Request) -> Response:
        found = self._core.model(request.path_params["model"])
        return json_response(answers.model_object(found, self._core.whereabouts()))

    async def _chat(self, request: Request) -> "_Chat":
        headers = dict(request.scope["headers"])
        check_json(headers)
        call = decode_chat(await self._bodies.read(headers, request.receive))
        scope = request.scope
        wish = wish_of(headers, call.keep_alive, self._limits, stream=call.stream)
        return _Chat(self._core, call, scope[REQUEST_ID], scope[VISIT], self._limits, wish)


def json_response(value: object, status: int = 200) -> Response:
    """A value as JSON."""
    return Response(msgspec.json.encode(value), status, media_type=JSON_TYPE)


def _served_by(answer: Answer) -> dict[str, str]:
    return {"x-aigrid-node": answer.node, "x-aigrid-model": answer.model}


@dataclass(slots=True)
class _Chat:
    """The answer to a chat request, as an ASGI response."""

    core: GatewayCore
    call: ChatCall
    request_id: str
    visit: Visit
    limits: GatewayLimits
    wish: Wish

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        generation = self.core.generate(
            self.call.model,
            self.call.request,
            request_id=self.request_id,
            visit=self.visit,
            wish=self.wish,
        )
        try:
            if self.call.stream:
                await until_gone(receive, _Stream(self, generation, send).run)
                return
            response = await until_gone(receive, lambda _nursery: self._plain(generation))
        except AigridError as error:  # a stream that has begun ends in an event instead
            response = error_response(error, self.limits, segments=generation.segments)
        await response(scope, receive, send)

    @property
    def completion_id(self) -> str:
        return f"chatcmpl-{self.request_id}"

    async def _plain(self, generation: Generation) -> Response:
        created = self.core.now_seconds()
        async with generation:
            steps = [step async for step in generation]
            body = answers.completion(
                completion_id=self.completion_id,
                created=created,
                model=generation.answer.name,
                steps=steps,
                segments=generation.segments,
            )
            headers = _served_by(generation.answer)
        return Response(body, headers=headers, media_type=JSON_TYPE)


class _Stream:
    """Server-sent events. Writers take turns; the lock also guards `_began` and `_ended`."""

    def __init__(self, chat: _Chat, generation: Generation, send: Send) -> None:
        self._chat = chat
        self._generation = generation
        self._send = send
        self._turn = Turn()
        self._began = False
        self._ended = False
        self._wrote_at = -math.inf

    async def run(self, nursery: trio.Nursery) -> None:
        nursery.start_soon(self._keep_alive)
        try:
            await self._events()
        except AigridError as error:
            await self._fail(error)
        except Exception as error:  # noqa: BLE001  boundary: headers may be out, so the error is an event
            await self._fail(internal_error(error, self._chat.request_id))

    async def _events(self) -> None:
        chat, generation = self._chat, self._generation
        created = chat.core.now_seconds()
        async with generation:
            headers = _served_by(generation.answer)
            encoder = answers.ChunkEncoder(
                completion_id=chat.completion_id,
                created=created,
                model=generation.answer.name,
                include_usage=chat.call.include_usage,
            )
            pending = encoder.role()
            async for step in generation:
                pending += encoder.piece(step)
                if step.finish is None:
                    await self._write(pending, headers)
                    pending = b""
                else:
                    pending += encoder.finish(step.finish, generation.segments)
        # Only now: with the last write the server tells us that the client is gone, which must
        # not cancel the mesh's own end.
        await self._write(pending, headers, last=True)

    async def _fail(self, error: AigridError) -> None:
        """End with an error event, or raise it while it can still be an HTTP status."""
        async with self._turn:
            if not self._began:
                self._ended = True
                raise error
        await self._write(answers.error_event(error, self._generation.segments), last=True)

    async def _keep_alive(self) -> None:
        """Send headers without waiting for ever, and comments.

        These come whenever the stream is silent, and while a model is being loaded with every word
        on how far that is, about one a second.
        """
        await trio.sleep(self._chat.limits.first_chunk_seconds)
        silence_seconds = self._chat.limits.keepalive_seconds
        waiting, shown = self._generation.waiting, ""
        while not self._ended:
            with trio.move_on_at(self._wrote_at + silence_seconds):
                await waiting.changed.wait()
                await trio.sleep_until(self._wrote_at + LIMITS.loading_seconds)
            text = "" if waiting.said is None else waiting.said.text
            silent = trio.current_time() >= self._wrote_at + silence_seconds
            if silent or (text and text != shown):
                shown = text
                await self._write(answers.comment(text))

    async def _write(
        self, data: bytes, headers: dict[str, str] | None = None, *, last: bool = False
    ) -> None:
        async with self._turn:
            if self._ended:
                return
            self._ended = last
            if not self._began:
                self._began = True
                await self._send(_start(headers or {}))
            self._wrote_at = trio.current_time()
            await self._send({"type": "http.response.body", "body": data, "more_body": not last})


def _start(headers: dict[str, str]) -> Message:
    fields = {
        "content-type": "text/event-stream; charset=utf-8",
        "cache-control": "no-store",
        "x-accel-buffering": "no",
        **headers,
    }
    return {
        "type": "http.response.start",
        "status": 200,
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in fields.items()],
    }
