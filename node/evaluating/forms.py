"""What answers of a task look like, what is expected of them, and by which metrics. Pure.

Both are read into what `metrics` takes. A MisfitError says in words what does not fit; nothing of
the value is quoted.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from aigrid.node.evaluating import metrics
from aigrid.node.evaluating.metrics import Measure
from aigrid.protocol.errors import UsageError
from aigrid.protocol.evidence import Metric
from aigrid.protocol.limits import LIMITS


class MisfitError(ValueError):
    """A value is not what answers of a task are made of."""


@dataclass(frozen=True, slots=True)
class Form:
    """How a kind of answer is read.

    Attributes:
        expected: what a dataset says, read; `answer` likewise what a model said. Both raise
            MisfitError.
        measures: those that can be made of them.
        lists: both are sequences that have to be of one length.
    """

    expected: Callable[[Any], Any]
    answer: Callable[[Any], Any]
    measures: Mapping[Metric, Measure]
    lists: bool = False

    def matched(self, output: Any, expected: Any, *, negated: bool = False) -> Any:
        """An answer, read; None where it is none, or has not the length of what was expected.

        `negated`: of anomalies, where a lesser score of the model is the more unusual one.
        """
        try:
            answer = self.answer(output)
        except (MisfitError, OverflowError):
            return None
        if self.lists and len(answer) != len(expected):
            return None
        if negated and self.measures is metrics.FLAGS:
            return [(-score, anomaly) for score, anomaly in answer]
        return answer


def _object(value: Any, *names: str) -> list[Any]:
    if not isinstance(value, dict) or not all(name in value for name in names):
        raise MisfitError(f"an object with {', '.join(names)} is needed")
    return [value[name] for name in names]


def _array(value: Any) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise MisfitError("an array with something in it is needed")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise MisfitError("a text is needed")
    if len(value) > LIMITS.evaluated_text_max_chars:
        raise MisfitError(f"a text has at most {LIMITS.evaluated_text_max_chars} characters")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise MisfitError("a number is needed")
    return float(value)


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise MisfitError("true or false is needed")
    return value


def _place(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise MisfitError("an integer is needed")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    """A text, or several of which any will do."""
    return (_text(value),) if isinstance(value, str) else tuple(map(_text, _array(value)))


def _answered_text(value: Any) -> str:
    if isinstance(value, dict):
        value = next((value[name] for name in ("text", "answer") if name in value), None)
    # A model may say more than is compared: what it says beyond that is not to its credit.
    return _text(value[: LIMITS.evaluated_text_max_chars] if isinstance(value, str) else value)


def _ranking(name: str) -> Callable[[Any], list[tuple[str, ...]]]:
    """Labels with scores, for the one row that there is."""

    def read(value: Any) -> list[tuple[str, ...]]:
        pairs = [_object(one, name, "score") for one in _array(value)]
        ranked = sorted(pairs, key=lambda pair: -_number(pair[1]))
        return [tuple(_text(label) for label, _ in ranked)]

    return read


def _row_labels(value: Any) -> list[tuple[str, ...]]:
    return [(_text(_object(one, "label")[0]),) for one in _array(value)]


def _span(value: Any) -> metrics.Span:
    start, end, entity = _object(value, "start", "end", "entity")
    return _place(start), _place(end), _text(entity)


def _spans(value: Any) -> frozenset[metrics.Span]:
    if not isinstance(value, list):
        raise MisfitError("an array is needed")
    return frozenset(map(_span, value))


def _flag(value: Any) -> tuple[float, bool]:
    score, anomaly = _object(value, "score", "anomaly")
    return _number(score), _truth(anomaly)


def _several(read: Callable[[Any], Any]) -> Callable[[Any], list[Any]]:
    return lambda value: [read(one) for one in _array(value)]


def _one_label(value: Any) -> tuple[str, ...]:
    return (_text(value),)


def _relevances(value: Any) -> list[float]:
    found = [_number(one) for one in _array(value)]
    if min(found) < 0 or max(found) > LIMITS.relevance_max:
        raise MisfitError(f"a relevance is a number from 0 to {LIMITS.relevance_max}")
    return found


_LABEL: Final = Form(_one_label, _ranking("label"), metrics.LABELS)
_TOKEN: Final = Form(_one_label, _ranking("token"), metrics.LABELS)
_ROWS: Final = Form(_several(_text), _row_labels, metrics.LABELS, lists=True)
_TEXT: Final = Form(_texts, _answered_text, metrics.TEXTS)
_FOUND: Final = Form(_spans, _spans, metrics.SPANS)
_NUMBERS: Final = Form(_several(_number), _several(_number), metrics.NUMBERS, lists=True)
_SCORES: Final = Form(_relevances, _several(_number), metrics.RELEVANCES, lists=True)
_FLAGS: Final = Form(_several(_truth), _several(_flag), metrics.FLAGS, lists=True)

_TASKS: Final[Mapping[str, tuple[Form, Metric]]] = MappingProxyType(
    {
        "text-generation": (_TEXT, "exact_match"),
        "text-classification": (_LABEL, "accuracy"),
        "zero-shot-classification": (_LABEL, "accuracy"),
        "token-classification": (_FOUND, "span_f1"),
        "question-answering": (_TEXT, "token_f1"),
        "summarization": (_TEXT, "rouge_l"),
        "translation": (_TEXT, "chrf"),
        "sentence-similarity": (_SCORES, "ndcg"),
        "text-ranking": (_SCORES, "ndcg"),
        "fill-mask": (_TOKEN, "accuracy"),
        "image-classification": (_LABEL, "accuracy"),
        "automatic-speech-recognition": (_TEXT, "word_accuracy"),
        "audio-classification": (_LABEL, "accuracy"),
        "tabular-classification": (_ROWS, "accuracy"),
        "tabular-regression": (_NUMBERS, "r2"),
        "anomaly-detection": (_FLAGS, "auc"),
        "image-to-text": (_TEXT, "token_f1"),
        "image-text-to-text": (_TEXT, "token_f1"),
        "visual-question-answering": (_TEXT, "token_f1"),
        "document-question-answering": (_TEXT, "token_f1"),
        "file-type-detection": (_LABEL, "accuracy"),
    }
)
EVALUATED: Final[Sequence[str]] = tuple(_TASKS)
"""Tasks whose answers can be evaluated."""


def form_of(task: str, metric: str = "") -> tuple[Form, Measure]:
    """How answers of a task are read, and the metric; the usual one where none is named.

    Raises:
        UsageError: the task cannot be evaluated, or not by this metric; which can.
    """
    if task not in _TASKS:
        raise UsageError(
            f"answers of {task[:64]!r} cannot be compared with expected ones; those of "
            f"{', '.join(EVALUATED)} can"
        )
    form, usual = _TASKS[task]
    for name, measure in form.measures.items():
        if name == (metric or usual):
            return form, measure
    raise UsageError(
        f"{task} is not evaluated by {metric[:64]!r}: use `--metric` "
        + " or ".join(f"`{name}`" for name in form.measures)
    )
