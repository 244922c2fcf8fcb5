"""By when most answers have come: exact over a window, bounded, and silent on too little."""

import math

from hypothesis import given
from hypothesis import strategies as st

from aigrid.node.learning.pace import Paces
from aigrid.protocol.limits import LIMITS

OF = ("p", "m", "c")
LEAST = LIMITS.pace_answers_min
durations = st.lists(st.floats(0, 1e6), min_size=1, max_size=3 * LIMITS.pace_window)


@given(durations)
def test_95_of_100_of_the_newest_are_not_later(found):
    paces = Paces()
    for seconds in found:
        paces.took(*OF, seconds)
    late = paces.late_after_seconds(*OF)
    window = found[-LIMITS.pace_window :]
    if len(window) < LEAST:
        assert late is None
        return
    assert late is not None
    assert sum(one <= late for one in window) >= 0.95 * len(window)
    assert sum(one < late / 1.0501 for one in window) < math.ceil(0.95 * len(window))


@given(durations, st.floats(0, 1e6))
def test_who_hung_up_early_says_nothing(found, waited):
    paces = Paces()
    for seconds in found:
        paces.took(*OF, seconds)
    before = paces.late_after_seconds(*OF)
    paces.given_up(*OF, waited)
    after = paces.late_after_seconds(*OF)
    if before is None or waited < before:
        assert after == before
    else:
        assert after is not None


def test_one_kind_of_answer_says_nothing_of_another():
    paces = Paces()
    for _ in range(LEAST):
        paces.took("p", "m", "translation", 1.0)
    assert paces.late_after_seconds("p", "m", "translation") == 1.05
    assert paces.late_after_seconds("p", "m", "text-generation") is None
    assert paces.late_after_seconds("q", "m", "translation") is None


def test_those_not_added_to_for_longest_are_forgotten():
    paces = Paces()
    for _ in range(LEAST):
        paces.took(*OF, 1.0)
    for number in range(LIMITS.paces_max - 1):
        paces.took(f"p{number}", "m", "c", 1.0)
    assert paces.late_after_seconds(*OF) == 1.05
    paces.took("another", "m", "c", 1.0)
    assert paces.late_after_seconds(*OF) is None
