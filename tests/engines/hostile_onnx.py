"""ONNX files that lie, reach for other files, or ask a runtime for more than there is."""

import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from tests.engines.onnx_models import endless, linear, model, value

HUGE: Final = 1 << 39  # float32 elements: 2 TB

Make = Callable[[Path], bytes]


def constant(name: str, values: Any, kind: Any = np.float32) -> Any:
    return numpy_helper.from_array(np.asarray(values, kind), name)


def one(
    *nodes: Any, constants: tuple[Any, ...] = (), kind: int = TensorProto.FLOAT, **more: Any
) -> Any:
    """A model with the input x, one number, and the output y."""
    return model(nodes, [value("x", [1])], [value("y", None, kind)], initializers=constants, **more)


def operator(op: str, *inputs: str, output: str = "y", **settings: Any) -> Any:
    return helper.make_node(op, list(inputs), [output], **settings)


def _external(location: str, *, marked: bool = True) -> Callable[[Any], None]:
    def change(made: Any) -> None:
        tensor = made.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.dims[:] = [4]
        if marked:
            tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)

    return change


def _reads(location: str, *, marked: bool = True) -> bytes:
    """A model that would answer with 16 bytes of a file."""
    made = one(operator("Add", "x", "w"), constants=(constant("w", [0]),))
    _external(location, marked=marked)(made)
    return bytes(made.SerializeToString())


def _linked(directory: Path, *, hard: bool) -> bytes:
    beside, secret = directory / "weights.bin", directory.parent / "outside" / "secret.bin"
    os.link(secret, beside) if hard else beside.symlink_to(secret)
    return _reads("weights.bin")


def _in_function() -> Any:
    tensor = constant("t", [0])
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../outside/secret.bin")
    function = helper.make_function(
        "mine", "F", ["a"], ["b"], [operator("Constant", value=tensor, output="b")],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    return one(
        operator("F", "x", domain="mine"), domains=(("", 17), ("mine", 1)), functions=[function]
    )


def _changed(change: Callable[[Any], Any]) -> Any:
    return linear(lambda made: change(made.graph.initializer[0]))


def _nested(depth: int, inner: Any = None) -> Any:
    """Branches in branches; in the innermost the sum of x and x, or `inner`."""
    node = inner or operator("Add", "x", "x", output="o0")
    node.output[0] = "o0"
    for level in range(depth):
        branch = helper.make_graph([node], f"b{level}", [], [value(f"o{level}", None)])
        easy = operator("Neg", "x", output=f"e{level}")
        other = helper.make_graph([easy], f"e{level}", [], [value(f"e{level}", None)])
        node = operator("If", "c", output=f"o{level + 1}", then_branch=branch, else_branch=other)
    node.output[0] = "y"
    return one(node, constants=(constant("c", True, np.bool_),))


def _recursive() -> Any:
    function = helper.make_function(
        "mine", "F", ["a"], ["b"], [operator("F", "a", output="b", domain="mine")],
        [helper.make_opsetid("mine", 1)],
    )  # fmt: skip
    return one(
        operator("F", "x", domain="mine"), domains=(("", 17), ("mine", 1)), functions=[function]
    )


def _growing() -> Any:
    made = endless()
    body = made.graph.node[0].attribute[0].g
    body.node[1].CopyFrom(helper.make_node("Concat", ["sum", "sum"], ["more"], axis=0))
    return made


def _chain(length: int) -> Any:
    names = ["x", *(f"v{index}" for index in range(length)), "y"]
    return one(*(operator("Neg", a, output=b) for a, b in pairwise(names)))


def _sparse(made: Any) -> None:
    made.graph.sparse_initializer.add(dims=[3])


def _training(made: Any) -> None:
    made.training_info.add()


def _segment(tensor: Any) -> None:
    tensor.segment.begin = 0


def _twice(directory: Path) -> bytes:
    return bytes(linear().SerializeToString() * 2)


def _cut(share: float) -> Make:
    data = linear().SerializeToString()
    return lambda _: bytes(data[: int(len(data) * share)])


def _of(made: Any) -> Make:
    return lambda _: bytes(made.SerializeToString())


def field(number: int, data: bytes) -> bytes:
    size, length = b"", len(data)
    while length > 0x7F:
        size, length = size + bytes([length & 0x7F | 0x80]), length >> 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + data


def _graph(body: bytes) -> Make:
    """A model of version 8 whose graph has these bytes."""
    return lambda _: b"\x08\x08" + field(7, body)


def _deep(_: Path) -> bytes:
    graph = b""
    for _level in range(1000):
        graph = field(1, field(4, b"If") + field(5, field(6, graph)))
    return b"\x08\x08" + field(7, graph)


def _unnamed() -> bytes:
    return b"".join(field(1, field(4, b"Op%d" % number)) for number in range(5000))


ABSOLUTE = lambda directory: _reads(str(directory.parent / "outside" / "secret.bin"))  # noqa: E731

REFUSED: Final[dict[str, Make]] = {
    "data of a parent folder": lambda _: _reads("../outside/secret.bin"),
    "data of an absolute path": ABSOLUTE,
    "data of a file beside it": lambda _: _reads("weights.bin"),
    "data of a hard link": lambda directory: _linked(directory, hard=True),
    "data of a symbolic link": lambda directory: _linked(directory, hard=False),
    "data elsewhere, half said": lambda _: _reads("../outside/secret.bin", marked=False),
    "data of a device": lambda _: _reads("/dev/zero"),
    "data of the process": lambda _: _reads("/proc/self/environ"),
    "data elsewhere, in a function": _of(_in_function()),
    "2 TB of weights": _of(_changed(lambda t: t.dims.__setitem__(slice(None), [HUGE]))),
    "weights of a negative size": _of(_changed(lambda t: t.dims.__setitem__(0, -1))),
    "sizes that overflow": _of(_changed(lambda t: t.dims.extend([2**62, 2**62]))),
    "many dimensions": _of(_changed(lambda t: t.dims.extend([1] * 20))),
    "an unknown type": _of(_changed(lambda t: setattr(t, "data_type", 99))),
    "too little data": _of(_changed(lambda t: setattr(t, "raw_data", b"123"))),
    "a segment": _of(_changed(_segment)),
    "an operator of its own": _of(one(operator("Shell", "x", domain="evil.ops"))),
    "an operator of its own, deep inside": _of(
        _nested(3, operator("Shell", "x", domain="evil.ops"))
    ),
    "compiled code of a vendor": _of(one(operator("EPContext", "x", domain="com.microsoft"))),
    "Python code": _of(one(operator("PythonOp", "x", domain="com.microsoft"))),
    "branches a thousand deep": _deep,
    "sparse weights": _of(linear(_sparse)),
    "training": _of(linear(_training)),
    "two graphs": _twice,
    "no graph": lambda _: b"\x08\x08",
    "a node without an operator": _graph(field(1, field(1, b"x"))),
    "five thousand operators": _graph(_unnamed()),
    "a million nodes": _graph(field(1, b"") * 1_000_000),
    "a number without end": _graph(b"\x80" * 40),
    "a field beyond the end": lambda _: b"\x08\x08\x3a\xff\xff\xff\xff\x0f",
    "a group": _graph(b"\x0b\x0c"),
    "cut in the middle": _cut(0.5),
    "cut at a quarter": _cut(0.25),
    "cut before the end": _cut(0.98),
}


def _big(op: str, *inputs: str, kind: int = TensorProto.FLOAT) -> Any:
    """The runtime is asked for 2 TB once it has seen x."""
    return one(
        operator("Mul", "x", "huge", output="product"),
        operator("Cast", "product", output="size", to=TensorProto.INT64),
        operator("Abs", "size", output="n"),
        operator("Squeeze", "n", output="number"),
        operator(op, *inputs),
        constants=(
            constant("huge", [float(HUGE)]),
            constant("zero", 0, np.int64),
            constant("step", 1, np.int64),
            constant("onoff", [0, 1], np.int64),
            constant("pair", [0, 1]),
        ),
        kind=kind,
    )


def _divided(op: str) -> Any:
    return one(
        operator("Cast", "x", output="n", to=TensorProto.INT32),
        operator("Sub", "n", "n", output="nought"),
        operator(op, "n", "nought"),
        kind=TensorProto.INT32,
    )


def _packed_wrongly() -> Any:
    return one(
        helper.make_node(
            "MatMulNBits", ["x", "w", "s"], ["y"],
            domain="com.microsoft", K=1 << 20, N=1 << 20, bits=4, block_size=32,
        ),
        constants=(constant("w", [[[1]]], np.uint8), constant("s", [1.0])),
        domains=(("", 17), ("com.microsoft", 1)),
    )  # fmt: skip


def _longer_than_its_memory() -> Any:
    """Attention that is told of far more positions than there are."""
    return one(
        operator("Expand", "x", "shape", output="q"),
        helper.make_node(
            "GroupQueryAttention", ["q", "q", "q", "past", "past", "last", "total"],
            ["y", "pk", "pv"], domain="com.microsoft", num_heads=1, kv_num_heads=1,
        ),
        constants=(
            constant("shape", [1, 1, 8], np.int64),
            constant("past", np.zeros((1, 1, 4, 8))),
            constant("last", [2**31 - 2], np.int32),
            constant("total", 2**31 - 1, np.int32),
        ),
        domains=(("", 17), ("com.microsoft", 1)),
    )  # fmt: skip


CONTAINED: Final[dict[str, Make]] = {
    "an endless loop": _of(endless()),
    "a loop that grows": _of(_growing()),
    "2 TB of zeros, known beforehand": _of(
        one(operator("ConstantOfShape", "n"), constants=(constant("n", [HUGE], np.int64),))
    ),
    "2 TB of zeros": _of(_big("ConstantOfShape", "n")),
    "2 TB by expanding": _of(_big("Expand", "x", "n")),
    "2 TB by repeating": _of(_big("Tile", "x", "n")),
    "2 TB by counting": _of(
        _big("Range", "zero", "number", "step", kind=TensorProto.INT64)
    ),
    "2 TB of ones and noughts": _of(_big("OneHot", "onoff", "n", "pair")),
    "2 TB at random": _of(one(operator("RandomNormal", shape=[HUGE]))),
    "an integer divided by nought": _of(_divided("Div")),
    "the rest of a division by nought": _of(_divided("Mod")),
    "an index far outside": _of(
        one(operator("Gather", "x", "i"), constants=(constant("i", [2**62], np.int64),))
    ),
    "a shape that does not fit": _of(
        one(operator("Reshape", "x", "s"), constants=(constant("s", [7, 7], np.int64),))
    ),
    "a circle": _of(one(operator("Add", "x", "b", output="a"), operator("Add", "x", "a", output="b"), operator("Neg", "b"))),
    "a function that calls itself": _of(_recursive()),
    "weights of another size than said": _of(_packed_wrongly()),
    "attention beyond its memory": _of(_longer_than_its_memory()),
    "what is not a number": _of(one(operator("Sub", "x", "x", output="o"), operator("Div", "o", "o"))),
    "branches thirty deep": _of(_nested(30)),
    "a long chain": _of(_chain(20_000)),
    "a future version": _of(one(operator("Neg", "x"), domains=(("", 9999),))),
    "an operator that there is not": _of(one(operator("Shell", "x"))),
    "an output that nothing makes": _of(one(operator("Neg", "x", output="z"))),
    "an input of 2 TB": _of(
        model([operator("Neg", "x")], [value("x", [HUGE])], [value("y", [HUGE])])
    ),
}  # fmt: skip
"""They pass the checks of the header, for what they do is known only to who runs them."""
