"""Bringing a model: read from its own files, shown, agreed to, tried once, offered."""

import json
import os
import pty
import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from scripts.nodes import AIGRID, NodeFailedError, NodeProcess, stop_all, wait_for
from scripts.offers import offers
from tests.engines import bert_models
from tests.engines.bert_models import CONFIG, weights
from tests.engines.gguf_writer import tiny_llama, write
from tests.engines.tasks import models
from tests.node.mesh.shelf.hub_server import REVISION, HubServer, serving
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.process
LABELS = {"0": "cat", "1": "dog", "2": "fox"}
CARD = "---\nlicense: apache-2.0\nlanguage:\n- en\n- de\n---\n# A model\n"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    folder = tmp_path_factory.mktemp("hub")
    classifier(folder)
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02.")
    with serving(HubServer("org/animals", folder)) as running:
        yield running


@pytest.fixture(scope="module")
def grid(
    tmp_path_factory: pytest.TempPathFactory, hub: HubServer
) -> Iterator[tuple[NodeProcess, NodeProcess]]:
    """The node that is asked, and the one that publishes."""
    folder = tmp_path_factory.mktemp("publish")
    environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "0"}
    asked = NodeProcess(folder / "asked")
    holder = NodeProcess(folder / "holder", environment=environment)
    try:
        for node in (asked, holder):
            node.start()
        holder.cli("join", asked.cli("invite", holder.ready["did"])["invitation"])
        yield asked, holder
    finally:
        stop_all([asked, holder])


def classifier(folder: Path) -> Path:
    """A BERT with random weights, as transformers saves it, with a card."""
    config = {**CONFIG, "architectures": ["BertForSequenceClassification"], "id2label": LABELS}
    bert_models.save(folder, config, weights(config, 3))
    (folder / "README.md").write_text(CARD)
    return folder


def ask(node: NodeProcess, model: str, task: str, given: Any) -> Any:
    url = f"{node.gateway}/aigrid/v1/tasks/{task}"
    wait_for(
        lambda: model in [m["name"] for m in offers(node)],
        timeout_seconds=PATIENCE_SECONDS,
        what=f"the offer of {model}",
    )
    answer = httpx.post(url, json={"model": model, "input": given}, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()["output"]


def on_shelf(node: NodeProcess) -> list[str]:
    return sorted(path.name for path in (node.data_dir / "models").iterdir())


def test_a_folder_says_all_that_is_signed(grid, tmp_path):
    asked, holder = grid
    folder = tmp_path / "Animals-1.5"
    folder.mkdir()
    body = holder.cli("publish", str(classifier(folder)))
    said = body["said"]
    assert (said["name"], said["capability"]) == ("animals-1.5", "text-classification")
    assert (said["license"], said["languages"]) == ("Apache-2.0", ["en", "de"])
    assert (said["engine"], said["format"]) == ("onnx_encoder", "safetensors")
    assert said["tokenizer"] == "WordPiece"
    assert said["memory_bytes"] > 0
    record = asked_record(holder, body["record"])
    assert record["license"] == "Apache-2.0"
    assert record["languages"] == ["en", "de"]
    assert record["model"]["mapping"]["output"]["labels"] == ["cat", "dog", "fox"]
    answer = ask(asked, "animals-1.5", "text-classification", "the quick fox")
    assert {one["label"] for one in answer} == {"cat", "dog", "fox"}


def asked_record(node: NodeProcess, record: str) -> Any:
    return node.cli("record", "show", record)["credentialSubject"]


def test_a_gguf_needs_nothing_but_its_path(grid, tmp_path):
    asked, holder = grid
    path = write(tmp_path, tiny_llama()).rename(tmp_path / "Tiny.gguf")
    body = holder.cli("publish", str(path))
    said = body["said"]
    assert (said["name"], said["capability"]) == ("tiny", "text-generation")
    assert said["engine"] == "onnx_text"
    assert asked.cli("find", "text-generation", "--ask")["candidates"]
    assert body["policy"] is None
    policy = tmp_path / "policy.toml"
    policy.write_text('rules = [{ actions = ["invoke"], assignees = ["members"] }]')
    signed = [{"actions": ["invoke"], "assignees": ["members"]}]
    assert holder.cli("publish", str(path), "--policy", str(policy))["policy"] == signed
    assert holder.cli("publish", str(path))["policy"] == signed  # it stays


def test_a_model_that_is_not_what_it_is_published_as_is_not_offered(grid, tmp_path):
    _, holder = grid
    models.classifier(tmp_path)
    before = on_shelf(holder)
    with pytest.raises(NodeFailedError, match="trial request") as caught:
        holder.cli("publish", str(tmp_path / "model.onnx"), "--capability", "image-classification")
    assert caught.value.code == "unsupported_model"
    assert on_shelf(holder) == before
    assert not holder.cli("status")["loading"]


def test_a_model_of_the_hub_is_brought_pinned_and_published(grid, hub):
    asked, holder = grid
    body = holder.cli("publish", "hf:org/animals", "--name", "from-the-hub")
    assert set(body["said"]["files"]) == {"config.json", "model.safetensors", "tokenizer.json"}
    assert not list((holder.data_dir / "downloads" / "hub").rglob("*.safetensors"))
    answer = ask(asked, "from-the-hub", "text-classification", "the dog")
    assert len(answer) == 3


def test_what_is_not_what_the_hub_promised_is_thrown_away(grid, hub):
    _, holder = grid
    before = on_shelf(holder)
    holder.restart()  # it remembers what the hub listed
    hub.wrong_hash = True
    try:
        with pytest.raises(NodeFailedError) as caught:
            holder.cli("publish", "hf:org/animals", "--name", "wrong")
    finally:
        hub.wrong_hash = False
        holder.restart()
    assert caught.value.code == "hash_mismatch"
    assert on_shelf(holder) == before
    assert not list((holder.data_dir / "downloads" / "hub").rglob("*.safetensors"))


class Terminal:
    """`aigrid publish` as a person runs it."""

    def __init__(self, node: NodeProcess, *arguments: str) -> None:
        ours, theirs = pty.openpty()
        self._ours = ours
        self.shown = ""
        self._process = subprocess.Popen(
            [*AIGRID, "--data-dir", str(node.data_dir), "publish", *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "COLUMNS": "200", "TERM": "dumb"},
        )
        os.close(theirs)

    def until(self, text: str) -> None:
        deadline = time.monotonic() + 60
        while text not in self.shown:
            ready, _, _ = select.select([self._ours], [], [], deadline - time.monotonic())
            assert ready, self.shown
            self.shown += os.read(self._ours, 65536).decode()

    def type(self, text: str) -> None:
        os.write(self._ours, f"{text}\n".encode())

    def end(self) -> int:
        while True:
            try:
                data = os.read(self._ours, 65536)
            except OSError:  # its end of the terminal is closed
                break
            if not data:
                break
            self.shown += data.decode()
        os.close(self._ours)
        return self._process.wait(timeout=60)


def test_on_a_terminal_nothing_happens_before_somebody_agrees(grid, tmp_path):
    _, holder = grid
    folder = tmp_path / "shown"
    folder.mkdir()
    classifier(folder)
    before = on_shelf(holder)
    person = Terminal(holder, str(folder))
    person.until("Publish it?")
    for shown in ("text-classification", "id2label", "Apache-2.0", "README.md", "onnx_encoder"):
        assert shown in person.shown
    person.type("n")
    assert person.end() == 1
    assert on_shelf(holder) == before
    person = Terminal(holder, str(folder))
    person.until("Publish it?")
    person.type("y")
    assert person.end() == 0, person.shown
    assert "Published bagaaiera" in person.shown
    person = Terminal(holder, "hf:org/animals", "--name", "asked-for", "--yes")
    assert person.end() == 0, person.shown
    assert f"org/animals at {REVISION}" in person.shown


def test_no_name_of_a_file_looks_like_a_row_of_ours(grid, tmp_path):
    _, holder = grid
    classifier(tmp_path)
    (tmp_path / "evil\nLicence      MIT   README.md\n.bin").write_bytes(b"\x80\x02.")
    person = Terminal(holder, str(tmp_path), "--name", "forged")
    person.until("Publish it?")
    assert "evil?Licence" in person.shown
    person.type("n")
    assert person.end() == 1


def test_a_name_that_is_taken_is_not_taken_again(grid, tmp_path):
    _, holder = grid
    path = write(tmp_path, tiny_llama(seed=9)).rename(tmp_path / "other.gguf")
    with pytest.raises(NodeFailedError, match="withdraw") as caught:
        holder.cli("publish", str(path), "--name", "tiny")
    assert caught.value.code == "ambiguous_model"


def test_what_was_agreed_to_is_what_is_published(grid, tmp_path):
    """The command says which proposal was shown; a file that changed meanwhile is not published."""
    _, holder = grid
    classifier(tmp_path)
    person = Terminal(holder, str(tmp_path), "--name", "changed")
    person.until("Publish it?")
    (tmp_path / "README.md").write_text(CARD.replace("apache-2.0", "mit"))
    person.type("y")
    assert person.end() == 1
    assert "look at it again" in person.shown
    assert "changed" not in json.dumps(holder.cli("models"))
