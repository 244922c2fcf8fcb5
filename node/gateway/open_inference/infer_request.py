"""A request to infer, decoded and checked: bytes in, `InferCall` or an error out. Pure.

Source: the Open Inference Protocol, version 2, and Triton's extensions for parameters and binary
data. What would change the meaning of the answer and cannot be honoured is refused by name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from aigrid.node.gateway.open_inference.signature import Asked
from aigrid.node.outcome.no_json import no_json
from aigrid.protocol.errors import Code, InvalidRequestError
from aigrid.protocol.inference import TensorRequest
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.open_inference import WireTensor, read, split

_ID_MAX_CHARS: Final = 256
_BINARY_ALL: Final = "binary_data_output"
# They say how to schedule or to decode, not what to compute.
_NEUTRAL: Final = frozenset({_BINARY_ALL, "priority", "timeout", "headers", "content_type"})
_SEQUENCE: Final = frozenset({"sequence_id", "sequence_start", "sequence_end"})
_Scalar = str | int | float | bool


class _OutputParameters(msgspec.Struct):
    binary_data: bool | None = None
    classification: int | None = None
    shared_memory_region: str | None = None


class _Output(msgspec.Struct):
    name: Annotated[str, Meta(min_length=1, max_length=LIMITS.tensor_name_max_chars)]
    parameters: _OutputParameters | None = None


class InferBody(msgspec.Struct):
    """The JSON of a request to infer."""

    inputs: list[WireTensor]
    outputs: Annotated[list[_Output], Meta(max_length=LIMITS.tensors_max)] | None = None
    id: Annotated[str, Meta(max_length=_ID_MAX_CHARS)] = ""
    parameters: Annotated[
        dict[Annotated[str, Meta(max_length=64)], msgspec.Raw],
        Meta(max_length=LIMITS.task_parameters_max),
    ] = {}


_DECODER: msgspec.json.Decoder[InferBody] = msgspec.json.Decoder(InferBody)


@dataclass(frozen=True, slots=True)
class InferCall:
    """What a client asked for; `id` comes back with the answer.

    Attributes:
        binary: output -> whether it comes as binary data; `binary_else` of those not in it.
    """

    asked: Asked
    id: str
    binary: Mapping[str, bool]
    binary_else: bool

    def is_binary(self, output: str) -> bool:
        """How an output is wanted."""
        return self.binary.get(output, self.binary_else)


def decode_infer(body: bytes, head_bytes: str | None) -> InferCall:
    """Decode and check the body of `POST /v2/models/{model}/infer`.

    `head_bytes` is the header `Inference-Header-Content-Length`, None where all of it is JSON.

    Raises:
        InvalidRequestError: whatever is wrong with it; `param` names the tensor or the field.
    """
    head, tail = split(body, head_bytes)
    try:
        parsed = _DECODER.decode(head)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        misfits = isinstance(error, msgspec.ValidationError)
        wrong = str(error) if misfits else no_json(bytes(head), error)
        raise InvalidRequestError(
            f"The body is not a request to infer: {wrong}. Send "
            '{"inputs": [{"name": ..., "shape": [...], "datatype": ..., "data": [...]}]}, and '
            "where binary data follow, the length of the JSON in Inference-Header-Content-Length."
        ) from None
    tensors = read(parsed.inputs, tail)
    wanted = parsed.outputs or []
    binary = {}
    for output in wanted:
        told = output.parameters or _OutputParameters()
        if told.classification:
            _unsupported(f"outputs.{output.name[:64]}.parameters.classification")
        if told.shared_memory_region is not None:
            _unsupported(f"outputs.{output.name[:64]}.parameters.shared_memory_region")
        if told.binary_data is not None:
            binary[output.name] = told.binary_data
    settings = _settings(parsed.parameters)
    every = settings.pop(_BINARY_ALL, False)
    if not isinstance(every, bool):
        raise InvalidRequestError(f"{_BINARY_ALL} must be true or false.", param=_BINARY_ALL)
    request = TensorRequest(tensors, tuple(output.name for output in wanted))
    return InferCall(Asked(request, settings), parsed.id, binary, every)


def _settings(given: Mapping[str, msgspec.Raw]) -> dict[str, _Scalar]:
    """Those that mean something here."""
    found: dict[str, _Scalar] = {}
    for name, raw in given.items():
        if name in _NEUTRAL and name != _BINARY_ALL:
            continue
        try:
            value = msgspec.json.decode(raw, type=_Scalar | None)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            raise InvalidRequestError(
                f"parameters.{name} must be a text, a number, true or false.",
                param=f"parameters.{name}",
            ) from None
        if name in _SEQUENCE and value:
            _unsupported(f"parameters.{name}")
        if name not in _SEQUENCE and value is not None:
            found[name] = value
    return found


def _unsupported(param: str) -> None:
    raise InvalidRequestError(f"{param} is not supported.", Code.UNSUPPORTED_PARAMETER, param=param)
