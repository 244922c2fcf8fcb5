"""Ollama's endpoints: HTTP in, `requests` and `core` called, `answers` and `models` out.

What changes the models of this machine (pull, push, create, copy, delete) is the operator's, and
not for whoever may ask: those paths say which command does it.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import trio

from aigrid.node.gateway.call import TaskCall, TextCall
from aigrid.node.gateway.choices import Generated
from aigrid.node.gateway.core import GatewayCore, Listed
from aigrid.node.gateway.http.bodies import BodyReader
from aigrid.node.gateway.http.json_io import json_body, json_response
from aigrid.node.gateway.http.request import Request
from aigrid.node.gateway.http.response import Response
from aigrid.node.gateway.http.routes import Route
from aigrid.node.gateway.http.task_answer import task_answer
from aigrid.node.gateway.http.text_answer import TextAnswer, served_by
from aigrid.node.gateway.limits import GatewayLimits
from aigrid.node.gateway.ollama import models
from aigrid.node.gateway.ollama.answers import (
    Form,
    OllamaSpelling,
    as_message,
    as_response,
    durations,
)
from aigrid.node.gateway.ollama.requests import (
    EmbedCall,
    TouchCall,
    decode_chat,
    decode_embed,
    decode_generate,
    decode_show,
)
from aigrid.node.gateway.patience import wish_of
from aigrid.node.gateway.vectors import vectors_of
from aigrid.protocol.errors import Code, PolicyDeniedError
from aigrid.protocol.inference import TextRequest
from aigrid.protocol.kinds import ModelBody
from aigrid.protocol.timestamp import format_ms

FOLLOWED: Final = "0.12.6"
"""The version of Ollama whose interface this is: clients look whether theirs is new enough."""

_COMMANDS: Final = {
    "/api/pull": "`aigrid models fetch NAME`",
    "/api/push": "`aigrid publish PATH`",
    "/api/create": "`aigrid publish PATH`",
    "/api/copy": "`aigrid publish PATH --name NAME`",
    "/api/delete": "`aigrid models drop NAME`",
}
_GREETING: Final = b"AIGrid is running: see /v1/models, /api/tags, /v2"
_TOUCH: Final = TextRequest(prompt=" ", max_tokens=1, temperature=0.0)


class OllamaEndpoints:
    """The routes of the dialect, over one core; `manifest` is what is said of a model id."""

    def __init__(
        self,
        core: GatewayCore,
        bodies: BodyReader,
        limits: GatewayLimits,
        *,
        manifest: Callable[[str], ModelBody | None],
    ) -> None:
        self._manifest = manifest
        self._core = core
        self._bodies = bodies
        self._limits = limits

    def routes(self) -> list[Route]:
        """What exists under /api, and the greeting that clients look for at the root."""
        return [
            Route("/", self._greeting, methods=["GET"]),
            Route("/api/version", self._version, methods=["GET"]),
            Route("/api/tags", self._tags, methods=["GET"]),
            Route("/api/ps", self._running, methods=["GET"]),
            Route("/api/show", self._show, methods=["POST"]),
            Route("/api/chat", self._chat, methods=["POST"]),
            Route("/api/generate", self._generate, methods=["POST"]),
            Route("/api/embed", self._embed, methods=["POST"]),
            Route("/api/embeddings", self._embeddings, methods=["POST"]),
            *(
                Route(path, _elsewhere, methods=["DELETE" if "delete" in path else "POST"])
                for path in _COMMANDS
            ),
        ]

    async def _greeting(self, _request: Request) -> Response:
        return Response(_GREETING, media_type="text/plain")

    async def _version(self, _request: Request) -> Response:
        return json_response({"version": FOLLOWED})

    async def _tags(self, _request: Request) -> Response:
        return json_response(models.tags(self._described()))

    async def _running(self, _request: Request) -> Response:
        now_ms = 1000 * self._core.now_seconds()
        return json_response(
            models.running(self._described(), self._core.whereabouts(), now_ms=now_ms)
        )

    async def _show(self, request: Request) -> Response:
        wanted = decode_show(await self._body(request))
        listed = self._core.model(self._named(wanted))
        where = self._core.whereabouts().get(listed.view.model, {})
        return json_response(models.description(listed, self._manifest(listed.view.model), where))

    async def _chat(self, request: Request) -> Response | TextAnswer:
        call = decode_chat(await self._body(request))
        return await self._answer(request, call, as_message)

    async def _generate(self, request: Request) -> Response | TextAnswer:
        call = decode_generate(await self._body(request))
        return await self._answer(request, call, as_response)

    async def _embed(self, request: Request) -> Response:
        return await self._vectors(request, decode_embed(await self._body(request), single=False))

    async def _embeddings(self, request: Request) -> Response:
        return await self._vectors(request, decode_embed(await self._body(request), single=True))

    async def _body(self, request: Request) -> bytes:
        """Ollama looks at no content type, and many of its clients send that of a form, or none."""
        return await json_body(self._bodies, request, unsaid=True)

    async def _answer(
        self, request: Request, call: TextCall | TouchCall, form: Form
    ) -> Response | TextAnswer:
        if isinstance(call, TouchCall):
            return await self._touch(request, call, form)
        model = call.models[0]
        wish = wish_of(request.fields, call.keep_alive, self._limits, stream=call.stream)
        generation = self._core.generate(
            replace(call, models=(self._named(model),)),
            request_id=request.id,
            visit=request.visit,
            wish=wish,
        )
        spelling = OllamaSpelling(
            form,
            model=model,
            clock=self._now,
            waiting=generation.waiting,
            now=trio.current_time,
        )
        return TextAnswer(generation, spelling, stream=call.stream, limits=self._limits)

    async def _touch(self, request: Request, call: TouchCall, form: Form) -> Response:
        """Have a model loaded, or let it go: by one token, which is what loads it anywhere.

        What is loaded elsewhere does not go for that, and is said to stay.
        """
        listed = self._core.model(self._named(call.model))
        where = self._core.whereabouts().get(listed.view.model, {})
        here = bool(where.get("here", {}).get("workers"))
        stays = bool(where.get("warm")) and not here
        if here or not call.unload:
            generation = self._core.generate(
                TextCall(models=(listed.view.model,), request=_TOUCH),
                request_id=request.id,
                visit=request.visit,
                wish=wish_of(request.fields, call.keep_alive, self._limits),
            )
            await request.unless_gone(_through(generation))
        return json_response(
            {
                "model": call.model,
                "created_at": self._now(),
                **form("", "", ()),
                "done": True,
                "done_reason": "unload" if call.unload and not stays else "load",
            }
        )

    def _now(self) -> str:
        return format_ms(1000 * self._core.now_seconds())

    async def _vectors(self, request: Request, call: EmbedCall) -> Response:
        began = trio.current_time()
        asked = TaskCall((self._named(call.model),), call.request, keep_alive=call.keep_alive)
        found = await task_answer(self._core, request, asked, self._limits)
        vectors = vectors_of(found, call.count)
        body: dict[str, Any] = {"embedding": vectors[0]}
        if not call.single:
            body = {
                "model": call.model,
                "embeddings": vectors,
                **durations(trio.current_time() - began, 0.0),
                "prompt_eval_count": found.finish.prompt_tokens,
            }
        return json_response(body, served_by(found.answer, found.told))

    def _described(self) -> list[tuple[Listed, ModelBody | None]]:
        return [(entry, self._manifest(entry.view.model)) for entry in self._core.models()]

    def _named(self, model: str) -> str:
        """A model by the name that it has on the grid, where the tag may be no part of it."""
        plain = model.removesuffix(models.LATEST)
        known = {entry.listed_id for entry in self._core.models()}
        return model if plain == model or model in known else plain


async def _through(generation: Generated) -> None:
    async with generation:
        async for _ in generation:
            pass


async def _elsewhere(request: Request) -> Response:
    command = _COMMANDS[request.path]
    raise PolicyDeniedError(
        f"Models are not changed over HTTP: its operator does it with {command}.", Code.DENIED
    )
