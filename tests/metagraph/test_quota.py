from hypothesis import given
from hypothesis import strategies as st

from aigrid.metagraph.quota import TokenBucket, TokenBuckets

STEPS = st.lists(st.floats(0, 10, allow_nan=False), max_size=60)


def bucket(now: float = 0.0) -> TokenBucket:
    return TokenBucket(per_second=2, burst=3, now_seconds=now)


def test_a_burst_is_allowed_and_then_the_rate() -> None:
    made = bucket()
    assert [made.take(0) for _ in range(4)] == [True, True, True, False]
    assert made.wait_seconds(0) == 0.5
    assert not made.take(0.49)
    assert made.take(0.5)


@given(STEPS)
def test_no_more_is_taken_than_burst_and_rate_allow(steps: list[float]) -> None:
    made, now, taken = bucket(), 0.0, 0
    for step in steps:
        now += step
        taken += made.take(now)
    assert taken <= 3 + 2 * now + 1e-6


def test_a_clock_set_back_gives_nothing_away_and_does_not_block() -> None:
    made = bucket(1000.0)
    for _ in range(3):
        made.take(1000.0)
    assert not made.take(10.0)
    assert made.take(10.5)


def test_buckets_are_apart_and_their_number_is_bounded() -> None:
    made = TokenBuckets(per_second=1, burst=1, keys_max=2)
    assert made.of("a", 0).take(0)
    assert not made.of("a", 0).take(0)
    assert made.of("b", 0).take(0)
    made.of("c", 0)  # "a" is forgotten
    assert not made.of("b", 0).take(0)
    assert made.of("a", 0).take(0)
