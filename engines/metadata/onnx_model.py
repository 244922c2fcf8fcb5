"""What an ONNX file says of itself: its tensors, its properties, and what its operators are for.

Source of the field numbers: onnx/onnx.proto3. The file is walked, not built. Its properties
(`metadata_props`) may hold a task mapping of ours under `aigrid.mapping`, as JSON, and the task
under `aigrid.task`: then the file alone is enough.
"""

import mmap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
from msgspec import UNSET, UnsetType

from aigrid.engines.draft import Draft
from aigrid.engines.metadata.card import languages_of, license_of
from aigrid.engines.protobuf import BYTES, VARINT, Field, Walker
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.task import Feature, TableInput, TaskMapping, TaskOutput
from aigrid.protocol.tensors import ELEMENTS, TensorSpec, TensorType

FORMAT: Final = "onnx"
MAPPING_PROPERTY, TASK_PROPERTY = "aigrid.mapping", "aigrid.task"
_PROPERTIES: Final = frozenset({MAPPING_PROPERTY, TASK_PROPERTY, "license", "language"})
# TensorProto.DataType -> name in the Open Inference Protocol
_TYPES: Final[Mapping[int, TensorType]] = {one.onnx_number: one.datatype for one in ELEMENTS}
_CLASSES: Final = frozenset({"classlabels_ints", "classlabels_int64s", "classlabels_strings"})
_REGRESSORS: Final = frozenset({"LinearRegressor", "SVMRegressor", "TreeEnsembleRegressor"})


class _Model:
    """Field numbers of ModelProto."""

    PRODUCER, GRAPH, PROPERTIES = 2, 7, 14


class _Graph:
    """Of GraphProto."""

    NODE, INITIALIZER, INPUT, OUTPUT = 1, 5, 11, 12
    INITIALIZER_NAME = 8  # in TensorProto


class _Node:
    """Of NodeProto and AttributeProto."""

    OPERATOR, ATTRIBUTE = 4, 5
    NAME, INTS, STRINGS = 1, 8, 9


@dataclass(slots=True)
class OnnxFacts:
    """What was found.

    Attributes:
        inputs, outputs: None in place of a tensor whose type or name has no spelling of ours.
        labels: of the classes that an operator of ONNX-ML names.
        operators: their names.
        properties: those that are of use here.
        held: names of weights.
    """

    producer: str = ""
    properties: dict[str, str] = field(default_factory=dict)
    inputs: list[TensorSpec | None] = field(default_factory=list)
    outputs: list[TensorSpec | None] = field(default_factory=list)
    labels: tuple[str, ...] = ()
    operators: set[str] = field(default_factory=set)
    held: set[str] = field(default_factory=set)


def read_onnx(path: Path, precision: str) -> Draft:
    """The draft of one file that has been checked.

    Raises:
        EngineError: `unsupported_model` for a mapping in it that is none.
    """
    facts = onnx_facts(path)
    draft = Draft(FORMAT, {f"model.{FORMAT}": path}, precision=precision)
    said = facts.properties
    mapping = _own_mapping(said.get(MAPPING_PROPERTY, ""))
    draft = draft.said("metadata_props", task=said.get(TASK_PROPERTY, ""), mapping=mapping)
    draft = draft.said(
        "metadata_props",
        license_id=license_of(said.get("license")),
        languages=languages_of(said.get("language", "").replace(",", " ").split()),
    )
    draft = draft.said("graph", inputs=_known(facts.inputs), outputs=_known(facts.outputs))
    task, table = _of_operators(facts) if mapping is UNSET else ("", UNSET)
    if draft.task in ("", task):
        draft = draft.said("operators of the graph", task=task, mapping=table)
    return draft


def onnx_facts(path: Path) -> OnnxFacts:
    """Walk a file once. What cannot be read is left out: it has been checked before."""
    facts = OnnxFacts()
    with (
        path.open("rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
    ):
        with memoryview(mapped) as view:
            try:
                _Reading(Walker(view), facts).model(len(view))
            except ValueError as error:
                raise EngineError(f"the ONNX file is damaged: {error}", Code.UNSAFE_FILE) from None
    facts.inputs = [one for one in facts.inputs if one is None or one.name not in facts.held]
    return facts


class _Reading:
    """One pass over the outermost graph."""

    def __init__(self, walker: Walker, facts: OnnxFacts) -> None:
        self._walker = walker
        self._facts = facts

    def model(self, end: int) -> None:
        for item in self._walker.fields(0, end):
            match item.number:
                case _Model.PRODUCER if item.wire == BYTES:
                    self._facts.producer = self._walker.text(item)
                case _Model.PROPERTIES if item.wire == BYTES:
                    self._property(item)
                case _Model.GRAPH if item.wire == BYTES:
                    self._graph(item)

    def _property(self, part: Field) -> None:
        key, value = self._inner_text(part, 1), None
        if key in _PROPERTIES:
            value = next(iter(self._inside(part, 2)), None)
        if value is not None:
            text = self._walker.text(value, LIMITS.model_config_max_bytes)
            self._facts.properties.setdefault(key, text)

    def _graph(self, part: Field) -> None:
        for item in self._walker.fields(part.start, part.end):
            if item.wire != BYTES:
                continue
            match item.number:
                case _Graph.NODE:
                    self._node(item)
                case _Graph.INITIALIZER:
                    self._held(item)
                case _Graph.INPUT:
                    self._note(self._facts.inputs, item)
                case _Graph.OUTPUT:
                    self._note(self._facts.outputs, item)

    def _held(self, item: Field) -> None:
        """A weight may be listed as an input, too; only as many names are kept as matter."""
        if len(self._facts.held) < LIMITS.onnx_operators_max:
            self._facts.held.add(self._inner_text(item, _Graph.INITIALIZER_NAME))

    def _note(self, specs: list[TensorSpec | None], item: Field) -> None:
        if len(specs) <= LIMITS.onnx_operators_max:
            specs.append(self._value(item))

    def _value(self, part: Field) -> TensorSpec | None:
        """A ValueInfoProto, if it is a tensor."""
        name, found = self._inner_text(part, 1), None
        for kind in self._inside(part, 2):  # TypeProto
            for tensor in self._inside(kind, 1):  # TypeProto.Tensor
                element, shape = 0, []
                for item in self._walker.fields(tensor.start, tensor.end):
                    if item.number == 1 and item.wire == VARINT:
                        element = item.value
                    elif item.number == 2 and item.wire == BYTES:
                        shape = [self._size(one) for one in self._inside(item, 1)]
                found = (element, shape)
        if found is None or found[0] not in _TYPES:
            return None
        given = {"name": name, "datatype": _TYPES[found[0]], "shape": found[1]}
        try:
            return msgspec.convert(given, TensorSpec)
        except msgspec.ValidationError:
            return None

    def _size(self, dimension: Field) -> int:
        for item in self._walker.fields(dimension.start, dimension.end):
            if item.number == 1 and item.wire == VARINT and 0 < item.value < 2**31:
                return item.value
        return -1

    def _node(self, part: Field) -> None:
        for item in self._walker.fields(part.start, part.end):
            named = item.number == _Node.OPERATOR and item.wire == BYTES
            if named and len(self._facts.operators) < LIMITS.onnx_operators_max:
                self._facts.operators.add(self._walker.text(item))
            elif item.number == _Node.ATTRIBUTE and item.wire == BYTES:
                self._classes(item)

    def _classes(self, part: Field) -> None:
        if self._inner_text(part, _Node.NAME) not in _CLASSES:
            return
        labels: list[str] = []
        for item in self._walker.fields(part.start, part.end):
            if item.number == _Node.INTS:
                labels += map(str, self._walker.integers(item))
            elif item.number == _Node.STRINGS and item.wire == BYTES:
                labels.append(self._walker.text(item))
            if len(labels) > LIMITS.task_labels_max:
                return
        self._facts.labels = tuple(labels)

    def _inner_text(self, part: Field, number: int) -> str:
        return next((self._walker.text(one) for one in self._inside(part, number)), "")

    def _inside(self, part: Field, number: int) -> list[Field]:
        fields = self._walker.fields(part.start, part.end)
        return [item for item in fields if item.number == number and item.wire == BYTES]


def _known(specs: list[TensorSpec | None]) -> tuple[TensorSpec, ...]:
    """All of them, or none where one is missing: half a signature misleads."""
    found = tuple(spec for spec in specs if spec is not None)
    return found if len(found) == len(specs) <= LIMITS.tensors_max else ()


def _own_mapping(text: str) -> TaskMapping | UnsetType:
    if not text:
        return UNSET
    try:
        return msgspec.json.decode(text, type=TaskMapping)
    except (msgspec.DecodeError, RecursionError) as error:
        raise EngineError(
            f"the property {MAPPING_PROPERTY} of the file is no task mapping: {error}"[:300],
            Code.UNSUPPORTED_MODEL,
        ) from None


def _of_operators(facts: OnnxFacts) -> tuple[str, TaskMapping | UnsetType]:
    """The task of a model on tables, where the operators of ONNX-ML leave no doubt."""
    given = facts.inputs[0] if len(facts.inputs) == 1 else None
    columns = given.shape[1] if given is not None and len(given.shape) == 2 else 0
    if given is None or given.datatype != "FP32" or not 0 < columns <= LIMITS.task_features_max:
        return "", UNSET
    table = TableInput(tuple(Feature(f"x{n}") for n in range(columns)))
    if facts.labels:
        scores = [o.name for o in facts.outputs if o is not None and _fits(o, len(facts.labels))]
        if not scores:
            return "", UNSET
        return _checked("tabular-classification", table, TaskOutput(scores[0], facts.labels))
    if facts.operators & _REGRESSORS and len(facts.outputs) == 1 and facts.outputs[0] is not None:
        return "tabular-regression", TaskMapping(table=table)
    return "", UNSET


def _checked(
    task: str, table: TableInput, output: TaskOutput
) -> tuple[str, TaskMapping | UnsetType]:
    """With labels that came from the file: they may be none that a mapping takes."""
    try:
        made = msgspec.to_builtins(TaskMapping(table=table, output=output))
        return task, msgspec.convert(made, TaskMapping)
    except msgspec.ValidationError:
        return "", UNSET


def _fits(spec: TensorSpec, labels: int) -> bool:
    """Whether this may be the scores of so many labels, a row each."""
    return spec.datatype == "FP32" and len(spec.shape) == 2 and spec.shape[1] in (labels, -1)
