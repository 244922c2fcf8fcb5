"""Typed tasks over HTTP: `POST /aigrid/v1/tasks/{task}`, and OpenAI's embeddings on top of them.

Input and output are those of the task's capability (SPEC 13.1); the body names a model, or leaves
the choice to the node.
"""

from dataclasses import dataclass

import msgspec

from aigrid.node.gateway.core import GatewayCore, TaskAnswer
from aigrid.node.gateway.http.bodies import BodyReader
from aigrid.node.gateway.http.guard import check_json
from aigrid.node.gateway.http.request import Request
from aigrid.node.gateway.http.response import JSON_TYPE, Response
from aigrid.node.gateway.http.routes import Route
from aigrid.node.gateway.limits import GatewayLimits
from aigrid.node.gateway.openai.embeddings import decode_embeddings, embeddings_body
from aigrid.node.gateway.patience import wish_of
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


@dataclass(frozen=True, slots=True)
class TaskCall:
    """What a client asked for; without a `model` the node chooses. `keep_alive`: as it was sent."""

    model: str
    request: TaskRequest
    keep_alive: str | float | None = None


class TaskEndpoints:
    """The routes of typed tasks, over one core."""

    def __init__(self, core: GatewayCore, bodies: BodyReader, limits: GatewayLimits) -> None:
        self._core = core
        self._bodies = bodies
        self._limits = limits

    def routes(self) -> list[Route]:
        """A task is a capability's name, which may be an IRI."""
        return [
            Route("/aigrid/v1/tasks/{task:path}", self._task, methods=["POST"]),
            Route("/v1/embeddings", self._embeddings, methods=["POST"]),
        ]

    async def _task(self, request: Request) -> Response:
        call = decode_task(request.path_params["task"], await self._read(request))
        found = await self._run(request, call)
        body = {
            "task": call.request.task,
            "model": found.answer.name,
            "output": msgspec.Raw(found.output),
            "usage": {"prompt_tokens": found.finish.prompt_tokens},
            "aigrid": aigrid_object(found.segments),
        }
        return _answered(found, _encode(body))

    async def _embeddings(self, request: Request) -> Response:
        call = decode_embeddings(await self._read(request))
        found = await self._run(request, TaskCall(call.model, call.request, call.keep_alive))
        return _answered(found, embeddings_body(call, found))

    async def _read(self, request: Request) -> bytes:
        check_json(request.fields)
        return await self._bodies.read(request)

    async def _run(self, request: Request, call: TaskCall) -> TaskAnswer:
        wish = wish_of(request.fields, call.keep_alive, self._limits)
        task = self._core.run_task(
            call.model, call.request, request_id=request.id, visit=request.visit, wish=wish
        )
        return await request.unless_gone(task)


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
    return TaskCall(parsed.model, request, parsed.keep_alive)


def _answered(found: TaskAnswer, body: bytes) -> Response:
    headers = {"x-aigrid-node": found.answer.node, "x-aigrid-model": found.answer.model}
    return Response(body, headers=headers, media_type=JSON_TYPE)
