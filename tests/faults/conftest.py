"""Grids of real node processes on this machine."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from scripts.nodes import NodeProcess, stop_all, wait_for
from scripts.offers import offers
from tests.engines.gguf_writer import tiny_llama, write
from tests.patience import PATIENCE_SECONDS

MODEL = "tiny"


@dataclass
class ProcessGrid:
    """`authority` founded it, `holder` holds the model, `asker` holds nothing."""

    directory: Path
    nodes: list[NodeProcess] = field(default_factory=list)

    @property
    def authority(self) -> NodeProcess:
        return self.nodes[0]

    @property
    def holder(self) -> NodeProcess:
        return self.nodes[1]

    @property
    def asker(self) -> NodeProcess:
        return self.nodes[2]

    def add(self, name: str, *options: str) -> NodeProcess:
        """A node of its own, not in the grid yet."""
        # A spare worker would come a second after the first load, and be taken for growth.
        environment = {"AIGRID_POOL": "spares = 0"}
        node = NodeProcess(self.directory / name, *options, environment=environment)
        self.nodes.append(node)
        node.start()
        return node

    def join(self, node: NodeProcess) -> None:
        did = node.cli("id")["did"]
        node.cli("join", self.authority.cli("invite", did)["invitation"])
        node.read_ready_file()

    def publish(self, node: NodeProcess) -> dict[str, object]:
        path = write(self.directory, tiny_llama())
        return node.cli("publish", str(path), "--capability", "text-generation", "--name", MODEL)


def offered(node: NodeProcess) -> list[str]:
    """PeerIds that offer the model, as `node` sees it."""
    return [m["node"] for m in offers(node) if m["name"] == MODEL]


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessGrid]:
    made = ProcessGrid(tmp_path_factory.mktemp("grid"))
    try:
        for name in ("authority", "holder", "asker"):
            made.add(name)
        for node in (made.holder, made.asker):
            made.join(node)
        made.publish(made.holder)
        wait_for(
            lambda: offered(made.asker) == [made.holder.peer_id],
            timeout_seconds=PATIENCE_SECONDS,
            what="the offer at the asker",
        )
        yield made
    finally:
        stop_all(made.nodes)
