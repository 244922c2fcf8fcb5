"""More typed tasks through another node: text, series, and what transformers computes."""

import base64
import io
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from scripts.nodes import NodeProcess, wait_for
from scripts.offers import offers
from tests.engines import bert_models
from tests.engines.bert_models import CONFIG, TEXT, Reference
from tests.engines.tasks import models
from tests.engines.tasks.test_text import entailing, places
from tests.faults.failing_engines import published
from tests.faults.test_tasks import grid
from tests.patience import PATIENCE_SECONDS

from aigrid.engines.base import ModelSource
from aigrid.protocol.task import ImageInput, TaskMapping, TaskOutput, TextInput

__all__ = ["grid"]  # the fixture: two nodes for all tests here
pytestmark = pytest.mark.process
Grid = tuple[NodeProcess, NodeProcess]


def serve(
    grid: Grid, source: ModelSource, name: str, folder: Path, what: Path | None = None
) -> None:
    published(grid[1], source, name, folder, what)

    def offered() -> bool:
        return any(model["name"] == name for model in offers(grid[0]))

    wait_for(offered, timeout_seconds=PATIENCE_SECONDS, what=f"an offer of {name}")


def ask(grid: Grid, name: str, task: str, given: Any, **parameters: Any) -> Any:
    body = {"model": name, "input": given, "parameters": parameters}
    url = f"{grid[0].gateway}/aigrid/v1/tasks/{task}"
    answer = httpx.post(url, json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-aigrid-node"] == grid[1].peer_id
    return answer.json()["output"]


def test_labels_that_the_request_brings(grid: Grid, tmp_path: Path) -> None:
    source = entailing(tmp_path)
    serve(grid, source, "entailing", tmp_path)
    asked = {"text": "is", "labels": ["bad", "good"]}
    assert ask(grid, "entailing", source.task, asked)[0]["label"] == "good"
    alone = ask(grid, "entailing", source.task, asked, multi_label=True)
    assert alone[0]["score"] == pytest.approx(0.982, abs=1e-3)


def test_places_and_people_in_a_text(grid: Grid, tmp_path: Path) -> None:
    source, text = places(tmp_path), "Ann lives in Newton York"
    serve(grid, source, "places", tmp_path)
    found = ask(grid, "places", source.task, text)
    assert [(e["entity"], text[e["start"] : e["end"]]) for e in found] == [
        ("PER", "Ann"),
        ("LOC", "Newton York"),
    ]


def test_a_jump_in_a_series(grid: Grid, tmp_path: Path) -> None:
    source = models.autoencoder(tmp_path)
    serve(grid, source, "waves", tmp_path)
    series = models.wave(8, seed=1)
    series[90:94] += 1.5
    odd = [n["index"] for n in ask(grid, "waves", source.task, series.tolist()) if n["anomaly"]]
    assert odd
    assert all(90 - 16 < n < 94 for n in odd)


def test_documents_are_ranked_by_reading_each_with_the_query(grid: Grid, tmp_path: Path) -> None:
    config = {
        **CONFIG, "architectures": ["BertForSequenceClassification"], "num_labels": 1,
        "id2label": {"0": "relevant"}, "label2id": {"relevant": 0},
    }  # fmt: skip
    mapping = TaskMapping(text=TEXT, output=TaskOutput())
    made = bert_models.weights(config, 1)
    source = bert_models.save(tmp_path, config, made, task="text-ranking", mapping=mapping)
    serve(grid, source, "ranker", tmp_path, tmp_path)
    documents = ["the dog ran", "a cat", "quick foxs sat on the mat"]
    found = ask(grid, "ranker", source.task, {"query": "the cat", "documents": documents})
    reference = Reference(source)
    expected = [float(reference.classes("the cat", text)[0]) for text in documents]
    assert found == pytest.approx(expected, abs=1e-4)


def test_sentences_are_compared(grid: Grid, tmp_path: Path) -> None:
    source = bert_models.save(tmp_path, CONFIG, bert_models.weights(CONFIG, seed=4))
    serve(grid, source, "alike", tmp_path, tmp_path)
    asked = {"source": "the cat", "sentences": ["the cat", "a quick fox"]}
    found = ask(grid, "alike", "sentence-similarity", asked)
    reference = Reference(source)
    vectors = [reference.vector(text) for text in ("the cat", "a quick fox")]
    assert found == pytest.approx([1.0, float(vectors[0] @ vectors[1])], abs=1e-4)


def test_a_translation_is_that_of_transformers(grid: Grid, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the extra `torch` is not installed")
    from tests.engines.torch_models import byte_level, marian, saved, torch

    model, text = marian(), "The quick brown fox"
    mapping = TaskMapping(text=TextInput(tokenizer="tokenizer.json"))
    source = saved(tmp_path, model, "translation", mapping=mapping, tokenizer=byte_level())
    serve(grid, source, "translator", tmp_path, tmp_path)
    given = torch.tensor([byte_level().encode(text).ids])
    made = model.generate(
        given, attention_mask=torch.ones_like(given), do_sample=False, max_new_tokens=12
    )
    expected = byte_level().decode(made[0].tolist(), skip_special_tokens=True)
    assert ask(grid, "translator", source.task, text, max_tokens=12) == expected


def test_a_picture_through_torch(grid: Grid, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the extra `torch` is not installed")
    from tests.engines.torch_models import saved, torch, transformers

    labels = ("cat", "dog", "fox")
    torch.manual_seed(2)
    config = transformers.ViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40,
        image_size=32, patch_size=8, num_labels=3,
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config).eval()
    mapping = TaskMapping(
        image=ImageInput(width=32, height=32),
        output=TaskOutput(labels=labels, activation="softmax"),
    )
    source = saved(tmp_path, model, "image-classification", mapping=mapping)
    serve(grid, source, "vit", tmp_path, tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    found = ask(grid, "vit", source.task, base64.b64encode(file.getvalue()).decode())
    given = torch.tensor(pixels.transpose(2, 0, 1)[None] / np.float32(255))
    with torch.inference_mode():
        expected = model(given.float()).logits.softmax(-1)[0].tolist()
    scores = {one["label"]: one["score"] for one in found}
    assert [scores[label] for label in labels] == pytest.approx(expected, abs=1e-4)
