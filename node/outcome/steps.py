"""The graph of a pipeline: which step waits for which, and what goes into each. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import Any, Final

import msgspec
from msgspec import UNSET

from aigrid.node.outcome.modes import Pipeline, Step
from aigrid.protocol.errors import InvalidRequestError
from aigrid.protocol.limits import LIMITS

INPUT: Final = "input"
FIRST: Final = "first"
FROM: Final = "$from"
PATH: Final = "path"
_DEEPEST: Final = 32
_WHOLE: Final = {FROM}, {FROM, PATH}


@dataclass(frozen=True, slots=True)
class Made:
    """An output, decoded, and how long its JSON text is."""

    value: Any
    size_bytes: int


class Graph:
    """A checked pipeline over an input, `raw`, as JSON text.

    `steps` by name; `output` is the one whose output is the answer.

    Raises:
        InvalidRequestError: a name that is taken or unknown, a circle, or a pipeline in a pipeline.
    """

    def __init__(self, first: Step, pipeline: Pipeline, raw: bytes) -> None:
        self.raw = raw
        ordered = (first, *pipeline.steps)
        self.steps: dict[str, Step] = {}
        self._inputs: dict[str, Any] = {}
        self.after: dict[str, frozenset[str]] = {}
        before = INPUT
        for step in ordered:
            if step.name in self.steps or step.name == INPUT:
                raise _refused(f"Two steps are named {step.name!r}: give each a name of its own.")
            self.steps[step.name] = step
            self._inputs[step.name] = (
                {FROM: before} if step.input is UNSET else _decoded(step.name, bytes(step.input))
            )
            before = step.name
        for name, value in self._inputs.items():
            named = frozenset(source for source, _ in references(value)) - {INPUT}
            unknown = named - self.steps.keys()
            if unknown:
                known = ", ".join((INPUT, *self.steps))
                raise _refused(f"Step {name!r} waits for {min(unknown)!r}: there are {known}.")
            self.after[name] = named
        self.output = pipeline.output or before
        if self.output not in self.steps:
            raise _refused(f"`output` names no step: there are {', '.join(self.steps)}.")
        try:
            TopologicalSorter(self.after).prepare()
        except CycleError as error:
            circle = " -> ".join(map(str, error.args[1]))
            raise _refused(f"Steps wait for each other: {circle}.") from None

    @cached_property
    def given(self) -> Made:
        """The input of the pipeline itself."""
        return Made(msgspec.json.decode(self.raw), len(self.raw))

    def waves(self) -> TopologicalSorter[str]:
        """Gives out the names of steps whose inputs are there; see `graphlib`."""
        sorter: TopologicalSorter[str] = TopologicalSorter(self.after)
        sorter.prepare()
        return sorter

    def input_known(self, name: str) -> Any:
        """What goes into a step that waits for no other; UNSET for one that does.

        Raises:
            InvalidRequestError: as `input_of`, for what of it is known.
        """
        made = {INPUT: self.given}
        if not self.after[name]:
            return self.input_of(name, made)
        for source, pointer in references(self._inputs[name]):
            if source == INPUT:
                _filled({FROM: source, PATH: pointer}, made, name)
        return UNSET

    def input_of(self, name: str, outputs: Mapping[str, Made]) -> Any:
        """What goes into a step, given the outputs of those before it, and `input`.

        Raises:
            InvalidRequestError: a pointer finds nothing, or it all would be too long.
        """
        value = self._inputs[name]
        # Before anything is put together: a reference is short, and what it stands for is not.
        size_bytes = sum(outputs[source].size_bytes for source, _ in references(value))
        if size_bytes > LIMITS.task_json_max_bytes:
            raise _refused(f"What step {name!r} refers to is too long: {size_bytes} bytes.")
        return _filled(value, outputs, name)


def references(value: Any) -> Iterator[tuple[str, str]]:
    """The (name, JSON pointer) of every reference in a decoded input.

    Raises:
        InvalidRequestError: it is nested too deeply, or a reference is malformed.
    """
    waiting = [(value, 0)]
    while waiting:
        at, depth = waiting.pop()
        if depth > _DEEPEST:
            raise _refused(f"An input of a step is nested more than {_DEEPEST} deep.")
        if isinstance(at, dict) and FROM in at:
            yield _reference(at)
        elif isinstance(at, dict | list):
            inner = at.values() if isinstance(at, dict) else at
            waiting += ((one, depth + 1) for one in inner)


def found_at(value: Any, pointer: str) -> Any:
    """What a JSON Pointer (RFC 6901) finds in decoded JSON. Raises LookupError where it does not.

    `-`, the place after the last of an array, is never there.
    """
    for token in pointer.split("/")[1:]:
        name = token.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict):
            value = value[name]
        elif isinstance(value, list):
            if not (name.isascii() and name.isdecimal()) or (name[0] == "0" and name != "0"):
                raise LookupError(name)
            value = value[int(name)]
        else:
            raise LookupError(name)  # noqa: TRY004 -- nothing is there, whatever it is
    return value


def _filled(value: Any, outputs: Mapping[str, Made], step: str) -> Any:
    if isinstance(value, dict) and FROM in value:
        source, pointer = _reference(value)
        try:
            return found_at(outputs[source].value, pointer)
        except LookupError:
            raise _refused(
                f"Step {step!r}: nothing is at {pointer[:64]!r} in the output of {source!r}."
            ) from None
    if isinstance(value, dict):
        return {name: _filled(one, outputs, step) for name, one in value.items()}
    if isinstance(value, list):
        return [_filled(one, outputs, step) for one in value]
    return value


def _reference(value: Mapping[str, Any]) -> tuple[str, str]:
    source, pointer = value[FROM], value.get(PATH, "")
    if value.keys() not in _WHOLE or not isinstance(source, str) or not isinstance(pointer, str):
        raise _refused('A reference is {"$from": "NAME"}, with "path" where a part is meant.')
    if (pointer and not pointer.startswith("/")) or len(pointer) > LIMITS.pointer_max_chars:
        raise _refused(f'"path" is a JSON Pointer, such as "/0/label": {pointer[:64]!r} is none.')
    return source, pointer


def _decoded(step: str, raw: bytes) -> Any:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise _refused(f"The input of step {step!r} is not JSON.") from None


def _refused(text: str) -> InvalidRequestError:
    return InvalidRequestError(text, param="mode")
