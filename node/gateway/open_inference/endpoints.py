"""The Open Inference Protocol over HTTP: decoding, the core, spelling.

A model's name may hold slashes and colons. Its one version is its model id, which a path may name.
"""

from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import TypeVar

import msgspec
import trio

from aigrid.node.gateway.call import TaskCall
from aigrid.node.gateway.core import GatewayCore, Listed
from aigrid.node.gateway.http.bodies import BodyReader
from aigrid.node.gateway.http.json_io import json_response
from aigrid.node.gateway.http.request import Request
from aigrid.node.gateway.http.response import JSON_TYPE, Response
from aigrid.node.gateway.http.routes import Route
from aigrid.node.gateway.http.task_answer import task_answer
from aigrid.node.gateway.http.text_answer import served_by
from aigrid.node.gateway.limits import GatewayLimits
from aigrid.node.gateway.open_inference import answers
from aigrid.node.gateway.open_inference.infer_request import decode_infer
from aigrid.node.gateway.open_inference.signature import (
    Signature,
    outputs_of,
    request_of,
    signature_of,
)
from aigrid.node.gateway.repository import Repository
from aigrid.protocol.errors import Code, InvalidRequestError, LocalError, NoCandidateError
from aigrid.protocol.mesh_kinds import ModelBody
from aigrid.protocol.open_inference import HEAD_LENGTH

T = TypeVar("T")
LIVE, READY = "/v2/health/live", "/v2/health/ready"
_MODEL = "/v2/models/{model:path}"
_VERSION = _MODEL + "/versions/{version}"
_KINDS = frozenset({"", JSON_TYPE, answers.OCTETS})


class RepositoryBody(msgspec.Struct):
    """The body of a call to the repository; only `unload_dependents` changes nothing here."""

    ready: bool = False
    parameters: dict[str, msgspec.Raw] = {}


class OpenInferenceEndpoints:
    """The routes of the dialect, over one core.

    `manifest` is what is said of a model id, or None; `repository` the models of this node.
    """

    def __init__(
        self,
        core: GatewayCore,
        bodies: BodyReader,
        limits: GatewayLimits,
        *,
        manifest: Callable[[str], ModelBody | None],
        repository: Repository,
    ) -> None:
        self._core = core
        self._bodies = bodies
        self._limits = limits
        self._manifest = manifest
        self._repository = repository

    def routes(self) -> list[Route]:
        """What exists under /v2; the longer path comes first, for a name may hold anything."""
        named = [
            Route(f"{path}{end}", endpoint, methods=[method])
            for path in (_VERSION, _MODEL)
            for end, endpoint, method in (
                ("/infer", self._infer, "POST"),
                ("/ready", self._model_ready, "GET"),
                ("", self._model, "GET"),
            )
        ]
        return [
            Route("/v2", self._server, methods=["GET"]),
            Route(LIVE, self._live, methods=["GET"]),
            Route(READY, self._ready, methods=["GET"]),
            Route("/v2/repository/index", self._index, methods=["POST"]),
            Route("/v2/repository/models/{model:path}/load", self._load, methods=["POST"]),
            Route("/v2/repository/models/{model:path}/unload", self._unload, methods=["POST"]),
            *named,
        ]

    # -- the server

    async def _server(self, _request: Request) -> Response:
        told = {"name": answers.NAME, "version": version("aigrid-node")}
        return json_response({**told, "extensions": answers.EXTENSIONS})

    async def _live(self, _request: Request) -> Response:
        return json_response({"live": True})

    async def _ready(self, _request: Request) -> Response:
        if self._core.stopping:
            raise LocalError("This node is stopping.", Code.SHUTTING_DOWN)
        return json_response({"ready": True})

    # -- models

    async def _model(self, request: Request) -> Response:
        listed = self._named(request)
        return json_response(answers.model_metadata(listed, self._signature(listed)))

    async def _model_ready(self, request: Request) -> Response:
        listed = self._named(request)
        if listed.view.state not in answers.READY_STATES:
            raise NoCandidateError(f"The model {listed.listed_id!r} is {listed.view.state} yet.")
        return json_response({"name": listed.listed_id, "ready": True})

    async def _infer(self, request: Request) -> Response:
        listed = self._named(request)
        headers = request.fields
        _check_kind(headers)
        told = headers.get(HEAD_LENGTH.lower().encode())
        body = await self._bodies.read(request)
        head_bytes = None if told is None else told.decode("latin-1")
        call = await self._translated(len(body), partial(decode_infer, body, head_bytes))
        signature = self._signature(listed)
        asked = TaskCall(
            (listed.view.model if "version" in request.path_params else listed.listed_id,),
            request_of(signature, call.asked),
            kind=signature.capability,
        )
        found = await task_answer(self._core, request, asked, self._limits)
        outputs = outputs_of(signature, found.output, found.tensors)
        spell = partial(
            answers.infer_body,
            call,
            outputs,
            name=listed.listed_id,
            version=found.answer.model,
            segments=found.told.segments,
        )
        said, more = await self._translated(sum(len(one.data) for one in outputs.values()), spell)
        kind = answers.OCTETS if more else JSON_TYPE
        return Response(
            said, headers={**served_by(found.answer, found.told), **more}, media_type=kind
        )

    async def _translated(self, size_bytes: int, translate: Callable[[], T]) -> T:
        """Run a translation of tensors; while a large one takes its time, others are served."""
        if size_bytes <= self._limits.tensor_inline_max_bytes:
            return translate()
        return await trio.to_thread.run_sync(translate)

    def _named(self, request: Request) -> Listed:
        """The model of a path. Raises InvalidRequestError: `model_not_found`, `ambiguous_model`."""
        name, wanted = request.path_params["model"], request.path_params.get("version")
        if wanted is None:
            return self._core.model(name)
        listed = self._core.model(wanted)
        if name not in (listed.view.name, listed.view.model):
            raise InvalidRequestError(
                f"{name[:100]!r} has no version {wanted[:100]!r}: versions are model ids.",
                Code.MODEL_NOT_FOUND,
                param="version",
            )
        return listed

    def _signature(self, listed: Listed) -> Signature:
        return signature_of(self._manifest(listed.view.model))

    # -- the repository

    async def _index(self, request: Request) -> Response:
        told = await self._repository_call(request)
        return json_response(answers.repository_index(self._repository.index(), ready=told.ready))

    async def _load(self, request: Request) -> Response:
        check_load(await self._repository_call(request))
        model = request.path_params["model"]
        await request.unless_gone(self._repository.load(model))
        return json_response({})

    async def _unload(self, request: Request) -> Response:
        await self._repository_call(request)
        model = request.path_params["model"]
        await request.unless_gone(self._repository.unload(model))
        return json_response({})

    async def _repository_call(self, request: Request) -> RepositoryBody:
        """The body of a call by somebody who may."""
        request.visit.may_operate()
        _check_kind(request.fields)
        return decode_repository(await self._bodies.read(request))


def decode_repository(body: bytes) -> RepositoryBody:
    """The body of a call to the repository; there may be none.

    Raises:
        InvalidRequestError: it is not of this form.
    """
    if not body.strip():
        return RepositoryBody()
    try:
        return msgspec.json.decode(body, type=RepositoryBody)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InvalidRequestError(f"The body is not what this path takes: {error}.") from None


def check_load(told: RepositoryBody) -> None:
    """Raise InvalidRequestError if a model is to be loaded in another way than it was published."""
    if told.parameters:
        name = min(told.parameters)[:64]
        raise InvalidRequestError(
            f"A model is loaded as it was published: leave out parameters.{name}.",
            Code.UNSUPPORTED_PARAMETER,
            param=f"parameters.{name}",
        )


def _check_kind(headers: dict[bytes, bytes]) -> None:
    """Refuse what is neither JSON nor binary; clients of the protocol often say nothing.

    A page cannot use that: a request that it sends has an Origin.

    Raises:
        InvalidRequestError: `unsupported_media_type`.
    """
    kind = headers.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip().lower()
    plain = headers.get(b"content-encoding", b"identity").strip().lower() == b"identity"
    if kind not in _KINDS or not plain:
        raise InvalidRequestError(
            f"The body must be {JSON_TYPE} or {answers.OCTETS}, and not compressed.",
            Code.UNSUPPORTED_MEDIA_TYPE,
        )
