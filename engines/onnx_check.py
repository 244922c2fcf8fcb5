"""What an ONNX file says about itself, checked before a runtime parses it.

Source of the field numbers: onnx/onnx.proto3. The file is walked, not built: a check costs neither
the memory of the model nor the import of a library. Refused: data outside the file, operators that
are native code or read files, sizes that the file cannot hold, nesting beyond reason.
"""

import mmap
from collections import Counter
from collections.abc import Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from aigrid.engines.protobuf import BYTES, VARINT, Field, Walker
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.limits import LIMITS

FILE_MAX_BYTES: Final = 2**31 - 1  # protobuf's own bound
DOMAINS: Final = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
FORBIDDEN_OPERATORS: Final = frozenset({"EPContext", "PythonOp", "PythonOpGrad"})
"""Of the allowed domains, but they read other files or run other code."""

# TensorProto.DataType -> (name, bits of an element); strings count a byte, which they take at least
_TYPES: Final = {
    1: ("float32", 32), 2: ("uint8", 8), 3: ("int8", 8), 4: ("uint16", 16), 5: ("int16", 16),
    6: ("int32", 32), 7: ("int64", 64), 8: ("string", 8), 9: ("bool", 8), 10: ("float16", 16),
    11: ("float64", 64), 12: ("uint32", 32), 13: ("uint64", 64), 14: ("complex64", 64),
    15: ("complex128", 128), 16: ("bfloat16", 16), 17: ("float8e4m3fn", 8),
    18: ("float8e4m3fnuz", 8), 19: ("float8e5m2", 8), 20: ("float8e5m2fnuz", 8),
    21: ("uint4", 4), 22: ("int4", 4), 23: ("float4e2m1", 4), 24: ("float8e8m0", 8),
    25: ("uint2", 2), 26: ("int2", 2),
}  # fmt: skip
_EXTERNAL: Final = 1
_SHOWN_MAX_CHARS: Final = 64


class _Model:
    """Field numbers of ModelProto."""

    IR_VERSION, GRAPH, OPSETS, TRAINING, FUNCTIONS = 1, 7, 8, 20, 25


class _Graph:
    """Of GraphProto."""

    NODE, INITIALIZER, SPARSE = 1, 5, 15


class _Node:
    """Of NodeProto and of FunctionProto."""

    OPERATOR, ATTRIBUTE, DOMAIN = 4, 5, 7
    FUNCTION_NAME, FUNCTION_NODE, FUNCTION_OPSET, FUNCTION_DOMAIN = 1, 7, 9, 10
    FUNCTION_DEFAULT = 11


class _Attribute:
    """Of AttributeProto."""

    TENSOR, GRAPH, TENSORS, GRAPHS, SPARSE, SPARSES = 5, 6, 10, 11, 22, 23


class _Tensor:
    """Of TensorProto."""

    DIMS, TYPE, SEGMENT, STRINGS, RAW, EXTERNAL, LOCATION = 1, 2, 3, 6, 9, 13, 14
    DATA = frozenset({4, 5, 6, 7, 9, 10, 11})


@dataclass(frozen=True, slots=True)
class OnnxFacts:
    """What matters before loading. `precision` is the type that most of the weights have."""

    size_bytes: int
    weight_bytes: int
    precision: str
    nodes: int


class _Part(NamedTuple):
    """A message still to be looked at: how, where, how deep."""

    kind: str
    start: int
    end: int
    depth: int


@dataclass(slots=True)
class _Findings:
    domains: set[str] = field(default_factory=set)
    operators: set[tuple[str, str]] = field(default_factory=set)
    functions: set[tuple[str, str]] = field(default_factory=set)
    bytes_by_type: Counter[str] = field(default_factory=Counter)
    nodes: int = 0


def check_onnx(path: Path) -> OnnxFacts:
    """Check a file.

    Raises:
        EngineError: `unsafe_file` for what may not be given to a runtime, `unsupported_model` for
            a sparse or training model, `model_file_missing`.
    """
    try:
        size = path.stat().st_size
        if not 0 < size <= FILE_MAX_BYTES:
            raise _unsafe(f"the ONNX file has {size} bytes; 1 to {FILE_MAX_BYTES} are allowed")
        with path.open("rb") as stream:
            mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise EngineError(
            f"cannot read the ONNX file: {error.strerror}", Code.MODEL_FILE_MISSING
        ) from None
    with mapped, memoryview(mapped) as view:
        try:
            findings = _Check(view).run()
        except ValueError as error:
            raise _unsafe(f"the ONNX file is damaged: {error}") from None
    _check_operators(findings)
    common = findings.bytes_by_type.most_common(1)
    return OnnxFacts(
        size, findings.bytes_by_type.total(), common[0][0] if common else "", findings.nodes
    )


def looks_like_onnx(view: memoryview) -> bool:
    """Whether the outermost message has ONNX's version and graph, up to the last byte."""
    try:
        seen = {f.number: f.wire for f in Walker(view).fields(0, len(view))}
    except ValueError:
        return False
    return seen.get(_Model.IR_VERSION) == VARINT and seen.get(_Model.GRAPH) == BYTES


class _Check:
    """One pass over a file, without recursion."""

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._walker = Walker(view)
        self._found = _Findings()
        self._open: list[_Part] = []

    def run(self) -> _Findings:
        self._open = [_Part("model", 0, len(self._view), 0)]
        while self._open:
            part = self._open.pop()
            if part.depth > LIMITS.onnx_depth_max:
                raise _unsafe(f"the ONNX graph is nested more than {LIMITS.onnx_depth_max} deep")
            getattr(self, f"_{part.kind}")(part)
        return self._found

    def _model(self, part: _Part) -> None:
        graphs = 0
        for item in self._walker.fields(part.start, part.end):
            if item.number == _Model.GRAPH:
                graphs += 1
                self._enter("graph", item, part.depth)
            elif item.number == _Model.OPSETS:
                self._enter("opset", item, part.depth)
            elif item.number == _Model.FUNCTIONS:
                self._enter("function", item, part.depth)
            elif item.number == _Model.TRAINING:
                raise _unsupported("ONNX files with training information are not supported")
        if graphs != 1:
            raise _unsafe(f"the ONNX file has {graphs} graphs instead of one")

    def _opset(self, part: _Part) -> None:
        domain = ""
        for item in self._walker.fields(part.start, part.end):
            if item.number == 1:
                domain = self._walker.text(item)
                self._found.domains.add(domain)
                self._bounded(self._found.domains)

    def _function(self, part: _Part) -> None:
        name = domain = ""
        for item in self._walker.fields(part.start, part.end):
            match item.number:
                case _Node.FUNCTION_NAME:
                    name = self._walker.text(item)
                case _Node.FUNCTION_DOMAIN:
                    domain = self._walker.text(item)
                case _Node.FUNCTION_NODE:
                    self._enter("node", item, part.depth)
                case _Node.FUNCTION_OPSET:
                    self._enter("opset", item, part.depth)
                case _Node.FUNCTION_DEFAULT:
                    self._enter("attribute", item, part.depth)
        self._found.functions.add((domain, name))
        self._bounded(self._found.functions)

    def _graph(self, part: _Part) -> None:
        for item in self._walker.fields(part.start, part.end):
            match item.number:
                case _Graph.NODE:
                    self._enter("node", item, part.depth)
                case _Graph.INITIALIZER:
                    self._enter("tensor", item, part.depth)
                case _Graph.SPARSE:
                    raise _unsupported("sparse weights are not supported")

    def _node(self, part: _Part) -> None:
        self._found.nodes += 1
        operators, domains = {""}, {""}
        for item in self._walker.fields(part.start, part.end):
            match item.number:
                case _Node.OPERATOR:
                    operators.add(self._walker.text(item))
                case _Node.DOMAIN:
                    domains.add(self._walker.text(item))
                case _Node.ATTRIBUTE:
                    self._enter("attribute", item, part.depth)
        # A repeated field counts each time: which one a runtime believes is its own affair.
        if len(operators) != 2 or len(domains) > 2:
            raise _unsafe("an ONNX node has no operator, or two")
        self._found.operators.add((max(domains), max(operators)))
        self._bounded(self._found.operators)

    def _attribute(self, part: _Part) -> None:
        single = 0
        for item in self._walker.fields(part.start, part.end):
            match item.number:
                case _Attribute.TENSOR | _Attribute.TENSORS:
                    single += item.number == _Attribute.TENSOR
                    self._enter("tensor", item, part.depth)
                case _Attribute.GRAPH | _Attribute.GRAPHS:
                    single += item.number == _Attribute.GRAPH
                    self._enter("graph", item, part.depth)
                case _Attribute.SPARSE | _Attribute.SPARSES:
                    raise _unsupported("sparse weights are not supported")
        if single > 1:
            raise _unsafe("an ONNX attribute has two values")

    def _tensor(self, part: _Part) -> None:
        dims: list[int] = []
        kinds: set[int] = set()
        data_bytes = data_items = raw_fields = 0
        for item in self._walker.fields(part.start, part.end):
            if item.number == _Tensor.DIMS:
                dims += self._walker.integers(item)
            elif item.number == _Tensor.TYPE:
                kinds.add(item.value)
            elif item.number == _Tensor.EXTERNAL or (
                item.number == _Tensor.LOCATION and item.value == _EXTERNAL
            ):
                raise _unsafe("the ONNX file wants data from other files")
            elif item.number == _Tensor.SEGMENT:
                raise _unsupported("segmented tensors are not supported")
            elif item.number in _Tensor.DATA:
                raw_fields += item.number == _Tensor.RAW
                data_bytes += item.end - item.start
                data_items += 1
        if len(dims) > LIMITS.tensor_rank_max or any(n < 0 for n in dims):
            raise _unsafe(f"an ONNX tensor has the shape {dims[:8]}")
        if len(kinds) != 1 or (kind := kinds.pop()) not in _TYPES or raw_fields > 1:
            raise _unsafe("an ONNX tensor has no type that is known")
        count = 1
        for n in dims:
            count = min(count * n, LIMITS.onnx_elements_max)
        name, bits = _TYPES[kind]
        stored = -(-count * bits // 8)
        # Raw data says exactly what is there. Otherwise numbers are varints, of a byte at least.
        fits = data_bytes == stored if raw_fields else data_bytes + data_items >= -(-count // 4)
        if not fits:
            raise _unsafe(f"an ONNX tensor of shape {dims[:8]} has only {data_bytes} bytes")
        self._found.bytes_by_type[name] += stored

    @staticmethod
    def _bounded(names: Sized) -> None:
        if len(names) > LIMITS.onnx_operators_max:
            raise _unsafe(f"the ONNX file names more than {LIMITS.onnx_operators_max} operators")

    def _enter(self, kind: str, item: Field, depth: int) -> None:
        if item.wire != BYTES:
            raise ValueError(f"a {kind} that is none")
        if len(self._open) >= LIMITS.onnx_parts_max:
            raise _unsafe(f"the ONNX graph has more than {LIMITS.onnx_parts_max} parts")
        self._open.append(_Part(kind, item.start, item.end, depth + (kind == "graph")))


def _check_operators(findings: _Findings) -> None:
    own = {domain for domain, _ in findings.functions}
    for domain, operator in sorted(findings.operators):
        if operator in FORBIDDEN_OPERATORS:
            raise _unsafe(f"the ONNX operator {operator} is not allowed")
        if domain not in DOMAINS and (domain, operator) not in findings.functions:
            named = f"{domain[:_SHOWN_MAX_CHARS]}.{operator[:_SHOWN_MAX_CHARS]}"
            raise _unsafe(f"the ONNX operator {named} is not one of the standard's")
    if strange := sorted(findings.domains - DOMAINS - own):
        raise _unsafe(f"the ONNX file wants operators of {strange[0][:_SHOWN_MAX_CHARS]}")


def _unsafe(message: str) -> EngineError:
    return EngineError(message, Code.UNSAFE_FILE)


def _unsupported(message: str) -> EngineError:
    return EngineError(message, Code.UNSUPPORTED_MODEL)
