"""Files from people who may mean harm: models, what lies beside them, and keys."""

import io
import json
import math
import struct
import zipfile
from functools import cache
from random import Random
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from scripts.fuzzing.mutations import Bytes, Text, mutated
from scripts.fuzzing.protobufs import Protobuf
from scripts.fuzzing.target import Mutator, RefusedError, Target, as_file, scratch
from scripts.fuzzing.trees import Tree
from tests.engines.gguf_writer import Gguf, Shape, Tensor, llama_metadata, tiny_llama

from aigrid.engines import gguf, safetensors
from aigrid.engines.formats import detect, inspect
from aigrid.engines.gguf_tokenizer import GgufTokenizer
from aigrid.engines.llama import read_config
from aigrid.engines.metadata.card import read_card
from aigrid.engines.metadata.onnx_model import read_onnx
from aigrid.engines.onnx_check import check_onnx
from aigrid.engines.pt2 import read_archive
from aigrid.node.key_store.key_file import encode_key, read_key_file
from aigrid.protocol.errors import EngineError
from aigrid.protocol.identity import Identity

_SMALL = Shape(layers=1, width=32, hidden=32, heads=2, kv_heads=1)


def _gguf(data: bytes) -> None:
    """Every tensor of what is taken lies in the file."""
    file = gguf.parse(data)
    for tensor in file.tensors.values():
        assert 0 <= tensor.offset <= tensor.offset + tensor.size_bytes <= len(data)


def _gguf_seeds() -> list[bytes]:
    many = {"a": "text", "b": True, "c": 1.5, "d": [1, 2, 3], "e": ["x", "yz"], "f": 7}
    body = bytes(128)
    return [
        Gguf(many, [Tensor("w", (32,), 0, body), Tensor("v", (32, 2), 2, bytes(36))]).build(),
        Gguf({"general.alignment": 64}, [Tensor("w", (4, 8), 0, body)], alignment=64).build(),
        Gguf(llama_metadata(), [Tensor("output_norm.weight", (32,), 0, body)]).build(),
        Gguf().build(),
    ]


def _gguf_model(data: bytes) -> None:
    file = gguf.parse(data)
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    rows = len(tokens) if isinstance(tokens, list | tuple) else 0
    refused, took = None, False
    for look in (read_config, lambda found: GgufTokenizer(found, rows)):
        try:
            look(file)
            took = True
        except EngineError as error:
            refused = error
    if refused is not None and not took:
        raise refused


class GgufModels(Bytes):
    """Whole models with something odd in their metadata or tensors, written as a writer would."""

    def __init__(self) -> None:
        whole = tiny_llama(shape=_SMALL)
        self._kinds = {tensor.name: tensor.kind for tensor in whole.tensors}
        scaled = {
            "llama.rope.scaling.type": "linear",
            "llama.rope.scaling.factor": 2.0,
            "llama.attention.key_length": _SMALL.head_size,
            "llama.vocab_size": len(whole.metadata["tokenizer.ggml.tokens"]),
            "tokenizer.ggml.add_bos_token": True,
            "tokenizer.ggml.unknown_token_id": 0,
            "tokenizer.ggml.padding_token_id": 0,
        }
        shapes = {tensor.name: list(tensor.dims) for tensor in whole.tensors}
        self._said = Tree(
            [
                json.dumps({"metadata": {**whole.metadata, **more}, "shapes": shapes}).encode()
                for more in ({}, scaled, {"tokenizer.ggml.pre": "llama-bpe"})
            ]
        )
        super().__init__([whole.build(), *map(self._written, self._said.seeds)])

    def make(self, rng: Random) -> bytes:
        if rng.getrandbits(2) == 0:
            return super().make(rng)
        said = self._said.changed(rng, rng.choice(self._said.seeds))
        try:
            return self._written(said)
        except Exception:  # noqa: BLE001 -- boundary: what no writer of ours can write
            return mutated(rng, self.seeds[1], ())

    def _written(self, said: bytes) -> bytes:
        """A file with these metadata; tensors of these shapes lie where they would, all zeros."""
        read = json.loads(said)
        tensors, at = [], 0
        for name, dims in read["shapes"].items():
            size = 4 * math.prod(dims)
            tensors.append(Tensor(name, tuple(dims), self._kinds.get(name, 0), b"", at))
            at += size + -size % 32
        return bytes(Gguf(read["metadata"], tensors).build() + bytes(min(at, 1 << 17)))


def _safetensors(data: bytes) -> None:
    file = safetensors.parse(data)
    for tensor in file.tensors.values():
        assert 0 <= tensor.offset <= tensor.offset + tensor.size_bytes <= len(data)
        if tensor.dtype in ("F32", "F16", "BF16"):
            assert safetensors.array(data, tensor).shape == tensor.shape


class Headed(Tree):
    """Safetensors: the header as JSON, its length put right most of the time."""

    def make(self, rng: Any) -> bytes:
        head = super().make(rng)
        length = (
            len(head) if rng.getrandbits(3) else rng.choice((0, 1, len(head) + 1, 2**63, 2**64 - 1))
        )
        return struct.pack("<Q", length) + head + bytes(rng.choice((0, 8, 16, 24, 24, 24)))


def _safetensors_seeds() -> list[bytes]:
    one = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    two = {"dtype": "BF16", "shape": [2, 4], "data_offsets": [8, 24]}
    said = (
        {"w": {**one, "data_offsets": [0, 8]}},
        {"w": one, "v": two, "__metadata__": {"format": "pt"}},
    )
    return [json.dumps(one).encode() for one in said]


@cache
def _onnx_seeds() -> tuple[bytes, ...]:
    f32 = TensorProto.FLOAT
    weights = numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(3, 2), "w")
    bias = helper.make_tensor("b", f32, [2], [1.0, 2.0])
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", f32, ["batch", 3])],
        [helper.make_tensor_value_info("y", f32, ["batch", 2])],
        initializer=[weights, bias],
    )
    inner = helper.make_graph(
        [helper.make_node("Identity", ["a"], ["c"])],
        "inner",
        [],
        [helper.make_tensor_value_info("c", f32, [1])],
    )
    branch = helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)
    nested = helper.make_graph([branch], "n", [], [], initializer=[weights])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    function = helper.make_function("own", "F", ["x"], ["y"], [branch], opsets[:1])
    made = [
        helper.make_model(graph, opset_imports=opsets[:1], ir_version=8),
        helper.make_model(nested, opset_imports=opsets, ir_version=8, functions=[function]),
    ]
    made += [_table("LinearClassifier", classlabels_strings=["no", "yes"], coefficients=[1.0])]
    made += [_table("ZipMap", classlabels_int64s=[0, 1]), _table("LinearRegressor", targets=1)]
    mapping = {"table": {"features": [{"name": "a"}, {"name": "b", "categories": ["x", "y"]}]}}
    props = {"aigrid.task": "tabular-regression", "license": "mit", "language": "en, de"}
    props |= {"aigrid.mapping": json.dumps(mapping)}
    for key, value in props.items():
        made[0].metadata_props.add(key=key, value=value)
    return tuple(one.SerializeToString() for one in made)


def _table(operator: str, **attributes: Any) -> Any:
    """A model of ONNX-ML over a table of three columns."""
    shapes = {"x": ["n", 3], "y": ["n", 2 if "classlabels" in str(attributes) else 1]}
    taken, given = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    )
    node = helper.make_node(operator, ["x"], ["y"], domain="ai.onnx.ml", **attributes)
    graph = helper.make_graph([node], "t", [taken], [given])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def _onnx(data: bytes) -> None:
    """What is found harmless is read for what it says, too."""
    path = as_file(data, "model.onnx")
    facts = check_onnx(path)
    read_onnx(path, facts.precision)


def _pt2_seeds() -> list[bytes]:
    sizes = [{"as_int": 2}, {"as_int": 3}]
    weights = {"config": {"w": {"path_name": "w_0", "tensor_meta": {"dtype": 7, "sizes": sizes}}}}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("m/archive_format", "pt2")
        archive.writestr("m/models/model.json", "{}")
        archive.writestr("m/data/weights/model_weights_config.json", json.dumps(weights))
        archive.writestr("m/data/weights/w_0", bytes(24))
    return [file.getvalue()]


def _pt2(data: bytes) -> None:
    read_archive(as_file(data, "model.pt2"))


def _any_seeds() -> list[bytes]:
    header = _safetensors_seeds()[0]
    return [
        *_gguf_seeds(),
        *_onnx_seeds(),
        *_pt2_seeds(),
        struct.pack("<Q", len(header)) + header + bytes(8),
        b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00N.",
        b"(lp0\nI1\na.",
        b"PK\x05\x06" + bytes(18),
    ]


def _any(data: bytes) -> None:
    path = as_file(data, "model.bin")
    detect(path)
    inspect(path, trusted=True)


_CARD = b"""---
license: other
license_name: my-license
language:
- en
- de-CH
pipeline_tag: text-generation
model-index: [{name: x}]
---
# A card
"""


def _card(data: bytes) -> None:
    as_file(data, "README.md")
    if not read_card(scratch()):
        raise RefusedError


def _key_seeds() -> list[bytes]:
    key = encode_key(Identity(bytes(range(32))))
    sealed = json.loads(key)
    sealed.pop("secretKeyMultibase", None)
    said = {"kdf": "argon2id13", "operations": 1, "memoryBytes": 8192, "salt": "z" + "2" * 22}
    sealed["secretKeyProtected"] = {
        **said,
        "cipher": "xchacha20-poly1305",
        "nonce": "z",
        "sealed": "z",
    }
    return [key, json.dumps(sealed).encode()]


def _key(data: bytes) -> None:
    if read_key_file(data) is None:
        raise RefusedError


ENGINE = (EngineError,)


def _bytes_of(seeds: Any) -> Any:
    def made() -> Mutator:
        return Bytes(seeds())

    return made


TARGETS = (
    Target("gguf", _bytes_of(_gguf_seeds), _gguf, ENGINE),
    Target("gguf-models", GgufModels, _gguf_model, ENGINE),
    Target("safetensors", lambda: Headed(_safetensors_seeds()), _safetensors, ENGINE),
    Target("onnx", lambda: Protobuf(_onnx_seeds()), _onnx, ENGINE),
    Target("pt2", _bytes_of(_pt2_seeds), _pt2, ENGINE),
    Target("model-files", _bytes_of(_any_seeds), _any, ENGINE),
    Target("model-cards", lambda: Text([_CARD], (b"license", b"- [", b"? ", b"!!x")), _card, ()),
    Target("key-files", lambda: Tree(_key_seeds()), _key, ()),
)
