"""Standing falls wherever more is wrong than the noise; no new key and no honest past pays."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigrid.node.auditing.sampling import share
from aigrid.node.auditing.standing import NOISE, drift, moved, reputation
from aigrid.protocol.limits import LIMITS

COST, MOST = LIMITS.audit_wrong_cost, LIMITS.audit_standing_max
histories = st.lists(st.booleans(), max_size=300)


def after(history: list[bool], standing: float = 0.0) -> float:
    for wrong in history:
        standing = moved(standing, wrong=wrong)
    return standing


@given(st.floats(0, 1), st.floats(0, MOST))
def test_standing_is_expected_to_fall_above_the_noise_wherever_no_end_holds_it(wrong, standing):
    if not COST <= standing <= MOST - 1:
        standing = COST
    expected = wrong * moved(standing, wrong=True) + (1 - wrong) * moved(standing, wrong=False)
    assert expected - standing == pytest.approx(drift(wrong), abs=1e-9)
    if wrong > NOISE + 1e-9:
        assert drift(wrong) < 0
    if wrong < NOISE - 1e-9:
        assert drift(wrong) > 0


@given(st.floats(NOISE + 1e-6, 1), st.floats(0, MOST))
def test_the_upper_end_only_makes_it_fall_faster(wrong, standing):
    """Clipping at the top takes from the gain; only the clip at 0 holds it up."""
    expected = wrong * (standing - COST) + (1 - wrong) * moved(standing, wrong=False)
    assert expected - standing <= drift(wrong) + 1e-9


@given(histories, histories)
def test_a_new_key_is_never_better_than_staying(past, future):
    """Whatever went before, and whatever comes: at every step, so in reputation and audits too."""
    stayed, anew = after(past), 0.0
    for wrong in (None, *future):
        if wrong is not None:
            stayed, anew = moved(stayed, wrong=wrong), moved(anew, wrong=wrong)
        assert anew <= stayed
        assert reputation(anew) <= reputation(stayed)
        assert share(anew, 0.02) >= share(stayed, 0.02)


@given(histories)
def test_an_honest_past_buys_few_lies(past):
    lies = [True] * -(-MOST // COST)
    assert after(lies, after(past)) == 0
    assert 0 <= after(past) <= MOST


@given(st.floats(0, MOST), st.floats(0, MOST), st.booleans())
def test_more_standing_is_never_worse(one, other, wrong):
    less, more = sorted((one, other))
    assert moved(less, wrong=wrong) <= moved(more, wrong=wrong)
    assert reputation(less) <= reputation(more)
    assert LIMITS.reputation_floor <= reputation(less) <= 1


def test_one_lie_at_full_standing_costs_rank_and_two_cost_all():
    assert reputation(0) == LIMITS.reputation_floor < LIMITS.reputation_suspect
    assert reputation(MOST) == 1
    assert after([True] * 2, MOST) == 0


@given(st.floats(0, MOST), st.floats(0, 1))
def test_a_share_is_between_the_configured_and_that_of_the_unknown(standing, least):
    found = share(standing, least)
    assert found == 0 if least == 0 else least - 1e-9 <= found <= max(least, 0.5) + 1e-9
    assert share(MOST, least) == pytest.approx(least)
