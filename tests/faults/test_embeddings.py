"""Vectors over a grid: one node fetches the starter model, another answers with it."""

import json
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from scripts.nodes import wait_for
from scripts.offers import offers
from tests.faults.conftest import ProcessGrid
from tests.patience import PATIENCE_SECONDS

pytestmark = [pytest.mark.process, pytest.mark.model]
MODEL = "minilm"
TEXTS = [
    "How do I reset my password?",
    "I forgot my login credentials, how can I recover access?",
    "The quick brown fox jumps over the lazy dog near the river bank.",
]


ASKED: Any = {"model": MODEL, "input": TEXTS}


def known(grid: ProcessGrid) -> bool:
    """Whether the node that has no such model knows who does."""
    return any(model["name"] == MODEL for model in offers(grid.asker))


@pytest.fixture(scope="module")
def asker(grid: ProcessGrid) -> str:
    """The gateway of a node that has no such model, once it knows who does."""
    grid.holder.cli("models", "fetch", MODEL, timeout_seconds=600)
    wait_for(lambda: known(grid), timeout_seconds=PATIENCE_SECONDS, what="the offer of the model")
    return grid.asker.gateway


def test_the_unmodified_sdk_gets_vectors_from_the_other_node(asker, grid):
    client = openai.OpenAI(base_url=f"{asker}/v1", api_key="none", max_retries=0)
    answer = client.embeddings.create(**ASKED)
    vectors = np.array([item.embedding for item in answer.data])
    assert vectors.shape == (3, 384)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    alike, unlike = vectors[1:] @ vectors[0]
    assert alike == pytest.approx(0.6717, abs=1e-3)
    assert unlike == pytest.approx(-0.0045, abs=1e-3)
    assert answer.usage.prompt_tokens == sum((9, 15, 16))
    assert answer.model_extra
    (segment,) = answer.model_extra["aigrid"]["segments"]
    assert segment["node"] == grid.holder.peer_id


def test_the_engine_beneath_is_swapped_and_the_client_sees_the_same(asker, grid):
    pytest.importorskip("torch", reason="the extra `torch` is not installed")
    pytest.importorskip("transformers", reason="the extra `torch` is not installed")

    def ask():
        client = openai.OpenAI(base_url=f"{asker}/v1", api_key="none", max_retries=0)
        return np.array([one.embedding for one in client.embeddings.create(**ASKED).data])

    def engines():
        log = (grid.holder.data_dir / "node.log").read_text().splitlines()
        loaded = [json.loads(line) for line in log if '"model_loaded"' in line]
        return [line["engine"] for line in loaded]

    before = ask()
    assert engines()[-1] == "onnx_encoder"
    options = grid.holder.options
    grid.holder.options = (*options, "--engine", "torch")
    try:
        grid.holder.restart()
        wait_for(lambda: known(grid), timeout_seconds=PATIENCE_SECONDS, what="the offer to be back")
        after = ask()
        assert engines()[-1] == "torch"
    finally:
        grid.holder.options = options
        grid.holder.restart()
        wait_for(lambda: known(grid), timeout_seconds=PATIENCE_SECONDS, what="the offer to be back")
    assert np.allclose(before, after, atol=1e-5)


def test_the_same_model_compares_and_ranks(asker):
    def ask(task, given):
        answer = httpx.post(
            f"{asker}/aigrid/v1/tasks/{task}", json={"model": MODEL, "input": given}, timeout=60
        )
        assert answer.status_code == 200, answer.text
        return answer.json()["output"]

    alike, unlike = ask("sentence-similarity", {"source": TEXTS[0], "sentences": TEXTS[1:]})
    assert alike > 0.6 > unlike
    scores = ask("text-ranking", {"query": TEXTS[0], "documents": TEXTS[1:]})
    assert scores == pytest.approx([alike, unlike], abs=1e-4)
