"""Which messages are new by their numbers: whatever was forgotten is not, whoever says it again."""

import inspect
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from libp2p.pubsub.pubsub import Pubsub

from aigrid.node.network.gossip_numbers import LATE_SECONDS, Numbers
from aigrid.protocol.limits import LIMITS

START_MS = 1_800_000_000_000
SEEN_SECONDS = inspect.signature(Pubsub.__init__).parameters["seen_ttl"].default
SKEW = LIMITS.clock_skew_seconds
X = b"author"
WITHIN = st.floats(-SKEW + 0.001, SKEW - 0.001)  # clocks tell milliseconds


class Node:
    """What a node takes for new; `now` is in seconds from its start, its clock may be wrong."""

    def __init__(self, ahead_seconds: float = 0.0) -> None:
        self.now = 0.0
        self.ahead_seconds = ahead_seconds
        self.numbers = Numbers(lambda: START_MS + round(1000 * (self.now + self.ahead_seconds)))

    def is_anew(self, at: float) -> bool:
        return self.numbers.is_anew(X, number(at), self.now)

    def take(self, at: float) -> None:
        self.numbers.take(X, number(at), self.now)


def number(at: float) -> int:
    """Of what is written then."""
    return START_MS * 1_000_000 + round(at * 1e9)


@given(st.lists(st.floats(0, 400), max_size=60), WITHIN, st.floats(0, 400))
@example(written=[1.3125], ahead=SKEW - 0.001, later=0.0)
def test_what_was_taken_and_forgotten_is_never_new_again(
    written: Sequence[float], ahead: float, later: float
) -> None:
    node = Node()
    for at in sorted(written):
        node.now = at
        node.take(at + ahead)
    for at in written:
        node.now = max(*written, at + SEEN_SECONDS) + later
        assert not node.is_anew(at + ahead)


@given(
    st.lists(st.tuples(st.floats(0, 400), st.floats(0, LATE_SECONDS - 1)), max_size=60),
    st.floats(LATE_SECONDS - SKEW, SKEW - 1),
)
def test_what_comes_late_is_new_however_much_has_overtaken_it(
    written: list[tuple[float, float]], ahead: float
) -> None:
    node = Node()
    for at, late in sorted(written, key=sum):
        node.now = at + late
        assert node.is_anew(at + ahead)
        node.take(at + ahead)


@pytest.mark.parametrize(("ahead", "is_heard"), [(-288, False), (-60, True), (60, True)])
def test_by_a_node_that_has_just_started_new_is_what_was_written_just_now(
    ahead: float, is_heard: bool
) -> None:
    node = Node()
    node.now = 1000.0
    assert node.is_anew(1000.0 + ahead) is is_heard
    assert not any(node.is_anew(at) for at in range(1000 - SKEW))


@pytest.mark.parametrize("ahead", [SKEW + 1.0, 3600.0, 1e8])
def test_a_number_from_further_ahead_than_clocks_may_be_counts_for_nothing(ahead: float) -> None:
    node = Node()
    node.take(ahead)
    for now in range(0, 10_000, 10):
        node.now = float(now)
        if now < ahead - SKEW:
            assert not node.is_anew(ahead)
            node.take(ahead)
            assert node.is_anew(now)


def test_a_number_from_far_ahead_makes_nobody_forget_what_was_taken() -> None:
    node = Node()
    node.take(60.0)  # by a clock that is a minute ahead
    for now in range(SEEN_SECONDS + 1):
        node.now = float(now)
        node.take(1e6)
    assert not node.is_anew(60.0)


def test_what_was_learned_while_our_clock_was_ahead_does_not_count_when_it_is_right_again() -> None:
    node = Node(ahead_seconds=3600.0)
    for now in range(300):
        node.now = float(now)
        node.take(3600.0 + now)
    node.ahead_seconds = 0.0
    assert node.is_anew(node.now)


def test_authors_that_are_remembered_are_bounded() -> None:
    numbers = Numbers(lambda: START_MS)
    for author in range(LIMITS.rate_keys_max + 5):
        numbers.take(b"%d" % author, number(0), 0.0)
    assert len(numbers._taken) == LIMITS.rate_keys_max


def test_authors_that_were_heard_longest_ago_are_forgotten_first() -> None:
    numbers = Numbers(lambda: START_MS, replace(LIMITS, rate_keys_max=2))
    for author in (b"one", b"two", b"one", b"three"):
        numbers.take(author, number(0), 0.0)
    for author in (b"one", b"two", b"three"):
        assert numbers.is_anew(author, number(0), 2 * LATE_SECONDS) is (author == b"two")


@given(
    st.lists(st.floats(0, 10), min_size=1, max_size=50),
    st.lists(st.floats(-1000, 1000), min_size=50, max_size=50),
)
def test_our_own_numbers_are_new_and_never_the_same_whatever_our_clock_does(
    gaps: list[float], steps: list[float]
) -> None:
    node, last = Node(), 0
    for gap, step in zip(gaps, steps, strict=False):
        node.now += gap
        node.ahead_seconds = step if abs(step) > 500 else 0.0
        following = node.numbers.following(last)
        assert following != last
        own_ns = number(node.now + node.ahead_seconds)
        assert -1_000_000 <= following - own_ns <= SKEW * 1_000_000_000 + 1_000_000
        last = following


def test_our_own_numbers_grow_while_the_clock_stands_or_goes_back_a_little() -> None:
    node, last = Node(), 0
    for ahead in (0.0, 0.0, -10.0, 1.0 - SKEW, 1.0):
        node.ahead_seconds = ahead
        following = node.numbers.following(last)
        assert following > last
        last = following
