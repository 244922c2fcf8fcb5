"""What counts as the same answer, and which one most agree with."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigrid.node.outcome import agreement as agreement_module
from aigrid.node.outcome.agreement import Agreement, same
from aigrid.protocol.limits import LIMITS

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
    agreement = Agreement()
    for n, answer in enumerate(answers):
        agreement.add(n, answer)
    place, agreeing = agreement.most()
    assert len(agreeing) == max(map(answers.count, answers))
    assert [answers[n] for n in agreeing] == [answers[place]] * len(agreeing)
    assert place == agreeing[0]


def test_each_pair_of_answers_is_compared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def noting(one: Any, other: Any) -> bool:
        compared.append((one, other))
        return one == other

    monkeypatch.setattr(agreement_module, "same", noting)
    agreement = Agreement()
    for place, answer in ((3, "a"), (1, "b"), (2, "b"), (0, "a")):
        agreement.add(place, answer)
    assert agreement.most() == (0, (0, 3))
    assert len(compared) == 6


def deep(levels: int, leaf: Any = 1) -> Any:
    for _ in range(levels):
        leaf = [leaf]
    return leaf


def boxes(count: int, right: float = 10) -> list[dict[str, Any]]:
    return [box("cat", 0, 0, right, 10) for _ in range(count)]


@pytest.mark.parametrize(
    ("answer", "near"),
    [
        (deep(40, 1.0), deep(40, 1.0001)),
        (deep(5000), deep(5000, 2)),
        (boxes(1000), boxes(1000, 10.1)),
        ([boxes(300)] * 30, [boxes(300, 10.1)] * 30),
        ([[1.0]] * 200_000, [[1.0001]] * 200_000),
        (["a b"] * 200_000, ["a  b"] * 200_000),
        ("\ufdfa" * 500_000, "\ufdfa" * 500_000 + " "),
        ([{"box": {}, "label": deep(5000)}], [{"box": {"x": 1}, "label": deep(5000)}]),
        ([10**400, 1], [10**400, 2]),
        (10**400, 1.0),
        ([{"label": "a", "score": 10**400}], [{"label": "b", "score": 1}]),
    ],
    ids=lambda _: "",
)
def test_hostile_answers_are_like_their_equals_alone_and_take_bounded_work(
    answer: Any, near: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    overlaps = 0
    real = agreement_module._overlap

    def counting(one: Any, other: Any) -> float:
        nonlocal overlaps
        overlaps += 1
        return real(one, other)

    monkeypatch.setattr(agreement_module, "_overlap", counting)
    assert not same(answer, near)
    assert overlaps <= LIMITS.compared_steps_max


def test_a_long_row_of_rows_is_compared_as_it_is_meant() -> None:
    one = [[math.sin(m + n) for n in range(384)] for m in range(512)]
    other = [[value * 1.0001 for value in row] for row in one]
    assert same(one, other)
    assert same(boxes(300), boxes(300, 10.1))
