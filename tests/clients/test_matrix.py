"""Unmodified clients against a real node that holds nothing: what they ask, another node answers.

`docs/clients.md` shows the matrix, and how each client is told of the gateway.
"""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from scripts.nodes import NodeProcess, stop_all, wait_for
from scripts.offers import offers
from tests.clients.client import COLUMNS, ECHO, LINEAR, NOTHING, ROWS, SLOW, TEXT, VECTORS, Client
from tests.clients.text_clients import LangChain, LiteLlm, Llm, Ollama, OpenAi
from tests.clients.triton_client import Triton
from tests.engines.onnx_models import linear, save
from tests.engines.tasks.text_models import lookup, plain_words
from tests.engines.upstream.servers import Server, running
from tests.faults.failing_engines import published
from tests.patience import PATIENCE_SECONDS

from aigrid.protocol.task import TaskOutput

CLIENTS: tuple[type[Client], ...] = (OpenAi, Triton, Ollama, LangChain, LiteLlm, Llm)
MODELS = {ECHO, VECTORS, LINEAR, SLOW}
CANCEL_SECONDS = 10
MATRIX = Path(__file__).parents[2] / "docs" / "clients.md"


@dataclass(frozen=True)
class World:
    """A node that is asked, one that holds the models, and a server behind that."""

    asked: NodeProcess
    holder: NodeProcess
    server: Server


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("clients")
    asked, holder = nodes = [NodeProcess(folder / name) for name in ("asked", "holder")]
    try:
        with running() as server:
            for node in nodes:
                node.start()
            holder.cli("join", asked.cli("invite", holder.ready["did"])["invitation"])
            holder.cli("models", "fetch", ECHO)
            words = plain_words(*ROWS)
            task, output = "feature-extraction", TaskOutput()
            made = lookup(folder, words, ROWS, task=task, output=output, pooled=True)
            published(holder, made, VECTORS, folder)
            path = save(folder / "linear.onnx", linear())
            tensors = ("--capability", "reinforcement-learning", "--name", LINEAR)
            holder.cli("publish", str(path), *tensors)
            holder.cli("publish", f"openai+{server.root}/v1", "--upstream-model", SLOW)
            wait_for(
                lambda: {one["name"] for one in offers(asked)} >= MODELS,
                timeout_seconds=PATIENCE_SECONDS,
                what="all offers",
            )
            yield World(asked, holder, server)
    finally:
        stop_all(nodes)


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The clients fetch nothing and report to nobody."""
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    monkeypatch.setenv("LANGSMITH_TRACING", "false")
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))


def connected(kind: type[Client], world: World, folder: Path) -> Client:
    return kind(world.asked.gateway, world.holder.gateway, world.holder.peer_id, folder)


@pytest.mark.process
@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("kind", CLIENTS, ids=lambda kind: kind.name)
def test_an_unmodified_client(
    kind: type[Client], column: str, world: World, tmp_path: Path
) -> None:
    if column in kind.absent:
        method = {"list": "listed"}.get(column, column)
        assert getattr(kind, method) is getattr(Client, method)
        return
    client = connected(kind, world, tmp_path)
    match column:
        case "list":
            assert client.listed() >= MODELS
        case "plain":
            assert client.plain() in (TEXT, None)
        case "stream":
            assert "".join(client.stream()) == TEXT  # `cancel` shows that pieces come in time
        case "embeddings":
            found = np.asarray(client.embeddings(["the", "the grid"]))
            expected = np.asarray([ROWS["the"], ROWS["grid"]]).cumsum(axis=0)
            assert np.allclose(found, expected)
        case "error":
            with pytest.raises(client.refused, match=NOTHING):
                client.error()
        case "cancel":
            world.server.mode, world.server.client_left = "talks slowly", threading.Event()
            try:
                assert client.cancel().startswith("again")
                assert world.server.client_left.wait(CANCEL_SECONDS)
            finally:
                world.server.mode = "good"


def test_the_matrix_is_the_one_of_the_docs() -> None:
    rows = [("client", *COLUMNS), ("---",) * (1 + len(COLUMNS))]
    rows += [
        (f"`{kind.name}`", *(kind.absent.get(column, "yes") for column in COLUMNS))
        for kind in CLIENTS
    ]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    print(table)
    assert table in MATRIX.read_text()
