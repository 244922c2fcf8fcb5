"""What is said of devices and of the engines that use them."""

import pytest

from aigrid.engines.base import Device, Probe
from aigrid.node.commands.device_report import devices_report, not_found, not_on
from aigrid.node.mesh.pool.budget import budget

HOST = Device("cpu", "cores", 1000, 500)
CARD = Device("cuda", "card", 400, 300)
CHIP = Device("metal", "chip", 1000, 500, unified=True)
OTHER = Device("rocm", "other", 100, 90)
HERE = (HOST, CARD, CHIP, OTHER)


def test_each_device_says_whose_budget_counts_and_what_is_reserved_of_it() -> None:
    told = devices_report(HERE, budget(HERE[:3], {}, share=0.5), {"cpu": 7, "cuda:0": 9})
    assert [(d["device"], d["memory_of"]) for d in told] == [
        ("cpu", "cpu"),
        ("cuda:0", "cuda:0"),
        ("metal:0", "cpu"),
        ("rocm:0", None),
    ]
    assert [d["memory_budget_bytes"] for d in told] == [250, 150, 250, 0]
    assert [d["memory_reserved_bytes"] for d in told] == [7, 9, 7, 0]
    assert [d["memory_free_bytes"] for d in told] == [500, 300, 500, 90]


def test_a_budget_for_what_is_not_here_is_named() -> None:
    assert not_found({"cpu": 1, "cuda:7": 1, "cuda:0": 1}, HERE) == ["cuda:7"]


@pytest.mark.parametrize(
    ("probe", "why"),
    [
        (Probe("a", "1", (), (), (HOST,)), "it computes on the processor only"),
        (Probe("a", "1", (), (), (HOST, CARD)), "the engine does not use it"),
        (Probe("a", "1", (), (), (HOST,), network=True), "its models compute at their servers"),
        (Probe("a", "1", (), (), (HOST,), lacks={"rocm": "install it"}), "install it"),
    ],
)
def test_an_engine_says_why_it_leaves_a_device_alone(probe: Probe, why: str) -> None:
    reasons = {one["device"]: one["why"] for one in not_on(probe, HERE)}
    assert reasons["rocm:0"] == why
    assert "cpu" not in reasons
    assert ("cuda:0" in reasons) == (CARD not in probe.devices)


def test_an_engine_with_a_problem_needs_no_further_reason() -> None:
    assert not_on(Probe("a", "", (), (), (), problem="not installed"), HERE) == []
