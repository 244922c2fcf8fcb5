"""Who is asked for which chunks, and what goes when there is no room: decisions over data."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aigrid.node.mesh.placement.decisions import Host, ranking
from aigrid.node.mesh.weights.plan import Cached, WorkQueue, keepers, to_evict
from aigrid.protocol.limits import LIMITS, MIB

HOLDERS = ("one", "two", "three")


class Working(RuleBasedStateMachine):
    """Holders take runs, bring chunks in order, and leave at any moment."""

    def __init__(self):
        super().__init__()
        rng = random.Random(5)
        self.have = [bytearray(rng.choices((0, 1), k=count)) for count in (40, 0, 7)]
        self.missing = {
            (file, number)
            for file, chunks in enumerate(self.have)
            for number, here in enumerate(chunks)
            if not here
        }
        self.queue = WorkQueue(self.have, [MIB] * 3)
        self.asked = []

    @rule(holder=st.sampled_from(HOLDERS), workers=st.integers(1, 6))
    def take(self, holder, workers):
        asked = self.queue.take(holder, workers=workers)
        if asked is None:
            return
        assert 1 <= asked.run.count <= LIMITS.chunks_asked_max
        wanted = {(asked.run.file, number) for number in asked.run.numbers}
        assert wanted & self.missing, "nobody is asked for what is here"
        for other in self.asked:
            doubled = {(other.run.file, n) for n in other.run.numbers} & wanted & self.missing
            assert not doubled or other.holder != holder, "not twice of one holder"
        self.asked.append(asked)

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def bring(self, data):
        asked = data.draw(st.sampled_from(self.asked))
        for number in asked.run.numbers:
            if (asked.run.file, number) in self.missing:
                self.queue.got(asked.run.file, number)
                self.missing.discard((asked.run.file, number))
                return

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def leave(self, data):
        asked = data.draw(st.sampled_from(self.asked))
        self.asked.remove(asked)
        self.queue.leave(asked)

    @invariant()
    def it_knows_what_is_missing(self):
        assert self.queue.missing == len(self.missing)
        over = {id(one) for one in self.queue.over()}
        for asked in self.asked:
            owed = {(asked.run.file, number) for number in asked.run.numbers} & self.missing
            assert (id(asked) in over) == (not owed)

    @invariant()
    def nobody_is_asked_three_times(self):
        asked = [(a.run.file, n) for a in self.asked for n in a.run.numbers]
        assert all(asked.count(one) <= 2 for one in self.missing)

    def teardown(self):
        """Whatever happened, whoever is left brings all that is missing."""
        for asked in self.asked:
            self.queue.leave(asked)
        for _ in range(1000):
            asked = self.queue.take("last", workers=1)
            if asked is None:
                break
            for number in asked.run.numbers:
                self.queue.got(asked.run.file, number)
            self.queue.leave(asked)
        assert self.queue.missing == 0
        assert all(all(chunks) for chunks in self.have)


TestWorking = Working.TestCase


def test_runs_become_shorter_towards_the_end():
    queue = WorkQueue([bytearray(100)], [MIB])
    counts = []
    while (asked := queue.take("one", workers=2)) is not None:
        counts.append(asked.run.count)
        for number in asked.run.numbers:
            queue.got(0, number)
        queue.leave(asked)
    assert counts == sorted(counts, reverse=True)
    assert (counts[0], counts[-1]) == (25, 1)


def test_a_large_chunk_is_asked_for_alone():
    queue = WorkQueue([bytearray(100)], [LIMITS.chunk_max_bytes])
    asked = queue.take("one", workers=1)
    assert asked is not None
    assert asked.run.count == LIMITS.fetch_run_bytes // LIMITS.chunk_max_bytes


def test_whoever_is_idle_takes_half_of_what_another_owes_once():
    queue = WorkQueue([bytearray(8)], [MIB])
    slow = queue.take("slow", workers=0)
    assert slow is not None
    while (more := queue.take("slow", workers=1)) is not None:
        slow = more if more.run.count > slow.run.count else slow
    quick = queue.take("quick", workers=1)
    assert quick is not None
    assert set(quick.run.numbers) <= set(slow.run.numbers)
    queue.got(0, quick.run.first)
    assert quick in queue.over() or quick.run.count > 1


# --- the cache

DIDS = st.sampled_from([f"did:{n}" for n in range(6)])
CACHED = st.lists(
    st.builds(
        Cached,
        st.uuids().map(str),
        st.integers(0, 100),
        st.integers(0, 5),
        st.booleans(),
    ),
    max_size=8,
)


@given(CACHED, st.integers(0, 200), st.integers(0, 300), st.integers(-50, 150))
def test_what_goes_is_enough_and_no_more_and_never_what_is_kept(cached, needed, limit, short):
    chosen = to_evict(cached, needed_bytes=needed, budget_bytes=limit, short_bytes=short)
    # A disk that lacks so much is as if the budget were that much smaller than what is held.
    budget = min(limit, sum(one.bytes for one in cached) + needed - short)
    by_name = {one.model: one for one in cached}
    held = sum(one.bytes for one in cached)
    movable = sum(one.bytes for one in cached if not one.kept)
    if chosen is None:
        assert held - movable + needed > budget
        return
    gone = [by_name[model] for model in chosen]
    assert not any(one.kept for one in gone)
    left = held - sum(one.bytes for one in gone)
    assert left + needed <= budget
    assert [one.used_ms for one in gone] == sorted(one.used_ms for one in gone)
    assert not gone or left + gone[-1].bytes + needed > budget, "the last one had to go"
    stays = [one for one in cached if not one.kept and one.bytes and one.model not in chosen]
    assert all(one.used_ms >= gone[-1].used_ms for one in stays if gone)


@given(st.frozensets(DIDS, min_size=1), DIDS, st.integers(0, 4))
def test_not_all_holders_let_a_model_go_at_once(holders, issuer, replicas_min):
    kept = keepers("model", holders, issuer=issuer, replicas_min=replicas_min)
    assert kept <= holders
    assert len(kept) == min(len(holders), max(1, replicas_min))
    assert issuer not in holders or issuer in kept


@pytest.mark.parametrize("replicas_min", [0, 1])
def test_the_last_holder_keeps_it_whatever_is_configured(replicas_min):
    assert keepers("model", ["me"], issuer="you", replicas_min=replicas_min) == {"me"}


@given(st.frozensets(DIDS, min_size=1), st.integers(1, 4))
def test_those_keep_it_who_come_first_when_it_is_placed(holders, replicas_min):
    kept = keepers("model", holders, issuer="", replicas_min=replicas_min)
    assert kept == set(ranking("model", map(Host, holders))[:replicas_min])
