"""How much gossip is taken of whom and passed on: whoever keeps to it is never judged."""

import itertools
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigrid.node.network.gossip_rates import GossipRates, Said
from aigrid.node.network.gossip_shares import Shares, fair_share
from aigrid.protocol.limits import LIMITS, Limits

SMALL = replace(
    LIMITS,
    gossip_messages_burst=40,
    gossip_messages_per_second=8.0,
    gossip_author_burst=20,
    gossip_author_per_second=4.0,
)
BUNCHED_SECONDS = 2.0  # half a burst at that rate


SIZES = st.lists(st.integers(0, LIMITS.gossip_max_bytes), min_size=200, max_size=200)
NOW_MS = 1_800_000_000_000  # it stands, as in the second in which many write
NOW = NOW_MS * 1_000_000
_numbers = itertools.count(NOW)


def fresh(limits: Limits = LIMITS) -> GossipRates:
    return GossipRates(lambda: NOW_MS, limits)


def said(author: bytes = b"author", size: int = 100, number: int | None = None) -> Said:
    """The author's next message, unless its number is given."""
    number = next(_numbers) if number is None else number
    return Said(author, number.to_bytes(8, "big"), size)


@given(
    gaps=st.lists(st.floats(0, 3), min_size=1, max_size=200),
    delays=st.lists(st.floats(0, BUNCHED_SECONDS), min_size=200, max_size=200),
    kinds=st.lists(st.sampled_from(["own", "pushed", *range(8)]), min_size=200, max_size=200),
    sizes=SIZES,
)
def test_whatever_a_node_passes_on_is_taken_by_the_next_however_the_link_bunches_it(
    gaps: list[float], delays: list[float], kinds: list[str | int], sizes: list[int]
) -> None:
    """Written now, or so many in one frame that are said again."""
    sender, receiver = fresh(SMALL), fresh(SMALL)
    now, arrives = 0.0, 0.0
    for place, (gap, delay, kind) in enumerate(zip(gaps, delays, kinds, strict=False)):
        now += gap / 10
        if isinstance(kind, int):
            frame = sizes[place : place + kind]
            again = [said(size=size) for size in frame]
            sent = frame[: sender.may_say_again("receiver", again, now)]
        else:
            message = said(size=sizes[place])
            passes = sender.may_pass_on("receiver", message, now, own=kind == "own")
            sent = [sizes[place]] * passes
        if sent:
            arrives = max(arrives, now + delay)
        for size in sent:
            assert receiver.may_bring("sender", size, arrives, again=False)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=200), SIZES)
def test_what_a_node_writes_at_its_pace_is_taken_of_it(gaps: list[float], sizes: list[int]) -> None:
    author, other = fresh(SMALL), fresh(SMALL)
    now = 0.0
    for gap, size in zip(gaps, sizes, strict=False):
        now += gap / 10
        while wait_seconds := author.own_wait_seconds("author", size, now):
            now += wait_seconds
        message = said(size=size)
        assert not other.has_written_all(message, now)
        assert other.may_write(message, now)


def test_our_own_are_passed_on_where_there_is_no_room_for_those_of_others() -> None:
    rates, sent = fresh(SMALL), 0
    while rates.may_pass_on("peer", said(), 0.0):
        sent += 1
    assert sent == SMALL.gossip_messages_burst * 3 // 8
    assert rates.may_pass_on("peer", said(), 0.0, own=True)
    assert rates.may_pass_on("another", said(), 0.0)


def test_more_at_once_than_ever_fits_is_passed_on_when_nothing_else_was() -> None:
    rates = fresh(SMALL)
    giant = said(size=10 * SMALL.gossip_messages_burst * SMALL.gossip_counted_bytes)
    assert rates.may_pass_on("peer", giant, 0.0)
    assert not rates.may_pass_on("peer", said(), 0.0, own=True)
    assert rates.may_say_again("another", [giant, said()], 0.0) == 1


def test_a_message_that_is_known_counts_little() -> None:
    rates, taken = fresh(SMALL), 0
    while rates.may_bring("peer", 100, 0.0, again=True):
        taken += 1
    assert taken == SMALL.gossip_messages_burst / SMALL.gossip_repeat_counts


def test_a_large_message_counts_as_several() -> None:
    rates, written, brought = fresh(), 0, 0
    while rates.may_write(said(size=4 * LIMITS.gossip_counted_bytes), 0.0):
        written += 1
    while rates.may_bring("peer", 4 * LIMITS.gossip_counted_bytes, 0.0, again=False):
        brought += 1
    assert written == LIMITS.gossip_author_burst / 4
    assert brought == LIMITS.gossip_messages_burst / 4


OLD = st.one_of(
    st.integers(1, NOW - 121 * 10**9), st.integers(NOW + 121 * 10**9, 2**64 - 1), st.just(2**63)
)


@given(st.lists(OLD, max_size=400), st.booleans())
def test_what_was_said_before_takes_nothing_from_what_is_said_anew(
    replayed: list[int], ascending: bool
) -> None:
    """Also by a node that has just started, and whatever its author once had for a clock."""
    rates = fresh(SMALL)
    for number in sorted(replayed) if ascending else replayed:
        rates.may_write(said(number=number), 0.0)
    for number in range(NOW + 1, NOW + 1 + SMALL.gossip_author_burst):
        message = said(number=number)
        assert not rates.has_written_all(message, 0.0)
        assert rates.may_write(message, 0.0)
    assert not rates.may_write(said(number=NOW + 20_000), 0.0)


@pytest.mark.parametrize("numbers", [range(99), range(2**63, 2**63 + 99), range(NOW, NOW + 99)])
def test_whose_clock_is_wrong_is_heard_at_the_same_rate(numbers: range) -> None:
    rates = fresh(SMALL)
    for number in numbers[: SMALL.gossip_author_burst]:
        assert rates.may_write(said(number=number), 0.0)
    assert not rates.may_write(said(number=numbers[-1]), 0.0)
    assert rates.may_write(said(number=numbers[-1]), 1.0)


def test_members_that_write_much_take_it_from_each_other_and_not_from_who_writes_little() -> None:
    rates = fresh()
    loud = [b"loud %d" % number for number in range(12)]  # together four times what a link takes
    passed: Counter[bytes] = Counter()
    written: Counter[bytes] = Counter()
    for step in range(60 * 64):
        now = step / 64
        for author in [*loud, *[b"quiet"] * (step % 32 == 0)]:
            message = said(author)
            if rates.may_write(message, now):
                is_passed = rates.may_pass_on("peer", message, now)
                if now >= 2:  # that there are many is known from the first second
                    written[author] += 1
                    passed[author] += is_passed
    assert passed[b"quiet"] == written[b"quiet"] == 116
    room = LIMITS.gossip_messages_per_second - LIMITS.gossip_author_per_second
    assert min(passed[one] for one in loud) >= 0.95 * 58 * (room - 2) / len(loud)
    assert sum(passed[one] for one in loud) < 0.3 * sum(written[one] for one in loud)
    assert sum(passed.values()) > 0.6 * 58 * LIMITS.gossip_messages_per_second  # links are used


def test_a_message_that_was_overtaken_is_still_its_authors() -> None:
    rates, late = fresh(SMALL), said(number=NOW)
    for number in range(NOW + 1, NOW + 31):
        rates.may_write(said(number=number), 0.0)
    while rates.may_write(said(number=1), 2.0):
        pass  # repetitions have all that they may
    assert not rates.has_written_all(late, 2.0)
    assert rates.may_write(late, 2.0)


def test_an_author_answers_for_what_it_has_brought_itself() -> None:
    rates, told = fresh(SMALL), 0
    while rates.may_tell_itself(said(), 0.0):
        told += 1
    assert told == SMALL.gossip_author_burst
    assert rates.may_tell_itself(said(b"another"), 0.0)


@pytest.mark.parametrize(("on", "off"), [(1, 1), (2, 2), (1, 3)])
def test_who_writes_much_now_and_then_has_shares_too(on: int, off: int) -> None:
    rates, passed, written = fresh(), 0, 0
    loud = [b"loud %d" % number for number in range(8)]
    for step in range(60 * 128):
        now = 1000 + step / 128
        authors = [*loud] * (step // 128 % (on + off) < on)
        for author in [*authors, *[b"quiet"] * (step % 32 == 0)]:
            message = said(author)
            if rates.may_write(message, now):
                is_passed = rates.may_pass_on("peer", message, now)
                written += author == b"quiet"
                passed += is_passed * (author == b"quiet")
    assert passed >= 0.99 * written > 200


def scarce(rates: GossipRates) -> tuple[list[Said], Said]:
    """What a loud and a quiet member have written, when less than half is left of a link."""
    quiet, loud = said(b"quiet"), [said(b"loud") for _ in range(LIMITS.gossip_author_burst)]
    for message in (quiet, *loud):
        assert rates.may_write(message, 0.0)
    for message in loud[:-1]:
        rates.may_pass_on("peer", message, 0.0)
    return loud, quiet


def test_while_little_is_left_who_is_over_its_share_is_held_back_and_nothing_said_again() -> None:
    rates = fresh()
    loud, quiet = scarce(rates)
    assert not rates.may_pass_on("peer", loud[-1], 0.0)
    assert rates.may_say_again("peer", [quiet, *loud], 0.0) == 0
    assert rates.may_pass_on("another", loud[-1], 0.0)
    assert rates.may_pass_on("peer", loud[-1], 0.0, own=True)
    assert rates.may_pass_on("peer", quiet, 0.0)


def test_what_is_held_back_takes_nothing_from_a_link() -> None:
    rates = fresh()
    loud, quiet = scarce(rates)
    for _ in range(1000):
        assert not rates.may_pass_on("peer", loud[-1], 0.0)
        assert not rates.may_say_again("peer", loud, 0.0)
    assert rates.may_pass_on("peer", quiet, 0.0)


def test_what_is_said_again_goes_as_far_as_it_fits() -> None:
    rates, half = fresh(SMALL), SMALL.gossip_messages_burst // 4
    large = said(size=half * SMALL.gossip_counted_bytes)
    assert rates.may_say_again("peer", [said()] * 100, 0.0) == half
    assert rates.may_say_again("another", [said(), large, said()], 0.0) == 1
    assert rates.may_pass_on("peer", said(), 0.0)  # there is room for what is written now


def test_repetitions_of_many_have_one_share_together() -> None:
    rates, old = fresh(), [b"member %d" % number for number in range(10)]
    passed = written = 0
    for step in range(30 * 64):
        now = 1 + step / 64
        for author in old:  # what each of them said once, repeated by somebody
            message = said(author, number=next(_numbers) - 200 * 10**9)
            if rates.may_write(message, now):
                rates.may_pass_on("peer", message, now)
        if step >= 128 and step % 8 == 0:  # and one of them says something new
            message = said(old[3])
            assert rates.may_write(message, now)
            written += 1
            passed += rates.may_pass_on("peer", message, now)
    assert passed == written > 200


def test_without_shortage_nobody_has_a_share() -> None:
    rates = fresh()
    for step in range(60 * 64):
        message = said(b"only")
        assert rates.may_write(message, step / 64)
        assert rates.may_pass_on("peer", message, step / 64)


@pytest.mark.parametrize(("now", "allowed"), [(1.0, False), (2.0, True), (5.0, True)])
def test_a_share_is_of_the_second_before_and_of_no_earlier_one(now: float, allowed: bool) -> None:
    shares = Shares(10.0)
    for author in (b"one", b"two"):
        shares.wrote(author, 8.0, 0.0)
    shares.wrote(b"one", 8.0, now)
    assert shares.allow(b"one", 1.0, now) == allowed


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
def test_shares_keep_no_more_than_they_may(
    wrote: list[tuple[float, int]], authors_max: int
) -> None:
    shares = Shares(10.0, authors_max)
    for now, author in sorted(wrote):
        shares.wrote(b"%d" % author, 1.0, now)
        shares.allow(b"%d" % (author + 1), 1.0, now)
        assert len(shares._counts) <= authors_max
