"""What is asked of capabilities: bodies of requests, data sets, and JSON Schemas of strangers."""

import json
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from scripts.fuzzing import bodies
from scripts.fuzzing.dialects import INVALID, made, sendable
from scripts.fuzzing.known import LEGAL, PUBLISHER, RATED, contracts, fresh
from scripts.fuzzing.mutations import Text
from scripts.fuzzing.target import RefusedError, Target
from scripts.fuzzing.trees import Tree

from aigrid.node.evaluating.dataset import parse_dataset
from aigrid.node.evaluating.forms import form_of
from aigrid.node.outcome import request as outcome
from aigrid.protocol.errors import AigridError, EngineError, InvalidRequestError, UsageError
from aigrid.protocol.inference import TextRequest
from aigrid.protocol.kinds import CapabilityBody

_ASKED = ("text-generation", "text-classification", "translation", "image-classification")


def _each(names: Iterable[str], look: Callable[[str], object]) -> None:
    """Look with each name. Raises what the last one did if none of them was content."""
    refused: AigridError | None = None
    content = False
    for name in names:
        try:
            look(name)
            content = True
        except (InvalidRequestError, UsageError) as error:
            refused = error
    if refused is not None and not content:
        raise refused


def _capability(data: bytes) -> None:
    body = outcome.decode(data)

    def look(name: str) -> None:
        asked = outcome.asked(contracts().of(name), body)
        if not isinstance(asked.want.request, TextRequest):
            sendable(asked.want.request)
        if asked.graph is not None:
            outcome.check_steps(asked.graph, contracts().of)

    _each((*_ASKED, LEGAL, RATED), look)


def _dataset(data: bytes) -> None:
    def look(task: str) -> None:
        form, _ = form_of(task)
        parse_dataset(data, contracts().of(task), form, {})

    _each(
        (
            *("text-generation", "text-classification", "translation", "token-classification"),
            *("question-answering", "text-ranking", "tabular-regression", "anomaly-detection"),
        ),
        look,
    )


class _Published(msgspec.Struct):
    schema: dict[str, Any]
    value: Any = None


def _schema(data: bytes) -> None:
    """Whatever its publisher wrote, a value fits it or not."""
    try:
        said = msgspec.json.decode(data, type=_Published)
    except (ValueError, RecursionError) as error:
        raise RefusedError from error
    body = CapabilityBody(
        id=f"{PUBLISHER.did}#own",
        broader=("text-classification",),
        labels={"en": "Own"},
        input_schema=said.schema,
        output_schema=said.schema,
        parameters_schema=said.schema,
    )
    contract = fresh(body)
    looks: list[Callable[[], object]] = [
        lambda: contract.check_output(said.value),
        lambda: contract.check_input(said.value),
    ]
    if isinstance(said.value, dict):
        looks.append(lambda: contract.check_parameters(said.value))
    refused, took = None, False
    for look in looks:
        try:
            look()
            took = True
        except (InvalidRequestError, EngineError) as error:
            refused = error
    if not took:
        raise RefusedError from refused


_LINES = (
    b"""{"input": "a text", "expected": "yes", "parameters": {"top_k": 1}}
{"input": "b", "expected": "no"}""",
    b"""{"input": "Hello", "expected": ["Bonjour", "Salut"]}""",
    b"""{"input": {"messages": [{"role": "user", "content": "x"}]}, "expected": "y"}""",
    b"""{"input": "Ann", "expected": [{"start": 0, "end": 3, "entity": "PER"}]}""",
    b"""{"input": {"question": "q", "context": "c"}, "expected": "a"}""",
    b"""{"input": {"query": "q", "documents": ["a", "b"]}, "expected": [1, 0.5]}""",
    b"""{"input": [[1, 2], [3, 4]], "expected": [1, 2.5]}
{"input": {"rows": [[1]]}, "expected": [true]}""",
)
_SCHEMAS: tuple[Any, ...] = (
    {
        "schema": {
            "type": "object",
            "properties": {
                "a": {"type": "string", "pattern": "^[a-z]+$", "minLength": 1, "format": "uri"},
                "b": {"type": "array", "items": {"$ref": "#/$defs/n"}, "uniqueItems": True},
            },
            "required": ["a"],
            "additionalProperties": False,
            "$defs": {"n": {"type": "integer", "minimum": 0, "multipleOf": 2}},
        },
        "value": {"a": "x", "b": [2, 4]},
    },
    {
        "schema": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "oneOf": [{"type": "number"}, {"type": "string", "enum": ["a"]}],
            "not": {"const": 5},
            "if": {"type": "number"},
            "then": {"maximum": 10},
            "default": 1,
        },
        "value": 3.5,
    },
    {
        "schema": {
            "allOf": [{"minProperties": 1}, {"patternProperties": {"^x": {"type": "null"}}}],
            "dependentRequired": {"a": ["b"]},
            "propertyNames": {"maxLength": 3},
            "unevaluatedProperties": {"type": "boolean"},
        },
        "value": {"x": None, "b": True},
    },
    {"schema": {"prefixItems": [{}], "contains": {"type": "null"}, "maxItems": 3}, "value": [None]},
)

TARGETS = (
    Target("capabilities", made(bodies.CAPABILITIES), _capability, INVALID),
    Target("datasets", lambda: Text(_LINES, (b'"input"', b'"expected"')), _dataset, (UsageError,)),
    Target(
        "published-schemas",
        lambda: Tree([json.dumps(one).encode() for one in _SCHEMAS]),
        _schema,
        (),
    ),
)
