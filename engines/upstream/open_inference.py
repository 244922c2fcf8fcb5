"""Models behind a server of the Open Inference Protocol, version 2.

Triton, KServe, MLServer, Ray Serve. Tensors in and out, or typed tasks where the model has a
mapping: the server is then one more runner of tensors.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

import msgspec

from aigrid.engines.base import CancelToken, ModelSource, Served, wrong_task
from aigrid.engines.onnx_tensors import array_of, tensor_of
from aigrid.engines.tasks import TASKS, Tasks
from aigrid.engines.tasks.base import Array
from aigrid.engines.upstream.connections import Bounds
from aigrid.engines.upstream.engine import Backend, UpstreamEngine
from aigrid.engines.upstream.http import Client, ask_json, brief, refused
from aigrid.engines.upstream.oip_tensors import body_of, tensors_of
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.inference import (
    Finish,
    InferChunk,
    InferRequest,
    TaskRequest,
    Tensor,
    TensorChunk,
    TensorRequest,
)
from aigrid.protocol.limits import LIMITS, Limits
from aigrid.protocol.open_inference import HEAD_LENGTH
from aigrid.protocol.tensors import BY_DATATYPE, TensorSpec, TensorSpecs, misfit, zeros
from aigrid.protocol.upstream import Upstream

_BINARY: Final = frozenset({"binary_tensor_data", "binary_data"})
_JSON_BYTES_EACH: Final = 26  # the longest a number of eight bytes is as JSON, comma included


class _Server(msgspec.Struct):
    extensions: list[str] | None = None


class _Metadata(msgspec.Struct):
    name: str
    versions: list[str] | None = None
    inputs: list[Any] | None = None
    outputs: list[Any] | None = None


class _Entry(msgspec.Struct):
    name: str
    state: str = ""


class OpenInferenceEngine(UpstreamEngine):
    """See the module."""

    name = "open_inference"
    tasks = ("tensor", *TASKS)

    def connect(self, client: Client, source: ModelSource, upstream: Upstream) -> Backend:
        return OipModel(client, source, upstream, self._limits)

    def served(self, client: Client, model: str) -> tuple[Served, ...]:
        return (find(client, model, self._limits),) if model else listed(client, self._limits)


class OipModel:
    """One model at one server; a `Runner` for tasks."""

    def __init__(
        self, client: Client, source: ModelSource, upstream: Upstream, limits: Limits
    ) -> None:
        self._client = client
        self._name = upstream.model
        self._path = _path(upstream.model, upstream.version)
        self._limits = limits
        self._inputs = {spec.name: spec for spec in upstream.inputs}
        self._outputs = {spec.name: spec for spec in upstream.outputs}
        self._binary = _takes_binary(client, limits)
        self._tasks = None if source.mapping is None else Tasks(source, self)

    @property
    def inputs(self) -> Mapping[str, Sequence[int | None]]:
        """See `Runner`."""
        return {
            name: tuple(n if n >= 0 else None for n in spec.shape)
            for name, spec in self._inputs.items()
        }

    @property
    def outputs(self) -> Sequence[str]:
        """See `Runner`."""
        return tuple(self._outputs)

    def run(self, feeds: Mapping[str, Array], cancel: CancelToken) -> Mapping[str, Array]:
        """See `Runner`."""
        cast = {}
        for name, array in feeds.items():
            dtype = BY_DATATYPE[self._inputs[name].datatype].dtype
            cast[name] = tensor_of(name, array, dtype)
        found = self._infer(cast, self.outputs, self._usual, cancel)
        return {name: array_of(tensor) for name, tensor in found.items()}

    def look(self) -> tuple[Served, int]:
        """See `Backend.look`. The protocol says nothing of requests that wait."""
        with self._client.open("GET", f"{self._path}/ready", bounds=brief(self._limits)) as answer:
            if answer.status != 200:
                raise EngineError(f"the server is not ready: status {answer.status}")
        return find(self._client, self._name, self._limits), 0

    def trial(self, bounds: Bounds) -> None:
        """See `Backend.trial`: the smallest tensors that fit, of zeros."""
        feeds = zeros(self._inputs.values(), LIMITS.tensor_max_bytes)
        if feeds is None:
            raise EngineError("its inputs are larger than a request may be")
        self._infer(feeds, self.outputs, self._bounds(bounds), CancelToken())

    def answer(self, request: InferRequest, cancel: CancelToken) -> Iterator[InferChunk]:
        """See `Backend.answer`."""
        if isinstance(request, TensorRequest):
            wrong = misfit(request, [*self._inputs.values()], [*self._outputs.values()])
            if wrong is not None:
                raise _invalid(wrong.reason)
            wanted = request.outputs or self.outputs
            outputs = self._infer(request.inputs, wanted, self._usual, cancel)
            if sum(len(tensor.data) for tensor in outputs.values()) > LIMITS.tensor_max_bytes:
                raise _invalid("the answer is too large; name fewer outputs or send less at once")
            yield TensorChunk(outputs)
            yield Finish("stop")
        elif not isinstance(request, TaskRequest):
            raise wrong_task(OpenInferenceEngine.name, request)
        elif self._tasks is None:
            raise _invalid("this model takes tensors only: it has no task mapping")
        else:
            yield from self._tasks.run(request, cancel)

    @property
    def _usual(self) -> Bounds:
        limits = self._limits
        return self._bounds(
            Bounds(limits.upstream_silence_seconds, limits.upstream_answer_seconds, 0)
        )

    def _bounds(self, bounds: Bounds) -> Bounds:
        """With room for the largest answer, as JSON or binary."""
        each = 1 if self._binary else _JSON_BYTES_EACH // 8
        most = LIMITS.tensor_max_bytes * each + self._limits.upstream_state_max_bytes
        return Bounds(bounds.silence_seconds, bounds.seconds, most)

    def _infer(
        self,
        feeds: Mapping[str, Tensor],
        wanted: Sequence[str],
        bounds: Bounds,
        cancel: CancelToken,
    ) -> dict[str, Tensor]:
        body, headers = body_of(feeds, wanted, binary=self._binary)
        path = f"{self._path}/infer"
        with self._client.open(
            "POST", path, body, bounds=bounds, cancel=cancel, headers=headers
        ) as answer:
            said = answer.read()
        if answer.status != 200:
            raise refused(answer, said, self._client.location)
        return tensors_of(said, answer.header(HEAD_LENGTH) or None, self._outputs, wanted)


def listed(client: Client, limits: Limits) -> tuple[Served, ...]:
    """The models in a server's repository, by name only.

    Raises:
        EngineError: `unsupported_model` where the server has no list.
    """
    try:
        entries = ask_json(
            client, "/v2/repository/index", list[_Entry], b"{}", bounds=brief(limits)
        )
    except EngineError as error:
        if error.code in (Code.UNSUPPORTED_MODEL, Code.INVALID_REQUEST):
            raise EngineError(
                "the server does not list its models: name one", Code.UNSUPPORTED_MODEL
            ) from None
        raise
    names = dict.fromkeys(entry.name for entry in entries[: limits.upstream_models_max])
    return tuple(Served(name) for name in names)


def find(client: Client, name: str, limits: Limits) -> Served:
    """What a server declares of one model; of its versions, the one it names last.

    Raises:
        EngineError: `unsupported_model` where it has no such model, or declares no tensors that a
            request can carry.
    """
    said = ask_json(client, _path(name, ""), _Metadata, bounds=brief(limits))
    versions = said.versions or []
    try:
        inputs, outputs = (
            msgspec.convert([_spec(tensor) for tensor in tensors or ()], TensorSpecs)
            for tensors in (said.inputs, said.outputs)
        )
    except msgspec.ValidationError as error:
        raise EngineError(
            f"the model has tensors that a request cannot carry: {error}"[:300],
            Code.UNSUPPORTED_MODEL,
        ) from None
    if not inputs or not outputs:
        raise EngineError(
            "the server does not declare the model's input and output tensors",
            Code.UNSUPPORTED_MODEL,
        )
    version = versions[-1][: LIMITS.upstream_name_max_chars] if versions else ""
    return Served(name, version, 0, inputs, outputs)


def _spec(tensor: Any) -> Any:
    """What counts of a declared tensor; servers add what they like."""
    if not isinstance(tensor, dict):
        return tensor
    return {name: tensor.get(name) for name in TensorSpec.__struct_fields__}


def _takes_binary(client: Client, limits: Limits) -> bool:
    said = ask_json(client, "/v2", _Server, bounds=brief(limits))
    return not _BINARY.isdisjoint(said.extensions or ())


def _path(name: str, version: str) -> str:
    path = f"/v2/models/{quote(name, safe='')}"
    return f"{path}/versions/{quote(version, safe='')}" if version else path


def _invalid(message: str) -> EngineError:
    return EngineError(message, Code.INVALID_REQUEST)
