"""OpenAI's chat over HTTP: `chat_request` decodes, `core` answers, `answers` spells it."""

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from aigrid.node.gateway.core import GatewayCore
from aigrid.node.gateway.http.asgi import JSON_TYPE, REQUEST_ID, VISIT, BodyReader
from aigrid.node.gateway.http.guard import check_json
from aigrid.node.gateway.http.text_answer import TextAnswer
from aigrid.node.gateway.limits import GatewayLimits
from aigrid.node.gateway.openai import answers
from aigrid.node.gateway.openai.chat_request import decode_chat
from aigrid.node.gateway.patience import wish_of


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

    async def _chat(self, request: Request) -> TextAnswer:
        headers = dict(request.scope["headers"])
        check_json(headers)
        chat = decode_chat(await self._bodies.read(headers, request.receive))
        call = chat.call
        scope = request.scope
        wish = wish_of(headers, call.keep_alive, self._limits, stream=call.stream)
        request_id = scope[REQUEST_ID]
        generation = self._core.generate(call, request_id=request_id, visit=scope[VISIT], wish=wish)
        spelling = answers.ChatSpelling(
            completion_id=f"chatcmpl-{request_id}",
            created=self._core.now_seconds(),
            include_usage=chat.include_usage,
            choices=call.choices,
        )
        return TextAnswer(
            generation, spelling, stream=call.stream, request_id=request_id, limits=self._limits
        )


def json_response(value: object, status: int = 200) -> Response:
    """A value as JSON."""
    return Response(msgspec.json.encode(value), status, media_type=JSON_TYPE)
