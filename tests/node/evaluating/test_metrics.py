"""Metrics: known values, bounds, and that a missing answer is never worth more than a wrong one."""

import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aigrid.node.evaluating import metrics
from aigrid.node.evaluating.metrics import FLAGS, LABELS, NUMBERS, RELEVANCES, SPANS, TEXTS
from aigrid.protocol.evidence import METRICS, Metric

labels = st.sampled_from("xyz")
rankings = st.permutations("xyz").map(tuple)
numbers = st.floats(-100, 100)
spans = st.frozensets(st.tuples(st.integers(0, 3), st.integers(4, 5), labels), max_size=3)
words = st.text("ab ", max_size=8)


def rows(one: Any, other: Any) -> Any:
    """(answer, expected) of one to three rows each."""
    return st.lists(st.tuples(one, other), min_size=1, max_size=3).map(
        lambda pairs: tuple(map(list, zip(*pairs, strict=True)))
    )


PAIRS: dict[int, Any] = {
    id(LABELS): rows(rankings, labels),
    id(FLAGS): rows(st.tuples(numbers, st.booleans()), st.booleans()),
    id(NUMBERS): rows(numbers, numbers),
    id(RELEVANCES): rows(numbers, st.floats(0, 5)),
    id(SPANS): st.tuples(spans, spans),
    id(TEXTS): st.tuples(words, st.lists(words, min_size=1, max_size=2)),
}
ALL = [
    pytest.param(measure, PAIRS[id(group)], id=f"{number}-{measure.name}")
    for number, group in enumerate((LABELS, FLAGS, NUMBERS, RELEVANCES, SPANS, TEXTS))
    for measure in group.values()
]


def perfect(measure: metrics.Measure, expected: Any) -> Any:
    if measure in FLAGS.values():
        return [(float(flag), flag) for flag in expected]
    if measure in LABELS.values():
        return [(label,) for label in expected]
    return expected[0] if measure in TEXTS.values() else expected


def test_every_metric_of_the_protocol_is_made_by_something() -> None:
    groups = (LABELS, FLAGS, NUMBERS, RELEVANCES, SPANS, TEXTS)
    assert {name for group in groups for name in group} == set(METRICS)


@pytest.mark.parametrize(("measure", "pairs"), ALL)
@given(data=st.data())
def test_a_value_lies_between_0_and_1_whatever_is_answered(
    measure: metrics.Measure, pairs: Any, data: st.DataObject
) -> None:
    drawn = data.draw(st.lists(pairs, min_size=1, max_size=4))
    answers, expected = zip(*drawn, strict=True)
    value = measure.of(answers, expected)
    assert 0 <= value <= 1
    missing = measure.of([None] * len(answers), expected)
    assert 0 <= missing <= 1
    if measure.name not in ("exact_match", "token_f1", "rouge_l", "auc"):
        right = measure.of([perfect(measure, one) for one in expected], expected)
        assert right >= value - 1e-9
    if measure.name in ("accuracy", "recall", "macro_f1", "ndcg", "r2"):
        assert missing <= value


def of(group: Any, name: Metric, answers: list[Any], expected: list[Any]) -> float:
    return float(group[name].of(answers, expected))


def test_macro_f1_as_scikit_learn_has_it() -> None:
    # f1_score([0, 1, 2, 0, 1, 2], [0, 2, 1, 0, 0, 1], average="macro") in its documentation
    answers = [[("0",)], [("2",)], [("1",)], [("0",)], [("0",)], [("1",)]]
    expected = [["0"], ["1"], ["2"], ["0"], ["1"], ["2"]]
    assert of(LABELS, "macro_f1", answers, expected) == pytest.approx(0.26666, abs=1e-4)
    # A label that is only answered counts, with an F1 of 0.
    assert of(LABELS, "macro_f1", [[("a",)], [("b",)]], [["a"], ["a"]]) == pytest.approx(1 / 3)


def test_auc_as_scikit_learn_has_it() -> None:
    # roc_auc_score([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]) in its documentation
    scores = [(0.1, False), (0.4, False), (0.35, False), (0.8, False)]
    assert of(FLAGS, "auc", [scores], [[False, False, True, True]]) == 0.75
    tied = [(1.0, True), (1.0, True)]
    assert of(FLAGS, "auc", [tied], [[True, False]]) == 0.5
    assert of(FLAGS, "auc", [tied], [[True, True]]) == 0.5  # there is nothing to tell apart
    assert of(FLAGS, "auc", [None, tied], [[True], [False, False]]) == 0


def test_r2_is_0_where_the_mean_would_do_as_well() -> None:
    expected = [[3.0, -0.5], [2.0, 7.0]]
    # r2_score([3, -0.5, 2, 7], [2.5, 0.0, 2, 8]) in its documentation
    value = of(NUMBERS, "r2", [[2.5, 0.0], [2.0, 8.0]], expected)
    assert value == pytest.approx(0.9486, abs=1e-4)
    assert of(NUMBERS, "r2", [[2.875, 2.875], [2.875, 2.875]], expected) == pytest.approx(0)
    assert of(NUMBERS, "r2", [[100.0, 100.0], [0.0, 0.0]], expected) == 0
    assert of(NUMBERS, "r2", [[1.0], None], [[1.0], [2.0]]) == 0
    assert of(NUMBERS, "r2", [[1.0]], [[1.0]]) == 1


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=4))
@example([1e200])
@example([1.3e154, 1.3e154])
@example([1.7e308, -1.7e308])
def test_r2_of_numbers_as_great_as_there_are_is_one_of_a_bad_answer(answer: list[float]) -> None:
    expected = [[1.0] * len(answer), [2.0] * len(answer)]
    value = of(NUMBERS, "r2", [answer, answer], expected)
    assert 0 <= value <= 1
    if max(map(abs, answer)) > 3:
        assert value == 0
    assert 0 <= of(NUMBERS, "r2", [[1.0], [1.0]], [[answer[0]], [-answer[0]]]) <= 1


def test_ndcg_counts_what_stands_first_and_gives_ties_no_luck() -> None:
    # Jarvelin and Kekalainen's gains: relevances 3, 2, 0 answered in the order 3, 0, 2
    best = 7 + 3 / math.log2(3)
    value = of(RELEVANCES, "ndcg", [[0.9, 0.1, 0.5]], [[3.0, 2.0, 0.0]])
    assert value == pytest.approx((7 + 3 / 2) / best)
    assert of(RELEVANCES, "ndcg", [[0.5, 0.5]], [[1.0, 0.0]]) < 1
    assert of(RELEVANCES, "ndcg", [[0.5, 0.5]], [[0.0, 0.0]]) == 0


def test_recall_looks_at_the_first_five() -> None:
    ranking = tuple("abcdefg")
    answers = [[ranking], [ranking], None]
    assert of(LABELS, "recall", answers, [["e"], ["f"], ["a"]]) == pytest.approx(1 / 3)
    assert of(LABELS, "accuracy", answers, [["a"], ["f"], ["a"]]) == pytest.approx(1 / 3)


def test_spans_are_right_as_a_whole_or_not_at_all() -> None:
    answer = frozenset({(0, 4, "PER"), (9, 12, "ORG")})
    expected = frozenset({(0, 4, "PER"), (8, 12, "ORG"), (20, 22, "LOC")})
    assert of(SPANS, "span_f1", [answer], [expected]) == pytest.approx(2 / 5)
    assert of(SPANS, "span_f1", [frozenset()], [frozenset()]) == 1
    assert of(SPANS, "span_f1", [None, answer], [expected, answer]) == pytest.approx(4 / 7)


def test_errors_and_words_add_up_over_items() -> None:
    answers, expected = ["a b c", "x"], [["a b c d"], ["y z", "x w"]]
    assert of(TEXTS, "word_accuracy", answers, expected) == pytest.approx(1 - 2 / 6)
    assert of(TEXTS, "word_accuracy", ["a b c"], [["d"]]) == 0
    assert of(TEXTS, "word_accuracy", ["", "a"], [[""], ["a"]]) == 1
    assert of(TEXTS, "chrf", ["abc", None], [["abc", "zzz"], ["abc"]]) < 1
