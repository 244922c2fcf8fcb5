"""Windows of tokens and of latency, by a clock that the tests move."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigrid.node.observing.recent import Figures, OneAnswer, Recent
from aigrid.protocol.inference import Finish, TextChunk


def test_nothing_asked_is_nothing_told() -> None:
    assert Recent().figures(5.0) == Figures()


def test_tokens_of_the_window_and_no_older_ones() -> None:
    recent = Recent(window_seconds=10.0)
    recent.add(100.0, 7, 50)
    recent.add(100.9, 0, 50)
    recent.add(109.5, 3, 20)
    now = recent.figures(109.5)
    assert (now.prompt_tokens, now.completion_tokens) == (10, 120)
    assert now.window_seconds == pytest.approx(9.5)
    later = recent.figures(110.0)
    assert (later.prompt_tokens, later.completion_tokens) == (3, 20)
    assert later.window_seconds == pytest.approx(9.0)
    assert recent.figures(300.0).completion_tokens == 0


def test_a_first_burst_counts_as_a_second_at_least() -> None:
    recent = Recent()
    recent.add(50.5, 1, 100)
    assert recent.figures(50.5).window_seconds == 1.0


def test_quantiles_of_how_soon_answers_began_lately() -> None:
    recent = Recent(firsts_seconds=300.0, firsts_max=100)
    for n in range(1, 201):
        OneAnswer(recent, 1000.0).went_out(1000.0 + n / 1000, (TextChunk("a", (1,)),))
    found = recent.figures(1001.0)
    assert found.first_p50_seconds == pytest.approx(0.150)
    assert found.first_p95_seconds == pytest.approx(0.195)
    assert recent.figures(1400.0).first_p50_seconds is None


def test_only_the_first_batch_is_the_beginning() -> None:
    recent = Recent()
    answer = OneAnswer(recent, 10.0)
    answer.went_out(10.5, (TextChunk("a", (1,)),))
    answer.went_out(19.0, (TextChunk("b", (2,)), Finish("stop", 4, 2)))
    found = recent.figures(19.0)
    assert found.first_p95_seconds == pytest.approx(0.5)
    assert (found.prompt_tokens, found.completion_tokens) == (4, 2)


def test_an_engine_that_says_no_ids_is_counted_by_its_finish() -> None:
    recent = Recent()
    answer = OneAnswer(recent, 10.0)
    answer.went_out(10.5, (TextChunk(text="a"),))
    answer.went_out(10.6, (TextChunk(text="b"), Finish("stop", 9, 30)))
    assert recent.figures(10.7).completion_tokens == 30
    assert recent.figures(10.7).prompt_tokens == 9


@given(st.lists(st.tuples(st.floats(0, 3), st.integers(0, 99), st.integers(0, 99)), max_size=60))
def test_what_is_told_is_what_came_within_the_window(
    steps: list[tuple[float, int, int]],
) -> None:
    recent, now, came = Recent(window_seconds=10.0), 77.7, []
    for pause, prompt, completion in steps:
        now += pause
        recent.add(now, prompt, completion)
        came.append((now, prompt, completion))
    found = recent.figures(now)
    assert found.window_seconds <= 10.0
    start = int(now) - 9
    assert found.prompt_tokens == sum(p for at, p, _ in came if at >= start)
    assert found.completion_tokens == sum(c for at, _, c in came if at >= start)
