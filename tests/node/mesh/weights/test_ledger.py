"""What may be spent on models in a day: in all, unasked, and what one member alone can have."""

from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigrid.metagraph.local import LocalState
from aigrid.metagraph.store import Store
from aigrid.node.mesh.weights.ledger import Budget, Cost, Ledger, Spent
from aigrid.protocol.errors import Code, LocalError, UsageError
from aigrid.protocol.limit import DAY
from aigrid.protocol.limits import LIMITS, MIB

MOST = Budget(1500, Cost(1000, 10))
DAY_MS = DAY * 1000
costs = st.builds(Cost, st.integers(0, 400), st.integers(0, 1))
askers = st.none() | st.sets(st.sampled_from("abc"), max_size=3)


def ledger(local: LocalState, *, most: Budget = MOST, day: int = 5) -> Ledger:
    return Ledger(local, "me", most=most, now_ms=lambda: day * DAY_MS)


@pytest.fixture
def local(tmp_path: Path) -> LocalState:
    return LocalState(Store(tmp_path / "records.db"))


def within(spent: Spent) -> bool:
    share = MOST.unasked.share(LIMITS.placement_one_share)
    unasked = spent.unasked.within(MOST.unasked)
    return (
        spent.fetched <= MOST.fetched
        and unasked
        and all(c.within(share) for c in spent.alone.values())
    )


@given(st.lists(st.tuples(costs, askers, st.integers(0, 600), st.booleans()), max_size=30))
def test_nobody_ever_spends_more_than_there_is(asked):
    """Whatever is reserved, spent beyond that, and given back."""
    book = ledger(LocalState(Store()))
    open_: list[ExitStack] = []
    for cost, who, spends, ends in asked:
        stack = ExitStack()
        try:
            reservation = stack.enter_context(book.reserve(cost, who))
            open_.append(stack)
            reservation.spend(spends)
        except LocalError:
            pass  # `over_budget`
        if ends and open_:
            open_.pop(0).close()
        assert within(book.spent)
    for stack in open_:
        stack.close()
    assert book.report()["reserved_bytes"] == 0


def test_what_is_reserved_is_nobody_elses_and_free_again_when_nothing_came(local: LocalState):
    book = ledger(local)
    with book.reserve(Cost(800), ()) as one:
        assert book.problem(Cost(300), ()) != ""
        assert book.problem(Cost(300), None) == ""
        assert book.problem(Cost(800), None) != ""
        one.spend(100)
        assert book.report()["reserved_bytes"] == book.report()["unasked_reserved_bytes"] == 700
    assert book.spent.fetched == book.spent.unasked.fetched == 100
    assert book.problem(Cost(900), ()) == ""


def test_what_the_operator_fetches_is_not_charged_to_placement(local: LocalState):
    book = ledger(local)
    with book.reserve(Cost(900), None) as one:
        one.spend(900)
    assert book.spent.unasked == Cost()
    assert book.problem(Cost(600), ()) == ""
    assert book.problem(Cost(601), ()) != ""


def test_one_member_has_its_share_and_others_the_rest(local: LocalState):
    book = ledger(local)
    for _ in range(5):
        with book.reserve(Cost(0, 1), {"a"}) as one:
            one.spend_load()
    assert "one member" in book.problem(Cost(0, 1), {"a"})
    assert book.problem(Cost(0, 1), {"a", "b"}) == ""
    assert book.problem(Cost(0, 1), {"b"}) == ""


def test_a_budget_of_one_load_can_be_spent_for_one_member():
    assert Spent().problem(Cost(0, 1), {"a"}, Budget(0, Cost(0, 1))) == ""
    assert Spent().problem(Cost(0, 1), {"a"}, Budget(0, Cost(0, 0))) != ""


def test_any_number_of_members_are_counted_up_to_a_bound():
    spent, most = Spent(), Budget(10**9, Cost(10**9, 10**9))
    for number in range(300):
        if not spent.problem(Cost(0, 1), {str(number)}, most):
            spent = spent.plus(Cost(0, 1), {str(number)})
    assert len(spent.alone) < 300


def test_it_lasts_over_a_restart_and_is_new_the_next_day_but_not_the_day_before(local: LocalState):
    with ledger(local).reserve(Cost(900, 1), {"a", "b"}) as one:
        one.spend(900)
        one.spend_load()
    again = ledger(local)
    assert (again.spent.fetched, again.spent.unasked) == (900, Cost(900, 1))
    assert again.problem(Cost(200), {"a", "b"}) != ""
    assert ledger(local, day=4).problem(Cost(200), {"a", "b"}) != ""
    assert ledger(local, day=6).problem(Cost(200), {"a", "b"}) == ""


def test_what_this_node_itself_waits_for_is_bounded_by_the_whole_alone(local: LocalState):
    book = ledger(local)
    with book.reserve(Cost(900, 9), {"me"}) as one:
        one.spend(900)
    assert book.spent.alone == {}
    assert book.problem(Cost(100, 10), {"me"}) == ""
    assert book.problem(Cost(0, 11), {"me"}) != ""


def test_a_setting_that_is_no_ledger_is_a_new_one(local: LocalState):
    local.set("ledger", "{]")
    assert ledger(local).spent == Spent(5)


def test_a_full_disk_ends_nothing_and_is_caught_up(local: LocalState, monkeypatch):
    book = ledger(local, most=Budget(1000 * MIB, MOST.unasked))

    def full(*_: object) -> None:
        raise UsageError("the disk is full", Code.DATA_DIRECTORY_UNUSABLE)

    with book.reserve(Cost(100 * MIB), None) as one:
        with monkeypatch.context() as patched:
            patched.setattr(local, "set", full)
            one.spend(50 * MIB)
        one.spend(50 * MIB)
    assert ledger(local).spent.fetched == 100 * MIB
