"""A capability's contract: what goes in, what comes out, and with which settings. Pure.

The schemas are JSON Schema (draft 2020-12): of a shipped capability, or of a CapabilityRecord,
which a stranger may have written. Nothing is fetched for them, patterns are matched in linear time,
and what would make checking itself expensive is refused with the schema.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import jsonschema_rs
import msgspec

from aigrid.node.outcome.no_json import DEEPEST
from aigrid.protocol.canonical import canonical
from aigrid.protocol.errors import Code, EngineError, InvalidRequestError, VerificationError
from aigrid.protocol.inference import check_settings
from aigrid.protocol.limits import LIMITS

NOTHING: Final = b"{}"
SELECTING: Final = frozenset({"source", "target"})
"""Parameters that choose among models, and go to none, whatever is stated."""

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
_PATTERN: Final = LIMITS.schema_pattern_max_bytes
_PATTERNS: Final = jsonschema_rs.RegexOptions(size_limit=_PATTERN, dfa_size_limit=_PATTERN)


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
        stated: the names of further parameters that choose among models: those for which manifests
            now say which values they are meant for. Not known before it is called.
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
    stated: Callable[[], frozenset[str]] = field(default=frozenset, compare=False, repr=False)
    narrower: tuple[str, ...] = ()

    @property
    def settings(self) -> frozenset[str]:
        """The names of its parameters; empty where nothing is said of them."""
        return _settings(self.parameters)

    @property
    def takes_base64(self) -> bool:
        """Whether an input is bytes, written in base64."""
        return bool(msgspec.json.decode(self.input).get("contentEncoding") == "base64")

    def selecting(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Which of them choose among models; the others go to whoever answers."""
        texts = {name for name, value in parameters.items() if isinstance(value, str)}
        chosen = SELECTING | (self.stated() if texts - SELECTING else frozenset())
        return {
            name: value
            for name, value in parameters.items()
            if name in SELECTING or (name in texts and name in chosen)
        }

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
        if problem := self._problem(self.input, value):
            raise InvalidRequestError(
                f"The input of {self.capability} does not fit: {problem}. "
                f"GET /v1/capabilities/{self.capability} shows what does.",
                param="input",
            )

    def check_parameters(self, value: Mapping[str, Any]) -> None:
        """Raises InvalidRequestError: which setting is none, or has a value that it cannot have.

        What manifests state is one, whether or not the contract names it.
        """
        known = self.settings
        stated = self.selecting(value).keys() - known - SELECTING
        value = {name: one for name, one in value.items() if name not in stated}
        if self.parameters != NOTHING and (unknown := sorted(value.keys() - known)):
            there = ", ".join(sorted(known)) or "none"
            raise InvalidRequestError(
                f"{self.capability} has no parameter {unknown[0][:64]!r}: there are {there}.",
                Code.UNSUPPORTED_PARAMETER,
                param="parameters",
            )
        if problem := self._problem(self.parameters, value):
            raise InvalidRequestError(
                f"The parameters of {self.capability} do not fit: {problem}.", param="parameters"
            )
        check_settings(value)

    def check_output(self, value: Any) -> None:
        """Raises EngineError: whoever answered did not keep to the contract."""
        if problem := self._problem(self.output, value):
            raise EngineError(f"The answer is not one of {self.capability}: {problem}.")

    def _problem(self, schema: bytes, value: Any) -> str:
        """The first thing that does not fit, without quoting it; "" where all does."""
        if schema == NOTHING:
            return ""
        try:
            validator = (_published if self.published else _validator)(schema)
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


def unsaid(capability: str) -> Contract:
    """A contract that says nothing, of a shipped capability."""
    return Contract(capability, capability, capability, ())


def check_schema(schema: Mapping[str, Any]) -> str:
    """Why a schema cannot be used to check anything, in words; "" where it can."""
    waiting: list[tuple[Any, int]] = [(schema, 0)]
    patterns = 0
    while waiting:
        at, depth = waiting.pop()
        if depth > _DEEPEST:
            return f"it is nested more than {_DEEPEST} deep"
        if isinstance(at, Mapping):
            if dear := sorted(_EXPENSIVE & at.keys()):
                return f"`{dear[0]}` is not taken"
            patterns += _patterns_of(at)
            waiting += ((one, depth + 1) for one in at.values())
        elif isinstance(at, list | tuple):
            waiting += ((one, depth + 1) for one in at)
    if patterns > LIMITS.schema_patterns_max:
        return f"it has {patterns} patterns, more than {LIMITS.schema_patterns_max}"
    try:
        raw = canonical(dict(schema))
    except VerificationError as error:  # a number beyond 2**53, half of a surrogate pair
        return str(error)[:_TEXT_SHOWN_CHARS]
    if len(raw) > LIMITS.capability_schema_max_bytes:
        return f"it is longer than {LIMITS.capability_schema_max_bytes} bytes"
    try:
        _published(raw)
    except ValueError as error:
        return str(error)[:_TEXT_SHOWN_CHARS]
    return ""


def _patterns_of(schema: Mapping[str, Any]) -> int:
    named = schema.get("patternProperties")
    return ("pattern" in schema) + (len(named) if isinstance(named, Mapping) else 0)


@functools.lru_cache(maxsize=256)
def _settings(schema: bytes) -> frozenset[str]:
    known = msgspec.json.decode(schema).get("properties")
    return frozenset(known) if isinstance(known, dict) else frozenset()


@functools.lru_cache(maxsize=256)
def _validator(raw: bytes) -> Any:
    """Of what ships with the node, or nobody published."""
    return _compiled(raw)


@functools.lru_cache(maxsize=LIMITS.schemas_kept_max)
def _published(raw: bytes) -> Any:
    """Of what strangers write, which may be large: few are kept."""
    return _compiled(raw)


def _compiled(raw: bytes) -> Any:
    return jsonschema_rs.Draft202012Validator(
        msgspec.json.decode(raw),
        validate_formats=False,
        offline=True,
        mask="what was given",
        pattern_options=_PATTERNS,
    )
