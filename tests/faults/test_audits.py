"""Answers are checked by a third node: real processes, and an engine in a worker of its own."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from scripts.nodes import NodeProcess, form_grid, stop_all, wait_for
from tests.engines.gguf_writer import tiny_llama, write

pytestmark = pytest.mark.process
TEXT = " ".join(f"word{number}" for number in range(30))


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[NodeProcess]]:
    asker = NodeProcess(tmp_path / "asker", environment={"AIGRID_TRUST": "audit=1"})
    made = [asker, *(NodeProcess(tmp_path / name) for name in ("left", "right"))]
    try:
        form_grid(made)
        yield made
    finally:
        stop_all(made)


def audited(node: NodeProcess) -> dict[str, tuple[int, int, float]]:
    """By PeerId: answers checked, those that were wrong, and the standing."""
    told: list[dict[str, Any]] = node.cli("experience")["experience"]
    return {one["node"]: (one["audited"], one["wrong"], one["standing"]) for one in told}


def checked_by_the_other(nodes: list[NodeProcess], capability: str, body: dict[str, Any]) -> str:
    """The answer to a chat, once one holder has given and the other has checked it."""
    asker, left, right = nodes
    wait_for(
        lambda: len(asker.cli("find", capability)["candidates"]) == 2,
        timeout_seconds=60,
        what="both holders",
    )
    answer = httpx.post(f"{asker.gateway}/v1/chat/completions", json=body, timeout=60)
    both = dict.fromkeys((left.peer_id, right.peer_id), (1, 0, 1.0))
    wait_for(lambda: audited(asker) == both, timeout_seconds=60, what="an audit")
    metrics = httpx.get(f"{asker.gateway}/metrics", timeout=10).text
    assert 'aigrid_audits_total{result="right"} 1.0' in metrics
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text


def test_another_holder_checks_an_answer_after_the_client_has_it(nodes: list[NodeProcess]) -> None:
    for holder in nodes[1:]:
        holder.cli("models", "fetch", "echo")
    body = {"model": "echo", "messages": [{"role": "user", "content": TEXT}]}
    assert checked_by_the_other(nodes, "text-generation", body) == TEXT


def test_another_holder_checks_what_a_model_wrote(nodes: list[NodeProcess], tmp_path: Path) -> None:
    """Drawn at temperature 1, and without a seed of the client's."""
    path = write(tmp_path, tiny_llama())
    for holder in nodes[1:]:
        said = holder.cli("publish", str(path), "--capability", "text-generation")
    body = {"model": said["model"], "messages": [{"role": "user", "content": "the fox"}]}
    written = checked_by_the_other(nodes, "text-generation", body | {"max_tokens": 24})
    assert written
