"""A dataset as somebody wrote it: lines of JSON, each an item with what is expected. Pure.

    {"input": ..., "expected": ...[, "parameters": {...}]}

It may come from anywhere: every line is bounded, and checked against the contract of the capability
and the form of its answers before anybody is asked anything.
"""

import codecs
import hashlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from aigrid.node.evaluating.forms import Form, MisfitError
from aigrid.node.outcome.asking import Want
from aigrid.node.outcome.contract import Contract
from aigrid.node.outcome.request import wanted
from aigrid.protocol.errors import InvalidRequestError, UsageError
from aigrid.protocol.limits import LIMITS

_TEXT: Final = "text-generation"
# What a model is worth is not left to chance, and what it says is compared with something short.
_USUAL: Final[Mapping[str, Any]] = {"temperature": 0.0, "seed": 0, "max_tokens": 256}
_LOCAL: Final = b'"local_first"'
_encode = msgspec.json.Encoder().encode


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    input: Any
    expected: Any
    parameters: dict[str, str | int | float | bool] = {}


@dataclass(frozen=True, slots=True)
class Item:
    """What is asked, and what is expected, as `Form.expected` reads it; `line` is its number."""

    want: Want
    expected: Any
    line: int


@dataclass(frozen=True, slots=True)
class Dataset:
    """`sha256` of its bytes, in hex, and at least one item."""

    sha256: str
    items: tuple[Item, ...]

    @property
    def seed(self) -> int:
        """Of whatever is drawn: the same for whoever has the same dataset."""
        return int(self.sha256[:16], 16)


def parse_dataset(
    data: bytes, contract: Contract, form: Form, parameters: Mapping[str, str]
) -> Dataset:
    """A dataset of requests narrowed to `parameters`, which choose among models.

    Raises:
        UsageError: which line cannot be used, and why.
    """
    if len(data) > LIMITS.dataset_max_bytes:
        raise UsageError(f"a dataset has at most {LIMITS.dataset_max_bytes} bytes: take a sample")
    constraints = _constraints(parameters)
    items: list[Item] = []
    for number, line in _lines(data):
        if len(items) >= LIMITS.dataset_items_max:
            raise UsageError(f"a dataset has at most {LIMITS.dataset_items_max} items")
        try:
            items.append(Item(*_item(line, contract, form, constraints), number))
        except (ValueError, OverflowError, RecursionError, InvalidRequestError) as error:
            said = error.message if isinstance(error, InvalidRequestError) else str(error)
            said = said[: LIMITS.error_message_max_chars].rstrip(".")
            raise UsageError(f"line {number} of the dataset: {said}") from None
    if not items:
        raise UsageError('the dataset is empty: give lines of {"input": ..., "expected": ...}')
    return Dataset(hashlib.sha256(data).hexdigest(), tuple(items))


def _lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Those that are not blank, with their numbers; a byte order mark is no part of the first."""
    for number, line in enumerate(io.BytesIO(data.removeprefix(codecs.BOM_UTF8)), 1):
        if line.strip():
            yield number, line


def _item(line: bytes, contract: Contract, form: Form, constraints: bytes) -> tuple[Want, Any]:
    if len(line) > LIMITS.dataset_line_max_bytes:
        raise ValueError(f"it is longer than {LIMITS.dataset_line_max_bytes} bytes")
    try:
        said = msgspec.json.decode(line, type=_Line)
    except UnicodeError:
        raise ValueError("it is not UTF-8") from None
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError as error:
        raise ValueError(f"it is not JSON: {error}") from None
    try:
        expected = form.expected(said.expected)
    except MisfitError as error:
        raise ValueError(f"what is expected cannot be an answer: {error}") from None
    if contract.selecting(said.parameters):
        raise ValueError("what chooses among models holds for the whole dataset: use `--param`")
    usual = _USUAL if contract.task == _TEXT else {}
    want = wanted(
        contract,
        said.input,
        parameters={**usual, **said.parameters},
        constraints=constraints,
        strategy=_LOCAL,
        seed=0,
    )
    return want, expected


def _constraints(parameters: Mapping[str, str]) -> bytes:
    languages = {name: parameters[name] for name in ("source", "target") if name in parameters}
    others = {name: value for name, value in parameters.items() if name not in languages}
    return _encode({**languages, **({"parameters": others} if others else {})})
