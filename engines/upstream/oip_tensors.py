"""Requests and answers of a server of the Open Inference Protocol: `Tensor` to a body and back."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from aigrid.protocol.errors import EngineError, InvalidRequestError
from aigrid.protocol.inference import Tensor
from aigrid.protocol.open_inference import HEAD_LENGTH, WireTensor, read, split, write
from aigrid.protocol.tensors import BY_DATATYPE, TensorSpec, fits, spelled

_encode = msgspec.json.Encoder().encode


class _Answer(msgspec.Struct):
    outputs: list[WireTensor]


_ANSWERS: msgspec.json.Decoder[_Answer] = msgspec.json.Decoder(_Answer)


def body_of(
    feeds: Mapping[str, Tensor], wanted: Sequence[str], *, binary: bool
) -> tuple[bytes, dict[str, str]]:
    """What is posted, and the headers that say how to read it.

    Raises:
        EngineError: `invalid_request` for what the server could not be sent.
    """
    try:
        inputs, tail = write(feeds, binary=lambda _: binary)
    except InvalidRequestError as error:
        raise EngineError(error.message, error.code) from None
    outputs: list[dict[str, Any]] = [{"name": name} for name in wanted]
    if binary:
        outputs = [{**output, "parameters": {"binary_data": True}} for output in outputs]
    head = _encode({"inputs": inputs, "outputs": outputs})
    if not binary:
        return head, {}
    headers = {HEAD_LENGTH: str(len(head)), "Content-Type": "application/octet-stream"}
    return b"".join((head, *tail)), headers


def tensors_of(
    body: bytes, head_bytes: str | None, specs: Mapping[str, TensorSpec], wanted: Sequence[str]
) -> dict[str, Tensor]:
    """The tensors of an answer, each as declared and as large as its shape says.

    `head_bytes` is the header `HEAD_LENGTH`, None where all of it is JSON.

    Raises:
        EngineError: `engine_failed` for anything else.
    """
    try:
        head, tail = split(body, head_bytes)
        found = read(_ANSWERS.decode(head).outputs, tail, only=wanted)
    except (InvalidRequestError, ValueError, RecursionError) as error:
        raise EngineError(f"the server's answer is not what it declared: {error}"[:200]) from None
    for name in wanted:
        if name not in found:
            raise EngineError(f"the server's answer lacks the output {name!r}")
        tensor, spec = found[name], specs[name]
        if tensor.dtype != BY_DATATYPE[spec.datatype].dtype or not fits(spec, tensor.shape):
            got = f"{tensor.dtype} {list(tensor.shape)}"
            raise EngineError(f"the server's output {name!r} is {got}, not {spelled(spec)}")
    return {name: found[name] for name in wanted}
