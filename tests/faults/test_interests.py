"""Interests on real parts: node processes over libp2p that replicate different branches."""

from collections.abc import Callable, Iterator

import pytest
from scripts.nodes import NodeProcess, stop_all, wait_for
from scripts.offers import told
from tests.faults.conftest import ProcessGrid, offered
from tests.patience import PATIENCE_SECONDS

from aigrid.metagraph.branches import BRANCHES

pytestmark = pytest.mark.process


@pytest.fixture
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessGrid]:
    """The authority replicates everything, the others what they are named after."""
    made = ProcessGrid(tmp_path_factory.mktemp("mixed"))
    try:
        made.add("authority")
        for name in ("none", "text-generation", "vision"):
            made.join(made.add(name, "--interest", name))
        yield made
    finally:
        stop_all(made.nodes)


def interests(node: NodeProcess) -> list[str]:
    return list(told(node, "status")["interests"])


def peers(node: NodeProcess) -> set[str]:
    return {peer["did"] for peer in told(node, "peers")["peers"]}


def until(node: NodeProcess, knows: Callable[[NodeProcess], bool]) -> None:
    wait_for(
        lambda: knows(node), timeout_seconds=PATIENCE_SECONDS, what=f"news at {node.data_dir.name}"
    )


def test_an_offer_reaches_who_replicates_its_branch_and_a_member_everybody(
    mixed: ProcessGrid,
) -> None:
    authority, nothing, text, vision = mixed.nodes
    assert interests(authority) == sorted(BRANCHES)
    assert [interests(node) for node in (nothing, text, vision)] == [[], ["text"], ["vision"]]
    mixed.publish(nothing)
    assert interests(nothing) == ["text"]  # what it serves it replicates
    for node in (authority, text):
        until(node, lambda at: offered(at) == [nothing.peer_id])
    late = mixed.add("late", "--interest", "audio")
    mixed.join(late)
    did = late.cli("id")["did"]
    for node in (nothing, text, vision):
        until(node, lambda at: did in peers(at))
    assert offered(vision) == []
    nothing.stop()
    for node in (authority, text):
        until(node, lambda at: offered(at) == [])
