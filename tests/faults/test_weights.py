"""Models that flow between real nodes: the publisher goes offline, and a fetcher is killed."""

from collections.abc import Iterator

import pytest
from scripts.heavy_model import heavy_model
from scripts.nodes import NodeFailedError, NodeProcess, form_grid, stop_all, stream_chat, wait_for
from scripts.offers import told
from tests.patience import PATIENCE_SECONDS

from aigrid.node.control_client import SOCKET_FILE, ControlClient
from aigrid.protocol.errors import AigridError

pytestmark = pytest.mark.process
NAME = "heavy"
SIZE = 8_000_000
SLOW = {"AIGRID_WEIGHTS": "upload_bytes_per_second=3MB"}


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[NodeProcess]]:
    """A server that founded the grid, a laptop, and a third one; none of them gives quickly."""
    folder = tmp_path_factory.mktemp("weights")
    made = [NodeProcess(folder / name, environment=SLOW) for name in ("server", "laptop", "third")]
    try:
        form_grid(made)
        yield made
    finally:
        stop_all(made)


def seeds(node: NodeProcess) -> int:
    """How many nodes give the model, as one of them sees it."""
    found = [m["seeds"] for m in told(node, "models")["models"] if m["name"] == NAME]
    return len(found[0]) if found else 0


def test_a_laptop_publishes_and_goes_offline_and_a_killed_fetcher_resumes(
    nodes: list[NodeProcess],
) -> None:
    server, laptop, third = nodes
    path = heavy_model(laptop.data_dir.parent, SIZE)
    published = laptop.cli("publish", str(path), "--name", NAME)
    wait_for(lambda: seeds(server) == 1, timeout_seconds=PATIENCE_SECONDS, what="the laptop's seed")
    body = server.cli("models", "fetch", NAME)
    found = {"model": published["model"], "name": NAME, "record": published["record"]}
    assert body == found | {"others": [], "problem": ""}
    laptop.stop()
    wait_for(
        lambda: seeds(third) == 1, timeout_seconds=PATIENCE_SECONDS, what="the laptop to be gone"
    )

    control = ControlClient(third.data_dir / SOCKET_FILE)

    def halfway(event: dict[str, str]) -> None:
        if "fetching: 5" in event["progress"] or "fetching: 6" in event["progress"]:
            third.kill9()

    with pytest.raises(AigridError):
        control.call("models_fetch", {"name": NAME}, halfway)
    assert not third.alive
    third.start()
    wait_for(lambda: seeds(third) == 1, timeout_seconds=PATIENCE_SECONDS, what="the server's seed")
    third.cli("models", "fetch", NAME)
    weights = third.cli("status")["weights"]
    assert SIZE * 0.2 < weights["received_bytes"] < SIZE * 0.75, (
        "what was verified is not sent again"
    )

    chat = {"model": NAME, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
    answered = stream_chat(third.gateway, chat)
    assert (answered.served_by, answered.tokens > 0) == (third.peer_id, True)
    assert weights["fetched_models"] == 1
    third.cli("models", "drop", NAME)
    with pytest.raises(NodeFailedError) as caught:
        third.cli("models", "drop", NAME)
    assert caught.value.code == "model_not_found"
