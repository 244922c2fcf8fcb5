"""OpenAI's dialect over HTTP: a `*_request` decodes, `core` answers, an `*answers` spells it."""

from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeVar

from aigrid.node.gateway.call import TextCall
from aigrid.node.gateway.core import GatewayCore
from aigrid.node.gateway.http.bodies import BodyReader
from aigrid.node.gateway.http.json_io import json_body, json_response
from aigrid.node.gateway.http.request import Request
from aigrid.node.gateway.http.response import JSON_TYPE, Response
from aigrid.node.gateway.http.routes import Route
from aigrid.node.gateway.http.task_answer import task_answer
from aigrid.node.gateway.http.text_answer import Spelling, TextAnswer, served_by
from aigrid.node.gateway.limits import GatewayLimits
from aigrid.node.gateway.openai import answers
from aigrid.node.gateway.openai.chat_request import decode_chat
from aigrid.node.gateway.openai.completion_answers import CompletionSpelling
from aigrid.node.gateway.openai.completion_request import decode_completion
from aigrid.node.gateway.openai.embeddings import decode_embeddings, embeddings_body
from aigrid.node.gateway.openai.fields import ChoicesCall
from aigrid.node.gateway.openai.response_answers import ResponseSpelling
from aigrid.node.gateway.openai.response_request import ResponseCall, decode_response
from aigrid.node.gateway.patience import wish_of


class _Asked(Protocol):
    """What a client asked for, beside how it is to be spelled."""

    @property
    def call(self) -> TextCall: ...


A = TypeVar("A", bound=_Asked)


class OpenAiEndpoints:
    """The routes of the dialect, over one core."""

    def __init__(self, core: GatewayCore, bodies: BodyReader, limits: GatewayLimits) -> None:
        self._core = core
        self._bodies = bodies
        self._limits = limits

    def routes(self) -> list[Route]:
        """What exists under /v1. Model ids may hold slashes and colons."""
        chat = partial(self._text, decode_chat, partial(_choices, answers.ChatSpelling, "chatcmpl"))
        completion = partial(
            self._text, decode_completion, partial(_choices, CompletionSpelling, "cmpl")
        )
        response = partial(self._text, decode_response, _response)
        return [
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/completions", completion, methods=["POST"]),
            Route("/v1/responses", response, methods=["POST"]),
            Route("/v1/embeddings", self._embeddings, methods=["POST"]),
            Route("/v1/models", self._models, methods=["GET"]),
            Route("/v1/models/{model:path}", self._model, methods=["GET"]),
        ]

    async def _models(self, _request: Request) -> Response:
        return json_response(answers.model_list(self._core.models(), self._core.whereabouts()))

    async def _model(self, request: Request) -> Response:
        found = self._core.model(request.path_params["model"])
        return json_response(answers.model_object(found, self._core.whereabouts()))

    async def _embeddings(self, request: Request) -> Response:
        asked = decode_embeddings(await json_body(self._bodies, request))
        found = await task_answer(self._core, request, asked.call, self._limits)
        body = embeddings_body(asked, found)
        return Response(body, headers=served_by(found.answer, found.told), media_type=JSON_TYPE)

    async def _text(
        self,
        decode: Callable[[bytes], A],
        spell: Callable[[A, str, int], Spelling],
        request: Request,
    ) -> TextAnswer:
        asked = decode(await json_body(self._bodies, request))
        call = asked.call
        wish = wish_of(request.fields, call.keep_alive, self._limits, stream=call.stream)
        generation = self._core.generate(
            call, request_id=request.id, visit=request.visit, wish=wish
        )
        spelling = spell(asked, request.id, self._core.now_seconds())
        return TextAnswer(generation, spelling, stream=call.stream, limits=self._limits)


def _choices(
    spelling: type[answers.ChoicesSpelling],
    prefix: str,
    asked: ChoicesCall,
    request_id: str,
    created: int,
) -> Spelling:
    return spelling(
        answer_id=f"{prefix}-{request_id}",
        created=created,
        include_usage=asked.include_usage,
        choices=asked.call.count,
    )


def _response(asked: ResponseCall, request_id: str, created: int) -> Spelling:
    return ResponseSpelling(asked.echoed, request_id, created)
