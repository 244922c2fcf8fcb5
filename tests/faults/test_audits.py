"""Answers are checked by a third node: real processes, and an engine in a worker of its own."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from scripts.nodes import NodeProcess, form_grid, stop_all, wait_for

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


def test_another_holder_checks_an_answer_after_the_client_has_it(nodes: list[NodeProcess]) -> None:
    asker, left, right = nodes
    for holder in (left, right):
        holder.cli("models", "fetch", "echo")
    wait_for(
        lambda: len(asker.cli("find", "text-generation")["candidates"]) == 2,
        timeout_seconds=60,
        what="both holders",
    )
    body = {"model": "echo", "messages": [{"role": "user", "content": TEXT}]}
    answer = httpx.post(f"{asker.gateway}/v1/chat/completions", json=body, timeout=60)
    assert answer.json()["choices"][0]["message"]["content"] == TEXT
    both = dict.fromkeys((left.peer_id, right.peer_id), (1, 0, 1.0))
    wait_for(lambda: audited(asker) == both, timeout_seconds=60, what="an audit")
    metrics = httpx.get(f"{asker.gateway}/metrics", timeout=10).text
    assert 'aigrid_audits_total{result="right"} 1.0' in metrics
