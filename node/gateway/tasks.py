"""Typed tasks over HTTP: `POST /aigrid/v1/tasks/{task}`.

Input and output are those of the task's capability (SPEC 13.1); the body names a model, or leaves
the choice to the node.
"""

import msgspec

from aigrid.node.gateway.call import TaskCall
from aigrid.node.gateway.core import GatewayCore
from aigrid.node.gateway.http.bodies import BodyReader
from aigrid.node.gateway.http.json_io import json_body, json_response
from aigrid.node.gateway.http.request import Request
from aigrid.node.gateway.http.response import Response
from aigrid.node.gateway.http.routes import Route
from aigrid.node.gateway.http.task_answer import task_answer
from aigrid.node.gateway.http.text_answer import served_by
from aigrid.node.gateway.limits import GatewayLimits
from aigrid.node.gateway.openai.fields import explain
from aigrid.node.gateway.told import aigrid_object
from aigrid.node.outcome.no_json import no_json
from aigrid.protocol.errors import InvalidRequestError
from aigrid.protocol.inference import TEXT_GENERATION, TaskRequest, check_settings
from aigrid.protocol.limits import LIMITS


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

    def routes(self) -> list[Route]:
        """A task is a capability's name, which may be an IRI."""
        return [
            Route("/aigrid/v1/tasks/{task:path}", self._task, methods=["POST"]),
        ]

    async def _task(self, request: Request) -> Response:
        call = decode_task(request.path_params["task"], await json_body(self._bodies, request))
        found = await task_answer(self._core, request, call, self._limits)
        body = {
            "task": call.capability,
            "model": found.answer.name,
            "output": msgspec.Raw(found.output),
            "usage": {"prompt_tokens": found.finish.prompt_tokens},
            "aigrid": aigrid_object(found.told),
        }
        return json_response(body, served_by(found.answer, found.told))


def decode_task(task: str, body: bytes) -> TaskCall:
    """The body of `POST /aigrid/v1/tasks/{task}`, checked.

    Raises:
        InvalidRequestError: what is wrong with the body.
    """
    if task == TEXT_GENERATION:
        raise InvalidRequestError(
            "Models that write text are asked at /v1/chat/completions, /v1/responses or /api/chat."
        )
    try:
        parsed = msgspec.json.decode(body, type=TaskBody)
    except msgspec.ValidationError as error:
        wrong = explain(str(error))
        raise InvalidRequestError(
            f'{wrong.message} Send {{"input": ..., "model": "...", "parameters": {{...}}}}.',
            param=wrong.param,
        ) from None
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InvalidRequestError(
            f"The body is no JSON: {no_json(body, error)}. Send one JSON object."
        ) from None
    check_settings(parsed.parameters)
    try:
        request = msgspec.convert(
            {"task": task, "input": bytes(parsed.input), "parameters": parsed.parameters},
            TaskRequest,
        )
    except msgspec.ValidationError as error:
        raise explain(str(error)) from None
    if len(parsed.model) > LIMITS.model_field_max_chars:
        raise InvalidRequestError("The name of the model is too long.", param="model")
    models = (parsed.model,) if parsed.model else ()
    return TaskCall(models, request, keep_alive=parsed.keep_alive)
