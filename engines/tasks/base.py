"""What tasks are made of: the runner beneath, the call above, and the checks that all share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar, runtime_checkable

import msgspec
import numpy as np
import numpy.typing as npt

from aigrid.engines.base import CancelToken
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.inference import TaskRequest
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.task import TaskMapping, TaskOutput

Array = npt.NDArray[Any]
T = TypeVar("T")
LABELS_FILE_MAX_BYTES: Final = 1024 * 1024


class Runner(Protocol):
    """A loaded model, as tensors in and tensors out.

    Attributes:
        inputs: name -> shape, where a dimension is a number, or None for any.
        outputs: names, in the model's order.
    """

    @property
    def inputs(self) -> Mapping[str, Sequence[int | None]]: ...

    @property
    def outputs(self) -> Sequence[str]: ...

    def run(self, feeds: Mapping[str, Array], cancel: CancelToken) -> Mapping[str, Array]:
        """Run once. Number types are converted to what the model declares.

        Raises:
            Cancelled: when `cancel` was set before the end.
            EngineError: `invalid_request` for tensors it does not accept, `out_of_memory`.
        """


@runtime_checkable
class Writer(Protocol):
    """A loaded model that writes: tokens in, other tokens out."""

    def write(
        self, tokens: Sequence[int], most: int, cancel: CancelToken
    ) -> tuple[list[int], bool]:
        """At most `most` tokens, special ones among them; and whether there would be more.

        Raises:
            Cancelled: when `cancel` was set before the end.
            EngineError: `invalid_request` for tokens it does not accept, `out_of_memory`.
        """


@dataclass(frozen=True, slots=True)
class Setup:
    """What a task is built from."""

    name: str
    mapping: TaskMapping
    files: Mapping[str, Path]
    runner: Runner

    @property
    def output(self) -> TaskOutput:
        return self.mapping.output

    def file(self, name: str, *, what: str) -> Path:
        """A file of the model that its mapping names."""
        if name not in self.files:
            raise unsupported(
                f"the mapping names {name!r} as {what}, which the model does not have"
            )
        return self.files[name]

    def input_name(self, wanted: str) -> str:
        """The input tensor `wanted`, or the only one."""
        return _named(wanted, tuple(self.runner.inputs), "input")

    def output_name(self) -> str:
        """The output tensor that the mapping names, or the first."""
        names = tuple(self.runner.outputs)
        return _named(self.output.tensor, names, "output") if self.output.tensor else names[0]

    def labels(self) -> tuple[str, ...]:
        """Labels in order; empty where the mapping has none."""
        if not self.output.labels_file:
            return self.output.labels
        path = self.file(self.output.labels_file, what="list of labels")
        if path.stat().st_size > LABELS_FILE_MAX_BYTES:
            raise unsupported(f"{path.name} is too large for a list of labels")
        try:
            return tuple(path.read_text(encoding="utf-8").splitlines())
        except UnicodeDecodeError:
            raise unsupported(f"{path.name} is not UTF-8 text") from None


@dataclass(slots=True)
class TaskCall:
    """One request, with its cancel token.

    Attributes:
        tokens: what the model has read of it.
        cut: whether the answer ends where it does because it would have been too long.
    """

    request: TaskRequest
    cancel: CancelToken
    tokens: int = 0
    cut: bool = False

    def run(self, runner: Runner, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """See `Runner.run`. Each run that came back shows that the work advances."""
        found = runner.run(feeds, self.cancel)
        self.cancel.advance()
        return found

    def input(self, kind: type[T], expected: str) -> T:
        """The input as a value of `kind`; `expected` says in words what it has to be.

        Raises:
            EngineError: `invalid_request`.
        """
        try:
            return msgspec.json.decode(self.request.input, type=kind)
        except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
            raise invalid(f"the input of {self.request.task} is {expected} ({error})") from None

    def number(self, name: str, default: float, *, low: float, high: float) -> float:
        """A parameter between `low` and `high`."""
        value = self.request.parameters.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise invalid(f"parameter {name!r} is a number")
        if not low <= value <= high:
            raise invalid(f"parameter {name!r} is between {low:g} and {high:g}")
        return value

    def whole(self, name: str, default: int, *, low: int, high: int) -> int:
        """A parameter that is a whole number between `low` and `high`."""
        value = self.number(name, default, low=low, high=high)
        if value != int(value):
            raise invalid(f"parameter {name!r} is a whole number")
        return int(value)

    def text(self, name: str, default: str) -> str:
        """A parameter that is text."""
        value = self.request.parameters.get(name, default)
        if not isinstance(value, str) or len(value) > LIMITS.mapping_template_max_chars:
            raise invalid(f"parameter {name!r} is a text")
        return value

    def flag(self, name: str, *, default: bool) -> bool:
        """A parameter that is true or false."""
        value = self.request.parameters.get(name, default)
        if not isinstance(value, bool):
            raise invalid(f"parameter {name!r} is true or false")
        return value


class Task(Protocol):
    """A task that is ready to run; at most `slots` calls at once."""

    parameters: frozenset[str]

    def __call__(self, call: TaskCall) -> Any:
        """The answer, as a value that JSON can express.

        Raises:
            EngineError: `invalid_request` and the runner's.
            Cancelled: from the runner.
        """


def invalid(message: str) -> EngineError:
    return EngineError(message[: LIMITS.error_message_max_chars], Code.INVALID_REQUEST)


def unsupported(message: str) -> EngineError:
    return EngineError(message, Code.UNSUPPORTED_MODEL)


def check_count(count: int, what: str) -> None:
    """Raise unless there is at least one and at most as many as a request may have."""
    if not 0 < count <= LIMITS.task_items_max:
        raise invalid(f"give between 1 and {LIMITS.task_items_max} {what}")


def finite(array: Array) -> Array:
    """Refuse an answer that JSON cannot express: a model that puts out NaN has failed."""
    if not np.isfinite(array).all():
        raise EngineError("the model put out NaN or infinity")
    return array


def softmax(x: Array) -> Array:
    """Over the last axis, in float64."""
    x = x.astype(np.float64)
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    scores: Array = e / e.sum(axis=-1, keepdims=True)
    return scores


def sigmoid(x: Array) -> Array:
    """In float64, without overflow."""
    return np.exp(-np.logaddexp(0.0, -x.astype(np.float64)))


def activate(x: Array, activation: str) -> Array:
    """Scores of what a model puts out.

    Raises:
        EngineError: `unsupported_model` for the softmax of a single number.
    """
    match activation:
        case "softmax":
            if x.shape[-1:] == (1,):
                raise unsupported("the softmax of one number is always 1: name another activation")
            return softmax(finite(x))
        case "sigmoid":
            return sigmoid(finite(x))
    return finite(x)


def classes(x: Array, labels: Sequence[str], activation: str) -> Array:
    """Scores of labels, which are the last axis.

    A model of two classes may put out one probability: that of the second.
    """
    scores = activate(x, activation)
    if scores.shape[-1] != 1 or len(labels) != 2:
        return scores
    if scores.min(initial=0) < 0 or scores.max(initial=0) > 1:
        raise unsupported("one number for two labels is no probability: name the activation")
    return np.concatenate([1 - scores, scores], axis=-1)


def ranked(scores: Array, labels: Sequence[str], top: int) -> list[dict[str, Any]]:
    """`{"label", "score"}` in order of score, at most `top` of them (0: all)."""
    if len(labels) != len(scores):
        raise EngineError(f"the model puts out {len(scores)} scores for {len(labels)} labels")
    order = np.argsort(-scores, kind="stable")[: top or None]
    return [{"label": labels[i], "score": float(scores[i])} for i in order]


def _named(wanted: str, names: Sequence[str], what: str) -> str:
    if wanted in names:
        return wanted
    if not wanted and len(names) == 1:
        return names[0]
    said = (
        f"no {what} {wanted!r}" if wanted else f"{len(names)} {what}s, and the mapping names none"
    )
    raise unsupported(f"the model has {said}; it has {', '.join(names)[:200]}")
