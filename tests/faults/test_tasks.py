"""Typed tasks for real: models trained here or brought by name, asked through another node."""

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
import soundfile
from PIL import Image
from scripts.nodes import NodeFailedError, NodeProcess, stop_all, wait_for
from tests.engines.tasks import models
from tests.engines.tasks.models import IRIS, KINDS
from tests.patience import PATIENCE_SECONDS

from aigrid.engines.base import ModelSource

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[NodeProcess, NodeProcess]]:
    """The node that is asked, and the one that holds the models."""
    folder = tmp_path_factory.mktemp("tasks")
    asked, holder = nodes = [NodeProcess(folder / name) for name in ("asked", "holder")]
    try:
        for node in nodes:
            node.start()
        holder.cli("join", asked.cli("invite", holder.ready["did"])["invitation"])
        yield asked, holder
    finally:
        stop_all(nodes)


def publish(holder: NodeProcess, source: ModelSource, folder: Path) -> str:
    mapping = folder / "mapping.json"
    mapping.write_bytes(msgspec.json.encode(source.mapping))
    given = (
        str(folder / "model.onnx"),
        "--capability",
        source.task,
        "--task-mapping",
        str(mapping),
    )
    return str(holder.cli("publish", *given, "--name", source.task)["model"])


def ask(grid: tuple[NodeProcess, NodeProcess], task: str, given: Any, **parameters: Any) -> Any:
    """The output of a task whose model the asked node does not hold."""
    asked, holder = grid

    def offered() -> bool | None:
        return bool(asked.cli("find", task)["candidates"]) or None

    wait_for(offered, timeout_seconds=PATIENCE_SECONDS, what=f"an offer of {task}")
    url = f"{asked.gateway}/aigrid/v1/tasks/{task}"
    answer = httpx.post(url, json={"input": given, "parameters": parameters}, timeout=60)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-aigrid-node"] == holder.peer_id
    return answer.json()["output"]


def rows(x: np.ndarray, names: tuple[str, ...] = IRIS) -> list[dict[str, float]]:
    return [dict(zip(names, map(float, row), strict=True)) for row in x]


def fetched(grid: tuple[NodeProcess, NodeProcess], name: str) -> None:
    try:
        grid[1].cli("models", "fetch", name, timeout_seconds=300)
    except NodeFailedError as error:
        if error.code == "unreachable":
            pytest.skip(f"{name} cannot be fetched: {error}")
        raise


def test_classes_numbers_and_outliers_of_tables(grid, tmp_path):
    x, _ = models.iris()
    made: dict[str, Any] = {}
    for make in (models.classifier, models.regressor, models.anomalies):
        folder = tmp_path / make.__name__
        folder.mkdir()
        source, made[make.__name__] = make(folder)
        publish(grid[1], source, folder)
    classes = ask(grid, "tabular-classification", rows(x[::30]))
    expected = made["classifier"].predict(x[::30])
    assert [one["label"] for one in classes] == [KINDS[n] for n in expected]
    numbers = ask(grid, "tabular-regression", rows(x[::30, :3], IRIS[:3]))
    assert np.allclose(numbers, made["regressor"].predict(x[::30, :3]), atol=1e-4)
    odd = ask(grid, "anomaly-detection", rows(np.array([[40, 1, 40, 1]], np.float32)))
    assert odd[0]["anomaly"]


def test_a_dataset_tells_how_good_a_model_is_and_both_nodes_know(grid, tmp_path):
    asked, holder = grid
    x, y = models.iris()
    folder = tmp_path / "model"
    folder.mkdir()
    source, made = models.classifier(folder)
    publish(holder, source, folder)
    ask(grid, source.task, rows(x[:1]))
    dataset = tmp_path / "items.jsonl"
    pairs = zip(x[::3], y[::3], strict=True)
    items = ({"input": rows(one[None]), "expected": [KINDS[kind]]} for one, kind in pairs)
    dataset.write_text("".join(json.dumps(item) + "\n" for item in items))
    found = asked.cli("evaluate", source.task, "--dataset", str(dataset))
    (one,) = found["models"]
    expected = float(np.mean(made.predict(x[::3]) == y[::3]))
    assert one["value"] == pytest.approx(expected, abs=1e-6)
    assert one["low"] < one["value"] <= one["high"]
    assert (one["node"], one["unanswered"]) == (holder.peer_id, 0)

    def known() -> Any:
        return holder.cli("evaluations", source.task)["evaluations"]

    (said,) = wait_for(known, timeout_seconds=30, what="the evaluation")
    assert (said["record"], said["issuer"]) == (one["record"], asked.ready["did"])


def test_what_a_picture_shows(grid, tmp_path):
    source, pictures, shown = models.digits(tmp_path)
    publish(grid[1], source, tmp_path)
    right = 0
    for picture, digit in zip(pictures[:10], shown, strict=False):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "PNG")
        answer = ask(grid, source.task, base64.b64encode(file.getvalue()).decode())
        assert len(answer) == 3
        right += answer[0]["label"] == str(digit)
    assert right >= 9


def test_what_a_text_says(grid, tmp_path):
    source = models.sentiment(tmp_path)
    publish(grid[1], source, tmp_path)
    assert ask(grid, source.task, "the film was lovely and very fine")[0]["label"] == "kind"
    assert ask(grid, source.task, "dull and broken", top_k=1)[0]["label"] == "unkind"


def test_what_kind_of_file_it_is(grid):
    fetched(grid, "magika")
    code = Path(__file__).read_bytes()
    answer = ask(grid, "file-type-detection", base64.b64encode(code).decode(), top_k=1)
    assert [one["label"] for one in answer] == ["python"]


def test_where_somebody_speaks(grid):
    fetched(grid, "silero-vad")
    file = io.BytesIO()
    soundfile.write(file, speech_between_silences(), 16_000, format="WAV")
    (span,) = ask(grid, "voice-activity-detection", base64.b64encode(file.getvalue()).decode())
    assert 0.8 <= span["start"] <= 1.3
    assert 2.3 <= span["end"] <= 3.3


def speech_between_silences() -> np.ndarray:
    """A second of silence, two of a synthetic vowel at 120 Hz with syllables, and one of silence."""
    t = np.arange(32_000) / 16_000
    voice = np.zeros_like(t)
    for k in range(1, 40):
        formants = ((700, 1.0), (1220, 0.6), (2600, 0.3))
        loud = sum(np.exp(-(((120 * k - at) / 120) ** 2)) * gain for at, gain in formants)
        pitch = 120 * k * (1 + 0.03 * np.sin(2 * np.pi * 5 * t))
        voice += loud * np.sin(2 * np.pi * np.cumsum(pitch) / 16_000)
    voice *= (0.5 + 0.5 * np.sin(2 * np.pi * 3 * t)) / (2 * abs(voice).max())
    silence = np.zeros(16_000)
    return np.concatenate([silence, voice, silence])


def test_input_that_does_not_fit_is_refused_with_what_fits(grid, tmp_path):
    source, _ = models.classifier(tmp_path)
    publish(grid[1], source, tmp_path)
    url = f"{grid[0].gateway}/aigrid/v1/tasks/{source.task}"
    ask(grid, source.task, rows(models.iris()[0][:1]))
    for body, says in (
        ({"input": [{"x": 1}]}, "does not know"),
        ({"input": 3}, "array of objects"),
        ({"output": 3}, "input"),
    ):
        answer = httpx.post(url, content=json.dumps(body), headers=JSON, timeout=60)
        assert answer.status_code == 400
        assert says in answer.json()["error"]["message"]


JSON = {"content-type": "application/json"}


def test_a_node_tells_which_engines_can_run_here_and_why_others_cannot(grid):
    told = grid[1].cli("engines")
    engines = {engine["engine"]: engine for engine in told["engines"]}
    assert engines["onnx"]["formats"] == ["onnx"]
    assert engines["onnx"]["devices"][0]["memory_total_bytes"] > 0
    host = told["devices"][0]
    assert (host["device"], host["memory_of"]) == ("cpu", "cpu")
    assert 0 <= host["memory_reserved_bytes"] <= host["memory_budget_bytes"]
    assert 0 < host["memory_free_bytes"] < host["memory_total_bytes"]
    assert {"echo", "onnx_encoder", "onnx_text", "torch", "openai_api"} <= engines.keys()
    assert all(engine["problem"] or engine["formats"] for engine in told["engines"])
