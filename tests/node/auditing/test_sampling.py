"""Who checks: new nodes often enough to become known; and those that are known have the last word."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigrid.node.auditing.sampling import examinee, first_checker, second_checker, share
from aigrid.protocol.limits import LIMITS

MOST = LIMITS.audit_standing_max
standings = st.dictionaries(st.sampled_from("abcdef"), st.floats(0, MOST), min_size=1)


def test_new_ones_check_first_where_nobody_is_known_and_else_never():
    rng, known = random.Random(1), dict.fromkeys("abcdefghi", float(MOST))
    drawn = Counter(first_checker({**known, "new": 0.0}, rng) for _ in range(2000))
    assert set(drawn) == set(known)
    assert first_checker({"new": 0.0}, rng) == "new"


def test_of_every_second_audit_a_new_one_is_examined():
    rng, known = random.Random(1), dict.fromkeys("abcdefghi", float(MOST))
    drawn = Counter(examinee({**known, "new": 0.0, "newer": 1.0}, rng) for _ in range(2000))
    assert set(drawn) == {None, "new", "newer"}
    assert 900 < drawn[None] < 1100
    assert examinee(known, rng) is None


@given(standings, st.integers(0, 2**32))
def test_it_is_one_of_them_and_the_same_for_the_same_seed(of, seed):
    for choose in (first_checker, second_checker):
        assert choose(of, random.Random(seed)) in of
        assert choose(of, random.Random(seed)) == choose(
            dict(reversed(of.items())), random.Random(seed)
        )


@given(standings, st.integers(0, 2**32))
def test_the_second_has_the_greatest_standing(of, seed):
    assert of[second_checker(of, random.Random(seed))] == max(of.values())


@pytest.mark.parametrize("least", [0.02, 0.7, 1.0])
def test_less_is_checked_of_those_of_whom_more_is_known(least):
    shares = [share(n, least) for n in range(MOST + 1)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == max(least, LIMITS.audit_share_new)
    assert shares[-1] == pytest.approx(least)


def test_none_is_checked_where_it_is_off():
    assert share(0, 0) == 0
