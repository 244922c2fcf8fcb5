"""Test vectors of section 26: metrics of answers, and ids of evaluations."""

from typing import Any

from scripts.vector_records import DESCRIPTION

from aigrid.node.evaluating.forms import form_of
from aigrid.node.evaluating.intervals import wilson
from aigrid.protocol.evidence import evaluation_id, fraction
from aigrid.protocol.model import model_id

_RANKED = [{"label": "a", "score": 0.7}, {"label": "b", "score": 0.2}, {"label": "c", "score": 0.1}]
_SPAN = {"entity": "PER", "score": 0.9, "start": 0, "end": 3}
_FLAGS = [
    {"index": 0, "score": 0.1, "anomaly": False},
    {"index": 1, "score": 0.4, "anomaly": True},
    {"index": 2, "score": 0.35, "anomaly": False},
    {"index": 3, "score": 0.8, "anomaly": True},
]
# Task, metric, answers (None: none came), and what was expected.
_CASES: list[tuple[str, str, list[Any], list[Any]]] = [
    ("text-classification", "accuracy", [_RANKED, _RANKED, None], ["a", "b", "a"]),
    ("text-classification", "macro_f1", [_RANKED, _RANKED, None], ["a", "b", "a"]),
    ("text-classification", "recall", [_RANKED, _RANKED, None], ["a", "b", "a"]),
    ("tabular-classification", "accuracy", [_RANKED], [["a", "b", "b"]]),
    ("anomaly-detection", "auc", [_FLAGS], [[False, False, True, True]]),
    ("anomaly-detection", "macro_f1", [_FLAGS], [[False, False, True, True]]),
    ("tabular-regression", "r2", [[2.5, 0.0], [2, 8]], [[3, -0.5], [2, 7]]),
    ("text-ranking", "ndcg", [[0.9, 0.1, 0.5], [0.5, 0.5, 0.5]], [[3, 2, 0], [1, 0, 0]]),
    ("token-classification", "span_f1", [[_SPAN], []], [[_SPAN], [_SPAN]]),
    ("translation", "chrf", ["bonjour le monde", "a"], ["bonjour tout le monde", ["b", "ab"]]),
    ("translation", "chrf", ["Le chat est assis .", None], ["Le chat \u00e9tait assis.", "oui"]),
    ("summarization", "rouge_l", ["police kill the gunman"], ["police killed the gunman"]),
    ("question-answering", "exact_match", ["The Eiffel Tower!"], [["Paris", "eiffel tower"]]),
    ("question-answering", "token_f1", ["big Eiffel tower", None], ["Eiffel tower", "x"]),
    ("automatic-speech-recognition", "word_accuracy", ["the cat sat"], ["the cat sat down"]),
]


def metrics() -> Any:
    """Values, with the interval where every item is right or wrong; and one id."""
    of = (model_id(DESCRIPTION), "translation", {"source": "en", "target": "fr"}, "chrf", "ef" * 32)
    return {
        "values": [_value(*case) for case in _CASES],
        "wilson": [
            {"right": right, "items": items, "low": fraction(low), "high": fraction(high)}
            for right, items in ((0, 20), (15, 20), (20, 20), (81, 263))
            for low, high in (wilson(right, items),)
        ],
        "id": {
            **dict(
                zip(("model", "capability", "parameters", "metric", "dataset"), of, strict=True)
            ),
            "id": evaluation_id(*of),
        },
    }


def _value(task: str, metric: str, answers: list[Any], expected: list[Any]) -> dict[str, Any]:
    form, measure = form_of(task, metric)
    wanted = [form.expected(one) for one in expected]
    pairs = zip(answers, wanted, strict=True)
    read = [None if one is None else form.matched(one, beside) for one, beside in pairs]
    return {
        "task": task,
        "metric": metric,
        "answers": answers,
        "expected": expected,
        "value": fraction(measure.of(read, wanted)),
    }
