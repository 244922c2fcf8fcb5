"""How much gossip is taken of whom and passed on: whoever keeps to it is never judged."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from aigrid.node.network.gossip_rates import GossipRates
from aigrid.protocol.limits import LIMITS

SMALL = replace(
    LIMITS,
    gossip_messages_burst=40,
    gossip_messages_per_second=8.0,
    gossip_author_burst=20,
    gossip_author_per_second=4.0,
)
BUNCHED_SECONDS = 2.0  # half a burst at that rate


@given(
    gaps=st.lists(st.floats(0, 3), min_size=1, max_size=200),
    delays=st.lists(st.floats(0, BUNCHED_SECONDS), min_size=200, max_size=200),
    own=st.lists(st.booleans(), min_size=200, max_size=200),
)
def test_whatever_a_node_passes_on_is_taken_by_the_next_however_the_link_bunches_it(
    gaps: list[float], delays: list[float], own: list[bool]
) -> None:
    sender, receiver = GossipRates(SMALL), GossipRates(SMALL)
    now, arrives = 0.0, 0.0
    for gap, delay, ours in zip(gaps, delays, own, strict=False):
        now += gap / 10
        if sender.may_pass_on("receiver", 1, now, own=ours):
            arrives = max(arrives, now + delay)
            assert receiver.may_bring("sender", arrives, again=False)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=200))
def test_what_a_node_writes_at_its_pace_is_taken_of_it(gaps: list[float]) -> None:
    author, other = GossipRates(SMALL), GossipRates(SMALL)
    now = 0.0
    for gap in gaps:
        now += gap / 10
        while wait_seconds := author.own_wait_seconds("author", now):
            now += wait_seconds
        assert not other.has_written_all("author", now)
        assert other.may_write("author", now)


def test_our_own_are_passed_on_where_there_is_no_room_for_those_of_others() -> None:
    rates, sent = GossipRates(SMALL), 0
    while rates.may_pass_on("peer", 1, 0.0, own=False):
        sent += 1
    assert sent == SMALL.gossip_messages_burst * 3 // 8
    assert rates.may_pass_on("peer", 1, 0.0, own=True)
    assert rates.may_pass_on("another", 1, 0.0, own=False)


def test_more_at_once_than_ever_fits_is_passed_on_when_nothing_else_was() -> None:
    rates = GossipRates(SMALL)
    assert rates.may_pass_on("peer", 10 * SMALL.gossip_messages_burst, 0.0, own=False)
    assert not rates.may_pass_on("peer", 1, 0.0, own=True)


def test_a_message_that_is_known_counts_little() -> None:
    rates, taken = GossipRates(SMALL), 0
    while rates.may_bring("peer", 0.0, again=True):
        taken += 1
    assert taken == SMALL.gossip_messages_burst / SMALL.gossip_repeat_counts
