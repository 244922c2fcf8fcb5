"""Which memory a model is charged to, and what is unloaded for it: decisions over data."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigrid.engines.base import Device, Estimate
from aigrid.node.mesh.pool.budget import Budget, Charge, Holding, budget, larger, make_room, taken
from aigrid.protocol.errors import AigridError, Code
from aigrid.protocol.limits import LIMITS

HOST = Device("cpu", "cores", 1000, 500)
CARD = Device("cuda", "card", 400, 300)
SECOND = Device("cuda", "card", 400, 100, index=1)
UNIFIED = Device("metal", "chip", 1000, 500, unified=True)
UNKNOWN = Device("xpu", "other")


def test_every_device_with_memory_of_its_own_has_a_purse() -> None:
    made = budget([HOST, CARD, SECOND, UNIFIED, UNKNOWN], {}, share=0.5)
    assert made.purses == {"cpu": 250, "cuda:0": 150, "cuda:1": 50}
    assert made.shared == {"metal:0", "xpu:0"}
    assert made.room() == {"cpu": 250, "cuda:0": 150, "cuda:1": 50, "metal:0": 250, "xpu:0": 250}


def test_what_is_configured_counts_whatever_is_free() -> None:
    configured = {"cpu": 7, "cuda:0": 0, "xpu:0": 9, "cuda:5": 3}
    made = budget([HOST, CARD, UNIFIED, UNKNOWN], configured, share=0.5)
    assert made.purses == configured
    assert made.shared == {"metal:0"}


@pytest.mark.parametrize(
    ("estimate", "charge"),
    [
        (Estimate(10), {"cpu": 10}),
        (Estimate(0), {}),
        (Estimate(10, host_bytes=5), {"cpu": 10}),
        (Estimate(10, device="cuda:0", host_bytes=5), {"cuda:0": 10, "cpu": 5}),
        (Estimate(10, device="cuda:0"), {"cuda:0": 10}),
        # In the machine's own memory both count there; so does what nobody has heard of.
        (Estimate(10, device="metal:0", host_bytes=5), {"cpu": 15}),
        (Estimate(10, device="tpu:3", host_bytes=5), {"cpu": 15}),
    ],
)
def test_a_model_is_charged_where_its_memory_is(estimate: Estimate, charge: Charge) -> None:
    made = Budget({"cpu": 100, "cuda:0": 100}, frozenset({"metal:0"}))
    assert made.charge(estimate) == charge


def test_what_could_never_fit_is_said_with_the_device() -> None:
    purses = {"cpu": 100 << 20, "cuda:0": 50 << 20}
    for needed, said in (
        ({"cpu": 101 << 20}, "needs 101 MiB, this node has 100"),
        ({"cuda:0": 51 << 20, "cpu": 1}, "needs 51 MiB of cuda:0, this node has 50"),
        ({"rocm:0": 1 << 20}, "of rocm:0, this node has 0"),
    ):
        with pytest.raises(AigridError, match=said) as never:
            make_room(needed, [Holding(purses, 0.0)], purses, LIMITS)
        assert never.value.code is Code.OUT_OF_MEMORY


def test_one_that_is_enough_saves_those_that_were_idle_longer() -> None:
    holdings = [Holding({"cpu": 10}, 1.0), Holding({"cpu": 90}, 2.0)]
    assert make_room({"cpu": 50}, holdings, {"cpu": 100}, LIMITS) == [1]
    assert make_room({"cpu": 5}, holdings, {"cpu": 105}, LIMITS) == []
    assert make_room({"cpu": 10}, holdings, {"cpu": 100}, LIMITS) == [0]


def test_one_that_frees_two_devices_may_be_enough_for_both() -> None:
    holdings = [Holding({"a": 50}, 1.0), Holding({"b": 50}, 2.0), Holding({"a": 50, "b": 50}, 3.0)]
    assert make_room({"a": 50, "b": 50}, holdings, {"a": 100, "b": 100}, LIMITS) == [0, 1]
    assert make_room({"a": 60, "b": 50}, holdings, {"a": 100, "b": 100}, LIMITS) != [0, 1]


PLACES = st.sampled_from(["cpu", "cuda:0", "cuda:1"])
CHARGES = st.dictionaries(PLACES, st.integers(1, 60), max_size=3)
HOLDINGS = st.lists(st.builds(Holding, CHARGES, st.one_of(st.none(), st.floats(0, 9))), max_size=8)


@given(CHARGES, HOLDINGS, st.dictionaries(PLACES, st.integers(0, 160), min_size=3))
def test_no_device_is_overdrawn_nothing_in_use_is_touched_nothing_is_evicted_in_vain(
    needed: Charge, holdings: list[Holding], purses: Charge
) -> None:
    idle = {n for n, holding in enumerate(holdings) if holding.idle_since is not None}

    def fits(without: set[int]) -> bool:
        kept = taken(h.charge for n, h in enumerate(holdings) if n not in without)
        return all(size + kept.get(p, 0) <= purses[p] for p, size in needed.items())

    try:
        victims = set(make_room(needed, holdings, purses, LIMITS))
    except AigridError as error:
        never = any(size > purses[p] for p, size in needed.items())
        assert error.code is (Code.OUT_OF_MEMORY if never else Code.BUSY)  # noqa: PT017
        assert never or not fits(idle)
        return
    assert victims <= idle
    assert fits(victims)
    assert all(not fits(victims - {one}) for one in victims)


@given(CHARGES, CHARGES)
def test_the_larger_of_two_charges_covers_both(one: Charge, other: Charge) -> None:
    both = larger(one, other)
    assert all(both[p] >= size for charge in (one, other) for p, size in charge.items())
    assert sum(both.values()) <= sum(taken([one, other]).values())
