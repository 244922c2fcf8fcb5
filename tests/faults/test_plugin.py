"""The plug-in of docs/plugins.md, as it stands there: built, tested, installed, asked."""

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from scripts.nodes import NodeProcess, stop_all, wait_for
from scripts.offers import offers
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.process

PAGE = Path(__file__).parents[2] / "docs" / "plugins.md"
BLOCK = re.compile(r"^```\w+ file=(\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def done(*command: str, **more: str) -> str:
    ended = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **more}
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("glossary")
    files = dict(BLOCK.findall(PAGE.read_text(encoding="utf-8")))
    assert files.keys() == {
        "pyproject.toml", "aigrid_glossary.py", "test_glossary.py", "animals.glossary"
    }  # fmt: skip
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def installed(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package as pip installs it: no other test shall see it."""
    target = tmp_path_factory.mktemp("installed")
    pip = (sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check")
    done(*pip, "--no-build-isolation", "--no-deps", "--target", str(target), str(package))
    return target


def test_the_engine_of_the_tutorial_holds_the_contract(package: Path, installed: Path) -> None:
    pytest_ = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    test = str(package / "test_glossary.py")
    said = done(*pytest_, "--rootdir", str(package), test, PYTHONPATH=str(installed))
    assert re.search(r"\d\d passed", said)
    assert "failed" not in said


def test_its_model_is_asked_through_another_node(
    package: Path, installed: Path, tmp_path: Path
) -> None:
    asked = NodeProcess(tmp_path / "asked")
    holder = NodeProcess(tmp_path / "holder", environment={"PYTHONPATH": str(installed)})
    try:
        for node in (asked, holder):
            node.start()
        holder.cli("join", asked.cli("invite", holder.ready["did"])["invitation"])
        engines = {engine["engine"]: engine for engine in holder.cli("engines")["engines"]}
        assert engines["glossary"]["problem"] == ""
        assert engines["glossary"]["formats"] == ["glossary"]
        assert "glossary" not in {e["engine"] for e in asked.cli("engines")["engines"]}
        given = ("--capability", "text-generation", "--name", "animals")
        holder.cli("publish", str(package / "animals.glossary"), *given)
        wait_for(
            lambda: any(m["name"] == "animals" for m in offers(asked)),
            timeout_seconds=PATIENCE_SECONDS,
            what="the offer at the other node",
        )
        body = {"model": "animals", "messages": [{"role": "user", "content": "cat"}]}
        answer = httpx.post(f"{asked.gateway}/v1/chat/completions", json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-aigrid-node"] == holder.peer_id
        said = answer.json()["choices"][0]["message"]["content"]
        assert said.split() == ["a", "small", "animal", "that", "sleeps", "on", "keyboards"]
    finally:
        stop_all([asked, holder])
