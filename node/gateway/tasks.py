"""Typed tasks over HTTP: `POST /aigrid/v1/tasks/{task}`, and OpenAI's embeddings on top of them.

Input and output are those of the task's capability (SPEC 13.1); the body names a model, or leaves
the choice to the node.
"""

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from aigrid.node.gateway.call import TaskCall
from aigrid.node.gateway.core import GatewayCore, TaskAnswer
from aigrid.node.gateway.http.asgi import JSON_TYPE, BodyReader
from aigrid.node.gateway.http.guard import check_json
from aigrid.node.gateway.http.task_answer import task_answer
from aigrid.node.gateway.http.text_answer import served_by
from aigrid.node.gateway.limits import GatewayLimits
from aigrid.node.gateway.openai.embeddings import decode_embeddings, embeddings_body
from aigrid.node.gateway.told import aigrid_object
from aigrid.protocol.errors import InvalidRequestError
from aigrid.protocol.inference import TaskRequest
from aigrid.protocol.limits import LIMITS

_encode = msgspec.json.Encoder().encode


class TaskBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a typed task."""

    input: msgspec.Raw
    model: str = ""
    parameters: dict[str, str | int | float | bool] = {}
    keep_alive: str | int | float | None = None


class TaskEndpoints:
    """The routes of typed tasks, over one core."""

    def __init__(self, core: GatewayCore, bodies: BodyReader, limits: GatewayLimits) -> None:
        self._core = core
        self._bodies = bodies
        self._limits = limits

    def routes(self) -> list[BaseRoute]:
        """A task is a capability's name, which may be an IRI."""
        return [
            Route("/aigrid/v1/tasks/{task:path}", self._task, methods=["POST"]),
            Route("/v1/embeddings", self._embeddings, methods=["POST"]),
        ]

    async def _task(self, request: Request) -> Response:
        call = decode_task(request.path_params["task"], await self._read(request))
        found = await task_answer(self._core, request, call, self._limits)
        body = {
            "task": call.capability,
            "model": found.answer.name,
            "output": msgspec.Raw(found.output),
            "usage": {"prompt_tokens": found.finish.prompt_tokens},
            "aigrid": aigrid_object(found.told),
        }
        return _answered(found, _encode(body))

    async def _embeddings(self, request: Request) -> Response:
        asked = decode_embeddings(await self._read(request))
        found = await task_answer(self._core, request, asked.call, self._limits)
        return _answered(found, embeddings_body(asked, found))

    async def _read(self, request: Request) -> bytes:
        headers = dict(request.scope["headers"])
        check_json(headers)
        return await self._bodies.read(headers, request.receive)


def decode_task(task: str, body: bytes) -> TaskCall:
    """The body of `POST /aigrid/v1/tasks/{task}`, checked.

    Raises:
        InvalidRequestError: what is wrong with the body.
    """
    try:
        parsed = msgspec.json.decode(body, type=TaskBody)
        request = msgspec.convert(
            {"task": task, "input": bytes(parsed.input), "parameters": parsed.parameters},
            TaskRequest,
        )
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InvalidRequestError(
            f"The body is not a task request: {error}. "
            'Send {"input": ..., "model": "...", "parameters": {...}}.'
        ) from None
    if len(parsed.model) > LIMITS.model_field_max_chars:
        raise InvalidRequestError("The name of the model is too long.", param="model")
    models = (parsed.model,) if parsed.model else ()
    return TaskCall(models, request, keep_alive=parsed.keep_alive)


def _answered(found: TaskAnswer, body: bytes) -> Response:
    return Response(body, headers=served_by(found.answer), media_type=JSON_TYPE)
