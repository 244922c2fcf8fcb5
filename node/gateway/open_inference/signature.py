"""What a model takes and gives, as its manifest says it. Pure.

A model that declares tensors is asked for these. One that does a typed task and declares none takes
the task's input as one text, JSON, and answers alike. A model that writes text has an API of its
own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from aigrid.protocol.errors import Code, EngineError, InvalidRequestError
from aigrid.protocol.inference import TaskRequest, Tensor, TensorRequest, check_settings
from aigrid.protocol.mesh_kinds import ModelBody, tensors_of
from aigrid.protocol.tensors import TensorSpec, misfit, texts, texts_of

INPUT, OUTPUT = "input", "output"
_TEXT_GENERATION: Final = "text-generation"
_JSON_IN, _JSON_OUT = (TensorSpec(name, "BYTES", (1,)) for name in (INPUT, OUTPUT))


@dataclass(frozen=True, slots=True)
class Signature:
    """What requests to a model look like.

    Attributes:
        platform: the model's format.
        capability: that a request asks for.
        inputs, outputs: none where it takes no tensors, or the manifest does not say.
        task: that the one text is the input of; "" for a model that takes its own tensors.
    """

    platform: str = ""
    capability: str = ""
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    task: str = ""


@dataclass(frozen=True, slots=True)
class Asked:
    """Tensors that came in, which outputs are wanted, and settings of the request."""

    request: TensorRequest
    parameters: Mapping[str, str | int | float | bool] = field(default_factory=dict)


def signature_of(body: ModelBody | None) -> Signature:
    """Of a manifest; of a model without one nothing is known."""
    if body is None:
        return Signature()
    platform, capability = body.model.format, body.capabilities[0]
    inputs, outputs = tensors_of(body)
    if inputs:
        return Signature(platform, capability, inputs, outputs)
    if body.model.task == _TEXT_GENERATION:
        return Signature(platform, capability)
    return Signature(platform, capability, (_JSON_IN,), (_JSON_OUT,), task=capability)


def request_of(signature: Signature, asked: Asked) -> TaskRequest | TensorRequest:
    """What the mesh is asked.

    Raises:
        InvalidRequestError: why the model does not take it; `param` names the tensor.
    """
    if not signature.inputs:
        raise InvalidRequestError(
            "The model takes no tensors, as far as its manifest says: models that write text are "
            "asked at /v1/chat/completions.",
            param="model",
        )
    wrong = misfit(asked.request, signature.inputs, signature.outputs)
    if wrong is not None:
        reason = wrong.reason[:1].upper() + wrong.reason[1:]
        raise InvalidRequestError(f"{reason}.", param=wrong.tensor or None)
    if not signature.task:
        if asked.parameters:
            name = min(asked.parameters)
            raise InvalidRequestError(
                f"The model takes no parameter {name[:64]!r}.",
                Code.UNSUPPORTED_PARAMETER,
                param=f"parameters.{name[:64]}",
            )
        return asked.request
    check_settings(asked.parameters)
    try:
        (text,) = texts_of(asked.request.inputs[INPUT].data)
        msgspec.json.decode(text, type=msgspec.Raw)
        given = {"task": signature.task, "input": text.encode(), "parameters": asked.parameters}
        return msgspec.convert(given, TaskRequest)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise InvalidRequestError(
            f"The tensor `{INPUT}` is not the input of {signature.task} as JSON: {error}. It is "
            f"what /aigrid/v1/tasks/{signature.task} takes as `input`.",
            param=INPUT,
        ) from None


def outputs_of(
    signature: Signature, output: bytes, tensors: Mapping[str, Tensor]
) -> Mapping[str, Tensor]:
    """The tensors of an answer: a typed task's is one text.

    Raises:
        EngineError: a task was answered with what is no text.
    """
    if not signature.task:
        return tensors
    try:
        return {OUTPUT: Tensor("string", (1,), texts([output.decode()]))}
    except UnicodeDecodeError:
        raise EngineError("The model answered with what is no JSON.") from None
