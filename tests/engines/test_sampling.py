"""Draws repeat from seed and position, follow the distribution, and stay inside the nucleus."""

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from aigrid.engines.sampling import Logits, Sampling, choose, log_probabilities, uniform
from aigrid.protocol.errors import Code, EngineError

logits = arrays.arrays(
    np.float32,
    st.integers(1, 700),
    elements=st.floats(-1e4, 1e4, width=32),
    fill=st.nothing(),
)
seeds = st.integers(-(2**63), 2**64)


def exact_odds(values: Logits, temperature: float) -> npt.NDArray[np.float64]:
    odds = np.exp((values.astype(np.float64) - values.max()) / temperature)
    return odds / odds.sum()


@given(logits, st.integers(0, 10**6), seeds)
def test_greedy_takes_the_first_of_the_largest(values: Logits, position: int, seed: int) -> None:
    token = choose(values, Sampling(0, 0.5, seed), position)
    assert values[token] == values.max()
    assert token == np.flatnonzero(values == values.max())[0]


@given(logits, st.floats(0, 100), st.floats(0.01, 1), seeds, st.integers(0, 10**6))
def test_a_choice_is_a_function_of_its_arguments(
    values: Logits, temperature: float, top_p: float, seed: int, position: int
) -> None:
    sampling = Sampling(temperature, top_p, seed)
    token = choose(values, sampling, position)
    assert 0 <= token < len(values)
    assert choose(values.copy(), sampling, position) == token


@given(logits, st.floats(0.1, 10), st.floats(0.01, 0.999), seeds, st.integers(0, 1000))
def test_a_choice_lies_in_the_nucleus(
    values: Logits, temperature: float, top_p: float, seed: int, position: int
) -> None:
    token = choose(values, Sampling(temperature, top_p, seed), position)
    odds = exact_odds(values, temperature)
    # What is likelier than the chosen one must not already hold the whole nucleus.
    assert odds[odds > odds[token] * (1 + 1e-5)].sum() < top_p + 1e-5


@given(logits, st.sampled_from([5e-324, 1e-300, 1e-40, 1e-30]), seeds)
def test_next_to_no_temperature_is_nearly_greedy(
    values: Logits, temperature: float, seed: int
) -> None:
    token = choose(values, Sampling(temperature, 1.0, seed), 0)
    assert values[token] == values.max()


def test_frequencies_are_the_probabilities() -> None:
    values = np.log(np.array([0.5, 0.25, 0.15, 0.1], np.float32))
    drawn = [choose(values, Sampling(1.0, 1.0, 3), position) for position in range(4000)]
    np.testing.assert_allclose(np.bincount(drawn) / 4000, [0.5, 0.25, 0.15, 0.1], atol=0.03)
    drawn = [choose(values, Sampling(1.0, 0.7, 3), position) for position in range(4000)]
    np.testing.assert_allclose(np.bincount(drawn) / 4000, [2 / 3, 1 / 3], atol=0.03)
    drawn = [choose(values, Sampling(2.0, 1.0, 3), position) for position in range(4000)]
    np.testing.assert_allclose(np.bincount(drawn) / 4000, exact_odds(values, 2.0), atol=0.03)


def test_a_long_vocabulary_is_drawn_from_evenly() -> None:
    values = np.zeros(1000, np.float32)
    drawn = [choose(values, Sampling(1.0, 1.0, 8), position) for position in range(5000)]
    np.testing.assert_allclose(np.histogram(drawn, 4, (0, 1000))[0] / 5000, [0.25] * 4, atol=0.03)


def test_what_is_impossible_is_never_drawn() -> None:
    values = np.full(600, -1e4, np.float32)
    values[[255, 256, 599]] = 0
    drawn = {choose(values, Sampling(1.0, 1.0, 1), position) for position in range(200)}
    assert drawn == {255, 256, 599}


def test_the_draw_of_a_position_is_fixed_for_good() -> None:
    # Other nodes, of other versions, draw these: changing them changes the protocol.
    assert [uniform(7, position) for position in range(3)] == DRAWS_OF_7
    assert uniform(7, 1) != uniform(8, 1)
    assert uniform(-1, 0) == uniform(2**128 - 1, 0)


DRAWS_OF_7 = [0.8720734548204873, 0.0828426870273763, 0.014107696329258346]


@given(seeds, st.integers(0, 2**40))
def test_draws_lie_below_one(seed: int, position: int) -> None:
    assert 0 <= uniform(seed, position) < 1


@given(logits, st.integers(0, 30), st.data())
def test_log_probabilities_are_those_of_the_raw_logits(
    values: Logits, top: int, data: st.DataObject
) -> None:
    token = data.draw(st.integers(0, len(values) - 1))
    logprob, best = log_probabilities(values, token, top)
    wide = values.astype(np.float64)
    expected = wide - wide.max() - np.log(np.exp(wide - wide.max()).sum())
    assert logprob == pytest.approx(expected[token], abs=1e-4, rel=1e-5)
    assert len(best) == min(top, len(values))
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))[:top]
    assert [i for i, _ in best] == order
    assert all(math.isclose(p, expected[i], abs_tol=1e-4, rel_tol=1e-5) for i, p in best)


@pytest.mark.parametrize(
    ("temperature", "top_p"),
    [(-1, 1), (float("nan"), 1), (float("inf"), 1), (1, 0), (1, 1.5), (1, float("nan"))],
)
def test_values_out_of_range_are_refused(temperature: float, top_p: float) -> None:
    with pytest.raises(EngineError) as caught:
        Sampling(temperature, top_p, 0)
    assert caught.value.code == Code.INVALID_REQUEST
