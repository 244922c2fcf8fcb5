"""Real nodes: the authority's machine is gone, a delegate removes a member, and restarts."""

from collections.abc import Iterator
from functools import partial

import pytest
from scripts.nodes import NodeFailedError, NodeProcess, form_grid, stop_all, wait_for
from scripts.offers import told
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.process


@pytest.fixture
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[NodeProcess]]:
    directory = tmp_path_factory.mktemp("delegates")
    made = [NodeProcess(directory / name) for name in ("authority", "delegate", "other", "gone")]
    try:
        form_grid(made)
        yield made
    finally:
        stop_all(made)


def alive(node: NodeProcess) -> set[str]:
    return {peer["peer_id"] for peer in told(node, "peers")["peers"] if peer["alive"]}


def is_cut_off(gone: NodeProcess, node: NodeProcess) -> bool:
    return gone.peer_id not in {peer["peer_id"] for peer in told(node, "peers")["peers"]}


def test_a_delegate_removes_a_member_without_the_authority(nodes: list[NodeProcess]) -> None:
    authority, delegate, other, gone = nodes
    did = gone.cli("id")["did"]
    authority.cli("grid", "delegates", delegate.cli("id")["did"])
    wait_for(
        lambda: told(other, "delegates")["delegates"][:1],
        timeout_seconds=PATIENCE_SECONDS,
        what="the delegation at another node",
    )
    wait_for(
        lambda: told(other, "delegates")["delegates"][0]["heard"],
        timeout_seconds=PATIENCE_SECONDS,
        what="the delegate's first list",
    )
    wait_for(
        lambda: gone.peer_id in alive(other) & alive(delegate),
        timeout_seconds=PATIENCE_SECONDS,
        what="connections to the member, which nobody else can bring about",
    )
    authority.kill9()
    with pytest.raises(NodeFailedError) as caught:
        other.cli("remove", did)
    assert caught.value.code == "not_authority"
    assert delegate.cli("remove", did) == {"did": did, "state": "removed"}
    for node in (delegate, other):
        wait_for(
            partial(is_cut_off, gone, node),
            timeout_seconds=PATIENCE_SECONDS,
            what="the member to be cut off",
        )
    other.kill9()
    other.start()
    assert is_cut_off(gone, other)
    authority.start()  # it hears of it, and takes the membership back itself
    wait_for(
        partial(is_cut_off, gone, authority),
        timeout_seconds=PATIENCE_SECONDS,
        what="the authority to hear of it",
    )
    assert authority.cli("status")["revocations"]["delegates"] == 1
