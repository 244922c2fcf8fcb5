"""Outcomes asked for by name alone: three real nodes, and the one that is asked holds no model."""

import base64
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from PIL import Image
from scripts.nodes import NodeProcess, form_grid, stop_all, wait_for
from scripts.translator.grammar import sentences
from scripts.translator.score import scored
from tests.engines import bert_models
from tests.engines.bert_models import CONFIG
from tests.engines.tasks import models
from tests.engines.tasks.models import IRIS, KINDS
from tests.engines.tasks.test_text import entailing, places
from tests.faults.failing_engines import published
from tests.faults.test_tasks import rows

pytestmark = pytest.mark.process
ROOT = Path(__file__).resolve().parents[2]
TRANSLATOR = os.environ.get("AIGRID_TRANSLATOR", "")  # a trained one, see docs/translator.md
MESSAGES = {"messages": [{"role": "user", "content": "one two three"}]}
KIND, UNKIND = "the film was lovely and very fine", "dull and broken"


class World:
    """`asked` is a gateway without models; `left` and `right` have them, some both."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked, self.left, self.right = self.nodes = [
            NodeProcess(folder / name) for name in ("asked", "left", "right")
        ]
        form_grid(self.nodes)

    def publish(self) -> None:
        """A model for each capability, and two that both nodes have."""
        x, _ = models.iris()
        made: dict[str, Any] = {}
        for node, name, make in (
            (self.left, "classifier", models.classifier),
            (self.left, "regressor", models.regressor),
            (self.right, "anomalies", models.anomalies),
        ):
            source, made[name] = make(self._place(name))
            published(node, source, name, self._place(name))
        self.flowers = x[::30]
        self.expected = made["classifier"].predict(self.flowers)
        source, self.pictures, self.shown = models.digits(self._place("digits"))
        published(self.left, source, "digits", self._place("digits"))
        published(self.right, entailing(self._place("entails")), "entails", self._place("entails"))
        published(self.right, places(self._place("places")), "places", self._place("places"))
        where = self._place("alike")
        vectors = bert_models.save(where, CONFIG, bert_models.weights(CONFIG, seed=4))
        published(self.right, vectors, "alike", where, where)
        source = models.sentiment(self._place("feelings"))
        for node in (self.left, self.right):
            published(node, source, "feelings", self._place("feelings"))
            node.cli("models", "fetch", "echo")

    def _place(self, name: str) -> Path:
        folder = self.folder / f"of-{name}"
        folder.mkdir(exist_ok=True)
        return folder

    def offers(self, capability: str) -> int:
        url = f"{self.asked.gateway}/v1/capabilities/{capability}"
        return int(httpx.get(url, timeout=10).json()["models"])

    def ask(self, capability: str, given: Any, **more: Any) -> dict[str, Any]:
        url = f"{self.asked.gateway}/v1/capabilities/{capability}"
        answer = httpx.post(url, json={"input": given, **more}, timeout=60)
        assert answer.status_code == 200, answer.text
        found = answer.json()
        assert found["aigrid"]["receipts"]
        assert {one["node"] for one in found["aigrid"]["segments"]} <= {
            self.left.peer_id,
            self.right.peer_id,
        }
        return dict(found)

    def output(self, capability: str, given: Any, **more: Any) -> Any:
        return self.ask(capability, given, **more)["output"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made: World | None = None
    try:
        made = World(tmp_path_factory.mktemp("outcomes"))
        made.publish()
        for capability in ("text-generation", "text-classification", "sentence-similarity"):
            wait_for(
                lambda name=capability: made.offers(name),  # type: ignore[misc]
                timeout_seconds=60,
                what=f"an offer of {capability}",
            )
        wait_for(
            lambda: len(nodes_of(made, "text-classification")) == 2,
            timeout_seconds=60,
            what="both holders",
        )
        yield made
    finally:
        if made is not None:
            stop_all(made.nodes)


def nodes_of(world: World, capability: str) -> set[str]:
    found = world.asked.cli("find", capability)["candidates"]
    return {one["node"] for one in found}


def test_nine_capabilities_by_name_alone(world: World) -> None:
    classes = world.output("tabular-classification", rows(world.flowers))
    assert [one["label"] for one in classes] == [KINDS[n] for n in world.expected]
    numbers = world.output("tabular-regression", rows(world.flowers[:, :3], IRIS[:3]))
    assert len(numbers) == len(world.flowers)
    (odd,) = world.output("anomaly-detection", rows(np.array([[40, 1, 40, 1]], np.float32)))
    assert odd["anomaly"]
    file = io.BytesIO()
    Image.fromarray(world.pictures[0]).save(file, "PNG")
    seen = world.output("image-classification", base64.b64encode(file.getvalue()).decode())
    assert seen[0]["label"] == str(world.shown[0])
    assert world.output("text-classification", KIND)[0]["label"] == "kind"
    labels = {"text": "is", "labels": ["bad", "good"]}
    assert world.output("zero-shot-classification", labels)[0]["label"] == "good"
    text = "Ann lives in Newton York"
    found = world.output("token-classification", text)
    assert [text[one["start"] : one["end"]] for one in found] == ["Ann", "Newton York"]
    alike = {"source": "the cat", "sentences": ["the cat", "a quick fox"]}
    near, far = world.output("sentence-similarity", alike)
    assert near == pytest.approx(1.0, abs=1e-4)
    assert far < near
    (vector,) = world.output("feature-extraction", ["the cat"])
    assert len(vector) == CONFIG["hidden_size"]
    assert world.output("text-generation", MESSAGES) == {"text": "one two three"}


def test_unseen_sentences_are_translated(world: World, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the extra `torch` is not installed")
    folder = Path(TRANSLATOR or tmp_path / "translator")
    if not TRANSLATOR:
        command = [sys.executable, "-m", "scripts.translator.train", str(folder), "--smoke"]
        subprocess.run([*command, "--threads", "1"], check=True, cwd=ROOT, timeout=240)
    world.left.cli("publish", str(folder), "--capability", "translation", "--name", "translator")
    wait_for(lambda: world.offers("translation"), timeout_seconds=60, what="a translator")
    if TRANSLATOR:
        assert "param" in world.output("translation", "Show all parameters")
        return
    sources, expected = zip(*sentences(seed=8).tested[:20], strict=True)
    answers = [world.output("translation", source) for source in sources]
    assert scored(answers, expected).low > scored(sources, expected).high + 30
    assert len(set(answers)) > 10


def test_a_choice_is_explained_by_records(world: World) -> None:
    told = world.ask("text-classification", KIND, explain=True, strategy="quality", seed=1)
    explained = told["aigrid"]["explain"]
    assert {one["node"] for one in explained} == {world.left.peer_id, world.right.peer_id}
    assert all(one["record"].startswith("b") and one["parts"] for one in explained)


def test_two_vote_one_races_and_the_small_one_is_sure_enough(world: World) -> None:
    voted = world.ask("text-classification", UNKIND, mode={"name": "vote", "of": 2})
    assert voted["output"][0]["label"] == "unkind"
    assert (voted["aigrid"]["agreed"], len(voted["aigrid"]["receipts"])) == (2, 2)
    raced = world.ask("text-generation", MESSAGES, mode={"name": "race", "after_ms": 0})
    assert raced["output"] == {"text": "one two three"}
    sure = world.ask("text-classification", KIND, mode={"name": "cascade", "confidence": 0.5})
    assert sure["aigrid"]["steps"][0]["confidence"] > 0.5


def test_what_one_says_another_judges(world: World) -> None:
    said = {"$from": "first", "path": "/text"}
    steps = [
        {"name": "feeling", "capability": "text-classification", "input": said},
        {
            "name": "who",
            "capability": "token-classification",
            "input": {"$from": "input", "path": "/messages/0/content"},
        },
    ]
    given = {"messages": [{"role": "user", "content": "Ann lives in Newton York"}]}
    mode = {"name": "pipeline", "steps": steps, "output": "who"}
    found = world.ask("text-generation", given, mode=mode)
    assert [one["entity"] for one in found["output"]] == ["PER", "LOC"]
    assert list(found["aigrid"]["steps"]) == ["first", "feeling", "who"]
    assert len(found["aigrid"]["receipts"]) == 3


def test_clients_of_openai_and_people_ask_so_too(world: World) -> None:
    client = openai.OpenAI(base_url=f"{world.asked.gateway}/v1", api_key="none", max_retries=0)
    answer = client.chat.completions.create(
        model="capability:text-generation?strategy=fastest",
        messages=[{"role": "user", "content": "hello"}],
    )
    assert answer.choices[0].message.content == "hello"
    vectors = client.embeddings.create(model="capability:feature-extraction", input="the cat")
    assert len(vectors.data[0].embedding) == CONFIG["hidden_size"]
    said = world.asked.cli("run", "text-classification", KIND, "--mode", "race")
    assert said["output"][0]["label"] == "kind"


def test_a_constraint_that_nobody_meets_names_what_would(world: World) -> None:
    url = f"{world.asked.gateway}/v1/capabilities/text-classification"
    refused = httpx.post(url, json={"input": KIND, "constraints": {"region": "mars"}}, timeout=30)
    assert refused.status_code == 503
    error = refused.json()["error"]
    assert error["code"] == "no_candidate"
    assert "mars" in error["message"]


def test_with_one_of_them_dead_every_mode_ends_in_an_answer_or_a_reason(world: World) -> None:
    """The last one here: a node is killed."""
    world.right.kill9()
    for mode in ("fallback", "race", {"name": "cascade", "confidence": 0.5}):
        assert world.output("text-classification", KIND, mode=mode)[0]["label"] == "kind"
    url = f"{world.asked.gateway}/v1/capabilities/text-classification"
    body = {"input": KIND, "mode": {"name": "vote", "of": 2}}
    alone = httpx.post(url, json=body, timeout=60)
    assert alone.status_code == 503, alone.text
    assert "lower `agree`" in alone.json()["error"]["message"]
