"""A capability's contract: what goes in, what comes out, and with which settings. Pure.

The schemas are JSON Schema (draft 2020-12): of a shipped capability, or of a CapabilityRecord,
which a stranger may have written. Nothing is fetched for them, patterns are matched in linear time,
and what would make checking itself expensive is refused with the schema.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import jsonschema_rs
import msgspec

from aigrid.node.outcome.no_json import DEEPEST
from aigrid.protocol.canonical import canonical
from aigrid.protocol.errors import Code, EngineError, InvalidRequestError
from aigrid.protocol.limits import LIMITS, MIB

NOTHING: Final = b"{}"
_DEEPEST: Final = 32
_TEXT_SHOWN_CHARS: Final = 200
# References can stand in circles, and comparing all items with all others takes for ever.
_EXPENSIVE: Final = frozenset(
    {
        *("$ref", "$dynamicRef", "$recursiveRef", "$id", "$schema", "$anchor", "$dynamicAnchor"),
        *("$vocabulary", "$defs", "definitions", "uniqueItems", "unevaluatedItems"),
        *("unevaluatedProperties", "contains", "dependentSchemas", "if", "then", "else"),
    }
)
_PATTERNS: Final = jsonschema_rs.RegexOptions(size_limit=MIB, dfa_size_limit=MIB)


@dataclass(frozen=True, slots=True)
class Contract:
    """What whoever serves a capability takes and gives. Empty schemas say nothing.

    Attributes:
        capability: its name, or its IRI where somebody published it.
        label: for people.
        task: the shipped capability nearest above it: what engines know it as.
        broader: those directly above it.
        input, output: schemas of one request, as canonical JSON.
        parameters: that of an object of settings, each of them optional.
        published: the id of the record that says so; "" where it is shipped.
        narrower: of a group, which nobody can ask for, those below it that can be.
    """

    capability: str
    label: str
    task: str
    broader: tuple[str, ...]
    input: bytes = NOTHING
    output: bytes = NOTHING
    parameters: bytes = NOTHING
    published: str = ""
    narrower: tuple[str, ...] = ()

    @property
    def settings(self) -> frozenset[str]:
        """The names of its parameters; empty where nothing is said of them."""
        return _settings(self.parameters)

    @property
    def takes_base64(self) -> bool:
        """Whether an input is bytes, written in base64."""
        return bool(msgspec.json.decode(self.input).get("contentEncoding") == "base64")

    @property
    def why_not(self) -> str:
        """Why nobody can ask for it, and what to ask for instead; "" where it can be asked."""
        if not self.narrower:
            return ""
        return (
            f"{self.capability} is a group of capabilities, each with an input of its own, and "
            f"cannot be asked itself: ask for one of {', '.join(self.narrower)}"
        )

    @property
    def summary(self) -> dict[str, Any]:
        """What lists say of it, as JSON."""
        return {
            "name": self.capability,
            "label": self.label,
            "task": self.task,
            "broader": list(self.broader),
            "published": self.published,
            "askable": not self.narrower,
            **({"reason": self.why_not, "narrower": self.narrower} if self.narrower else {}),
        }

    def check_askable(self) -> None:
        """Raises InvalidRequestError: it is a group; what to ask for instead."""
        if why_not := self.why_not:
            raise InvalidRequestError(
                f"{why_not}. GET /v1/capabilities says how many models there are for each.",
                param="capability",
            )

    def check_input(self, value: Any) -> None:
        """Raises InvalidRequestError: where a decoded input differs from what is taken."""
        self.check_askable()
        if problem := _problem(self.input, value):
            raise InvalidRequestError(
                f"The input of {self.capability} does not fit: {problem}. "
                f"GET /v1/capabilities/{self.capability} shows what does.",
                param="input",
            )

    def check_parameters(self, value: Mapping[str, Any]) -> None:
        """Raises InvalidRequestError: which setting is none, or has a value that it cannot have."""
        known = self.settings
        if self.parameters != NOTHING and (unknown := sorted(value.keys() - known)):
            there = ", ".join(sorted(known)) or "none"
            raise InvalidRequestError(
                f"{self.capability} has no parameter {unknown[0][:64]!r}: there are {there}.",
                Code.UNSUPPORTED_PARAMETER,
                param="parameters",
            )
        problem = _problem(self.parameters, dict(value)) or _unsayable(value)
        if problem:
            raise InvalidRequestError(
                f"The parameters of {self.capability} do not fit: {problem}.", param="parameters"
            )

    def check_output(self, value: Any) -> None:
        """Raises EngineError: whoever answered did not keep to the contract."""
        if problem := _problem(self.output, value):
            raise EngineError(f"The answer is not one of {self.capability}: {problem}.")


def unsaid(capability: str) -> Contract:
    """A contract that says nothing, of a shipped capability."""
    return Contract(capability, capability, capability, ())


def check_schema(schema: Mapping[str, Any]) -> str:
    """Why a schema cannot be used to check anything, in words; "" where it can."""
    waiting: list[tuple[Any, int]] = [(schema, 0)]
    while waiting:
        at, depth = waiting.pop()
        if depth > _DEEPEST:
            return f"it is nested more than {_DEEPEST} deep"
        if isinstance(at, Mapping):
            if dear := sorted(_EXPENSIVE & at.keys()):
                return f"`{dear[0]}` is not taken"
            waiting += ((one, depth + 1) for one in at.values())
        elif isinstance(at, list | tuple):
            waiting += ((one, depth + 1) for one in at)
    raw = canonical(dict(schema))
    if len(raw) > LIMITS.capability_schema_max_bytes:
        return f"it is longer than {LIMITS.capability_schema_max_bytes} bytes"
    try:
        _validator(raw)
    except ValueError as error:
        return str(error)[:_TEXT_SHOWN_CHARS]
    return ""


def _problem(schema: bytes, value: Any) -> str:
    """The first thing that does not fit, without quoting it; "" where all does."""
    if schema == NOTHING:
        return ""
    try:
        validator = _validator(schema)
    except ValueError:
        return ""  # what cannot be checked is not held against anybody
    try:
        error = next(iter(validator.iter_errors(value)), None)
    except ValueError:
        return f"it is nested more than {DEEPEST} deep"
    if error is None:
        return ""
    place = "".join(f"/{part}" for part in error.instance_path)[:_TEXT_SHOWN_CHARS]
    said = error.message[:_TEXT_SHOWN_CHARS]
    return f"at {place}: {said}" if place else said


def _unsayable(parameters: Mapping[str, Any]) -> str:
    """Which parameter no message could carry, whatever its schema says; "" where all can be."""
    for name, value in parameters.items():
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            return f"at /{name[:64]}: it does not fit into 64 bits"
    return ""


@functools.lru_cache(maxsize=256)
def _settings(schema: bytes) -> frozenset[str]:
    known = msgspec.json.decode(schema).get("properties")
    return frozenset(known) if isinstance(known, dict) else frozenset()


@functools.lru_cache(maxsize=256)
def _validator(raw: bytes) -> Any:
    return jsonschema_rs.Draft202012Validator(
        msgspec.json.decode(raw),
        validate_formats=False,
        offline=True,
        mask="what was given",
        pattern_options=_PATTERNS,
    )
