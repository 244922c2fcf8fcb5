"""The dialect's answers as bytes. Pure translation.

Ours on top: `aigrid_node` among the parameters of an answer, the PeerId of who gave it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from aigrid.node.gateway.core import Listed
from aigrid.node.gateway.http.errors import error_text
from aigrid.node.gateway.open_inference.infer_request import InferCall
from aigrid.node.gateway.open_inference.signature import Signature
from aigrid.node.gateway.repository import Held
from aigrid.node.mesh.routing.answer import Segment
from aigrid.protocol.errors import AigridError, EngineError
from aigrid.protocol.inference import Tensor
from aigrid.protocol.open_inference import HEAD_LENGTH, write
from aigrid.protocol.tensors import TensorSpec

NAME = "aigrid"
EXTENSIONS = ("binary_tensor_data", "model_repository", "parameters")
OCTETS = "application/octet-stream"
READY_STATES = frozenset({"warm", "on_disk"})
"""Of an offer: whoever asks gets an answer."""

_encode = msgspec.json.Encoder().encode


def error_body(error: AigridError, _segments: Sequence[Segment] = ()) -> bytes:
    """The body of an error: clients want a text, and break at an object."""
    return _encode({"error": error_text(error)})


def model_metadata(listed: Listed, signature: Signature) -> dict[str, Any]:
    """One model. Its one version is its model id."""
    return {
        "name": listed.listed_id,
        "versions": [listed.view.model],
        "platform": signature.platform,
        "inputs": [_spec(spec) for spec in signature.inputs],
        "outputs": [_spec(spec) for spec in signature.outputs],
    }


def infer_body(
    call: InferCall,
    tensors: Mapping[str, Tensor],
    *,
    name: str,
    version: str,
    segments: Sequence[Segment],
) -> tuple[bytes, dict[str, str]]:
    """An answer, and the headers that say how to read it.

    Raises:
        InvalidRequestError: JSON was asked for that cannot carry it.
        EngineError: a node answered with what are no tensors.
    """
    try:
        outputs, tail = write(tensors, binary=call.is_binary)
    except ValueError as error:
        raise EngineError(f"The model's answer cannot be read: {error}.") from None
    head = _encode(
        {
            "model_name": name,
            "model_version": version,
            **({"id": call.id} if call.id else {}),
            "parameters": {"aigrid_node": segments[-1].node} if segments else {},
            "outputs": outputs,
        }
    )
    if not tail:
        return head, {}
    return b"".join((head, *tail)), {HEAD_LENGTH: str(len(head))}


def repository_index(held: Sequence[Held], *, ready: bool) -> list[dict[str, str]]:
    """The models of this node; with `ready` only those that are."""
    return [msgspec.to_builtins(one) for one in held if not ready or one.state == "READY"]


def _spec(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": spec.shape}
