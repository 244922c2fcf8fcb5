"""How much gossip is taken of whom and passed on: whoever keeps to it is never judged."""

from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from aigrid.node.network.gossip_rates import GossipRates
from aigrid.node.network.gossip_shares import Shares, fair_share
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
        if sender.may_pass_on("receiver", [b"author"], now, own=ours):
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
        assert other.may_write("author", b"author", now)


def test_our_own_are_passed_on_where_there_is_no_room_for_those_of_others() -> None:
    rates, sent = GossipRates(SMALL), 0
    while rates.may_pass_on("peer", [b"author"], 0.0, own=False):
        sent += 1
    assert sent == SMALL.gossip_messages_burst * 3 // 8
    assert rates.may_pass_on("peer", [b"author"], 0.0, own=True)
    assert rates.may_pass_on("another", [b"author"], 0.0, own=False)


def test_more_at_once_than_ever_fits_is_passed_on_when_nothing_else_was() -> None:
    rates = GossipRates(SMALL)
    assert rates.may_pass_on("peer", [b"author"] * 10 * SMALL.gossip_messages_burst, 0.0, own=False)
    assert not rates.may_pass_on("peer", [b"author"], 0.0, own=True)


def test_a_message_that_is_known_counts_little() -> None:
    rates, taken = GossipRates(SMALL), 0
    while rates.may_bring("peer", 0.0, again=True):
        taken += 1
    assert taken == SMALL.gossip_messages_burst / SMALL.gossip_repeat_counts


def test_members_that_write_much_take_it_from_each_other_and_not_from_who_writes_little() -> None:
    rates = GossipRates()
    loud = [b"loud %d" % number for number in range(12)]  # together four times what a link takes
    passed: Counter[bytes] = Counter()
    written: Counter[bytes] = Counter()
    for step in range(60 * 64):
        now = step / 64
        for author in [*loud, *[b"quiet"] * (step % 32 == 0)]:
            if rates.may_write(author.decode(), author, now):
                is_passed = rates.may_pass_on("peer", [author], now)
                if now >= 2:  # that there are many is known from the first second
                    written[author] += 1
                    passed[author] += is_passed
    assert passed[b"quiet"] == written[b"quiet"] == 116
    room = LIMITS.gossip_messages_per_second - LIMITS.gossip_author_per_second
    assert min(passed[one] for one in loud) >= 0.95 * 58 * (room - 2) / len(loud)
    assert sum(passed[one] for one in loud) < 0.3 * sum(written[one] for one in loud)
    assert sum(passed.values()) > 0.6 * 58 * LIMITS.gossip_messages_per_second  # links are used


def test_without_shortage_nobody_has_a_share() -> None:
    rates = GossipRates()
    for step in range(60 * 64):
        assert rates.may_write("only", b"only", step / 64)
        assert rates.may_pass_on("peer", [b"only"], step / 64)


@given(st.lists(st.integers(0, 100), max_size=30), st.floats(1, 1000))
def test_a_share_is_max_min_fair(wanted: list[int], capacity: float) -> None:
    share = fair_share(wanted, capacity)
    given = [min(amount, share) for amount in wanted]
    assert sum(given) <= capacity * (1 + 1e-9)
    if sum(wanted) > capacity:  # nothing is left over, and nobody short has less than another
        assert sum(given) >= capacity * (1 - 1e-9)
        assert all(got == share for got, amount in zip(given, wanted, strict=True) if got < amount)
    else:
        assert given == wanted


@given(
    st.lists(st.tuples(st.floats(0, 20), st.integers(0, 40)), max_size=200),
    st.integers(1, 8),
)
def test_shares_keep_no_more_than_they_may(said: list[tuple[float, int]], authors_max: int) -> None:
    shares = Shares(10.0, authors_max)
    for now, author in sorted(said):
        shares.wrote(b"%d" % author, now)
        assert len(shares._counts) <= authors_max
    assert Shares(10.0).within(b"new", 0.0)
