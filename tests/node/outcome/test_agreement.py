"""What counts as the same answer, and which one most agree with."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigrid.node.outcome.agreement import groups, most_agreed, same

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def labels(**scores: float) -> list[dict[str, Any]]:
    return [{"label": label, "score": score} for label, score in scores.items()]


def box(label: str, *corners: float) -> dict[str, Any]:
    sides = dict(zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True))
    return {"label": label, "score": 0.9, "box": sides}


ALIKE: tuple[tuple[Any, Any], ...] = (
    (labels(cat=0.9, dog=0.1), labels(dog=0.4, cat=0.6)),
    ("Le chat  dort.", "le CHAT dort."),
    ({"text": "Le chat"}, "le chat"),
    ("ﬁn", "fin"),
    ([1.0, 2.0], [1.0005, 2.0]),
    ([[0.1] * 20], [[0.1001] * 19 + [0.11]]),
    (
        [{"entity": "PER", "score": 0.9, "start": 0, "end": 3}],
        [{"entity": "PER", "score": 0.5, "start": 0, "end": 3}],
    ),
    (
        [{"index": 0, "score": 1.5, "anomaly": False}, {"index": 1, "score": 9, "anomaly": True}],
        [{"index": 1, "score": 3, "anomaly": True}],
    ),
    ([box("cat", 0, 0, 10, 10)], [box("cat", 1, 0, 10, 10)]),
    ({"answer": "Paris", "score": 0.9}, {"answer": "paris", "score": 0.2}),
)
DIFFERENT: tuple[tuple[Any, Any], ...] = (
    (labels(cat=0.9), labels(dog=0.9)),
    (labels(cat=0.9), []),
    ("le chat", "le chien"),
    ([1.0, 2.0], [1.0, 2.01]),
    ([1.0], [1.0, 1.0]),
    ([[0.1] * 20], [[0.1, -0.1] * 10]),
    ([[3, 4]], [[4, 3.01]]),
    ([box("cat", 0, 0, 10, 10)], [box("cat", 9, 9, 20, 20)]),
    ([box("cat", 0, 0, 10, 10)], [box("dog", 0, 0, 10, 10)]),
    ([box("cat", 0, 0, 10, 10)], [box("cat", 0, 0, 10, 10)] * 2),
    (True, 1),
    ("1", 1),
    ({"a": 1}, {"a": 1, "b": 2}),
)


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_they_say_the_same(one: Any, other: Any) -> None:
    assert same(one, other)
    assert same(other, one)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_they_do_not(one: Any, other: Any) -> None:
    assert not same(one, other)
    assert not same(other, one)


@given(JSON, JSON)
def test_any_json_agrees_with_itself_and_both_ways_or_neither(one: Any, other: Any) -> None:
    assert same(one, one)
    assert same(one, other) == same(other, one)


@given(st.lists(st.sampled_from(["a", "b", "c"]), min_size=1))
def test_of_classes_the_largest_is_found_and_its_first_answer(answers: list[str]) -> None:
    place, agreeing = most_agreed(answers)
    assert len(agreeing) == max(map(answers.count, answers))
    assert [answers[n] for n in agreeing] == [answers[place]] * len(agreeing)
    assert place == agreeing[0]
    assert all(n in group for n, group in enumerate(groups(answers)))
