"""A real node that is given hostile models: refused, or run and failed, and the node goes on."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from scripts.nodes import NodeFailedError, NodeProcess, wait_for
from scripts.offers import offers
from tests.engines.gguf_writer import tiny_llama
from tests.engines.gguf_writer import write as write_gguf
from tests.engines.hostile_files import STOLEN, Place, make_place, write
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.process
UNSAFE = [
    *("onnx: data of a hard link", "onnx: the malicious .pt2", "onnx: a bomb"),
    *("gguf: a pickle of protocol 4", "gguf: 2 TB in a tensor", "safetensors: a name twice"),
]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    made = NodeProcess(tmp_path_factory.mktemp("node") / "data")
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return make_place(tmp_path)


def ask(node: NodeProcess, model: str) -> tuple[int, Any]:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}

    def answered() -> tuple[int, Any] | None:
        answer = httpx.post(f"{node.gateway}/v1/chat/completions", json=body, timeout=60)
        said = answer.json()
        # On a busy machine it may be loaded, and fail, for longer than a request waits.
        loading = said.get("error", {}).get("code") == "loading"
        return None if loading else (answer.status_code, said)

    return wait_for(answered, timeout_seconds=PATIENCE_SECONDS, what="more than its loading")


def offered(node: NodeProcess) -> list[str]:
    return [found["name"] for found in offers(node)]


def publish(node: NodeProcess, path: Path, name: str) -> None:
    node.cli("publish", str(path), "--capability", "text-generation", "--name", name)
    wait_for(lambda: name in offered(node), timeout_seconds=PATIENCE_SECONDS, what="the offer")


@pytest.mark.parametrize("name", UNSAFE)
def test_it_is_not_published(node: NodeProcess, place: Place, name: str) -> None:
    with pytest.raises(NodeFailedError) as refused:
        publish(node, write(name, place), "evil")
    assert refused.value.code in ("unsafe_file", "unsupported_model")
    assert not (place.outside / STOLEN).exists()
    assert node.alive
    assert "evil" not in offered(node)


def test_what_fails_while_it_is_loaded_or_runs_fails_alone(node: NodeProcess, place: Place) -> None:
    publish(node, write_gguf(place.models, tiny_llama()), "good")
    assert ask(node, "good")[0] == 200
    for number, (name, code, status) in enumerate(
        [
            ("gguf: a template that writes all memory", "no_candidate", 503),
            ("gguf: a template that reads files", "no_candidate", 503),
        ]
    ):
        publish(node, write(name, place), f"evil-{number}")
        got, body = ask(node, f"evil-{number}")
        assert (got, body["error"]["code"]) == (status, code), (name, body)
        assert ask(node, "good")[0] == 200
    assert node.alive


def test_what_fails_at_its_trial_is_not_published(node: NodeProcess, place: Place) -> None:
    with pytest.raises(NodeFailedError, match="not finite") as refused:
        publish(node, write("gguf: weights that are no numbers", place), "no-numbers")
    assert refused.value.code == "engine_failed"
    assert "no-numbers" not in offered(node)
    assert node.alive


def test_status_says_what_confines_workers(node: NodeProcess) -> None:
    said = wait_for(
        lambda: node.cli("status")["sandbox"],
        timeout_seconds=PATIENCE_SECONDS,
        what="the engines probed",
    )
    lines = (node.data_dir / "node.log").read_text().splitlines()
    loaded = [line for line in map(json.loads, lines) if line["event"] == "model_loaded"]
    assert loaded
    assert all(line["sandbox"].startswith(said) for line in loaded)
