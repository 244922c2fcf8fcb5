"""What placement may spend in a day, and what one member alone can make it spend."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from aigrid.metagraph.local import LocalState
from aigrid.metagraph.store import Store
from aigrid.node.mesh.placement.budget import Cost, PlacementBudget, Spent
from aigrid.protocol.limit import DAY
from aigrid.protocol.limits import LIMITS

MOST = Cost(1000, 10)
DAY_MS = DAY * 1000
costs = st.builds(Cost, st.integers(0, 400), st.integers(0, 1))
askers = st.sets(st.sampled_from("abc"), max_size=3)


@given(st.lists(st.tuples(costs, askers), max_size=40))
def test_nobody_and_no_one_member_ever_spends_more_than_there_is(asked):
    spent = Spent()
    for cost, who in asked:
        if not spent.problem(cost, who, MOST):
            spent = spent.plus(cost, who)
    assert spent.total.within(MOST)
    share = MOST.share(LIMITS.placement_one_share)
    assert all(had.within(share) for had in spent.alone.values())


def test_one_member_has_its_share_and_others_the_rest():
    spent = Spent()
    for _ in range(5):
        assert spent.problem(Cost(0, 1), {"a"}, MOST) == ""
        spent = spent.plus(Cost(0, 1), {"a"})
    assert "one member" in spent.problem(Cost(0, 1), {"a"}, MOST)
    assert spent.problem(Cost(0, 1), {"a", "b"}, MOST) == ""
    assert spent.problem(Cost(0, 1), {"b"}, MOST) == ""


def test_a_budget_of_one_load_can_be_spent_for_one_member():
    assert Spent().problem(Cost(0, 1), {"a"}, Cost(0, 1)) == ""
    assert Spent().problem(Cost(0, 1), {"a"}, Cost(0, 0)) != ""


def test_any_number_of_members_are_counted_up_to_a_bound():
    spent, most = Spent(), Cost(10**9, 10**9)
    for number in range(300):
        if not spent.problem(Cost(0, 1), {str(number)}, most):
            spent = spent.plus(Cost(0, 1), {str(number)})
    assert len(spent.alone) < 300


def test_it_lasts_over_a_restart_and_is_new_the_next_day_but_not_the_day_before(tmp_path: Path):
    local = LocalState(Store(tmp_path / "records.db"))
    budget = PlacementBudget(local, "me", most=MOST)
    budget.spend(Cost(900, 1), {"a", "b"}, 5 * DAY_MS)
    again = PlacementBudget(local, "me", most=MOST)
    assert again.spent(5 * DAY_MS) == Cost(900, 1)
    assert again.problem(Cost(200), {"a", "b"}, 5 * DAY_MS) != ""
    assert again.problem(Cost(200), {"a", "b"}, 4 * DAY_MS) != ""
    assert again.problem(Cost(200), {"a", "b"}, 6 * DAY_MS) == ""


def test_what_this_node_itself_waits_for_is_bounded_by_the_whole_alone(tmp_path: Path):
    budget = PlacementBudget(LocalState(Store(tmp_path / "records.db")), "me", most=MOST)
    budget.spend(Cost(900, 9), {"me"}, 0)
    assert budget.problem(Cost(0, 1), {"me"}, 0) == ""
    assert budget.problem(Cost(0, 2), {"me"}, 0) != ""


def test_a_setting_that_is_no_budget_is_a_new_one(tmp_path: Path):
    local = LocalState(Store(tmp_path / "records.db"))
    local.set("placement", "{]")
    assert PlacementBudget(local, "me", most=MOST).spent(0) == Cost()
