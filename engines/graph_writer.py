"""Write an ONNX graph whose large constants lie in a file beside it.

The file of weights is what a session maps, and a protobuf cannot hold more than 2 GiB.
"""

from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from aigrid.engines.graph_cache import GRAPH_FILE, WEIGHTS_FILE

MICROSOFT: Final = "com.microsoft"
_INLINE_BYTES: Final = 4096
_ALIGNMENT: Final = 4096


class GraphWriter:
    """Nodes and weights as they are added; `stream` takes the contents of `WEIGHTS_FILE`."""

    def __init__(self, stream: BinaryIO) -> None:
        self.nodes: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self.initializers: list[Any] = []
        self._stream = stream

    def node(
        self, op: str, inputs: list[str], outputs: list[str], domain: str = "", **settings: Any
    ) -> str:
        """Add a node and return its first output."""
        self.nodes.append(helper.make_node(op, inputs, outputs, domain=domain, **settings))
        return outputs[0]

    def constant(self, name: str, values: npt.NDArray[Any]) -> str:
        """Add a constant, a large one in the file of weights, from where it is mapped."""
        values = np.ascontiguousarray(values).reshape(values.shape)  # it makes a scalar a vector
        if values.nbytes < _INLINE_BYTES:
            self.initializers.append(onnx.numpy_helper.from_array(values, name))
            return name
        self._stream.write(bytes(-self._stream.tell() % _ALIGNMENT))
        proto = TensorProto(
            name=name,
            dims=values.shape,
            data_type=helper.np_dtype_to_tensor_dtype(values.dtype),
            data_location=TensorProto.EXTERNAL,
        )
        for key, value in (
            ("location", WEIGHTS_FILE),
            ("offset", self._stream.tell()),
            ("length", values.nbytes),
        ):
            proto.external_data.add(key=key, value=str(value))
        self._stream.write(values.data)
        self.initializers.append(proto)
        return name

    def save(self, directory: Path, name: str) -> None:
        """Write `GRAPH_FILE` into an existing directory."""
        proto = helper.make_model(
            helper.make_graph(self.nodes, name, self.inputs, self.outputs, self.initializers),
            opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid(MICROSOFT, 1)],
            ir_version=10,
        )
        (directory / GRAPH_FILE).write_bytes(proto.SerializeToString())
