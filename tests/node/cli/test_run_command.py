"""`aigrid run`, and capabilities listed and shown."""

import base64
from pathlib import Path
from typing import Any

import pytest
from tests.node.cli.conftest import Cli, ScriptedNode

ANSWER: dict[str, Any] = {
    "output": "salut",
    "aigrid": {
        "mode": "fallback",
        "segments": [{"node": "12D3Koo"}],
        "explain": [
            {"place": 1, "name": "a", "node": "12D3Koo", "total": 0.5, "why": ["warm"]},
            {"name": "b", "node": "12D3Kpp", "reason": "license", "why": ["MIT\x1b[0m"]},
        ],
    },
}


def asked(node: ScriptedNode) -> dict[str, Any]:
    ((method, params),) = node.calls
    assert method == "run"
    return dict(params)


def test_an_outcome_is_asked_for_and_shown(cli: Cli, node: ScriptedNode) -> None:
    node.answers["run"] = ANSWER
    done = cli(
        *("run", "translation", "hi", "--source", "en", "--target", "fr", "--explain"),
        *("--param", "max_tokens=5", "--constraint", "region=eu", "--constraint", "warm=true"),
        *("--strategy", "quality", "--mode", "race", "--seed", "7"),
    )
    assert done.status == 0
    assert done.out == "salut\n"
    assert "1. a on 12D3Koo scores 0.50: warm" in done.err
    assert "not asked (license): b" in done.err
    assert "\x1b" not in done.err
    assert asked(node) == {
        "capability": "translation",
        "text": "hi",
        "parameters": {"max_tokens": 5, "source": "en", "target": "fr"},
        "constraints": {"region": "eu", "warm": True},
        "strategy": "quality",
        "mode": "race",
        "seed": 7,
        "explain": True,
    }


def test_a_file_goes_as_it_is(cli: Cli, node: ScriptedNode, tmp_path: Path) -> None:
    node.answers["run"] = {**ANSWER, "output": [{"label": "cat", "score": 0.9}]}
    picture = tmp_path / "cat.png"
    picture.write_bytes(b"\x89PNG")
    done = cli("run", "image-classification", "--file", str(picture))
    assert '"label": "cat"' in done.out
    assert base64.b64decode(asked(node)["data"]) == b"\x89PNG"


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("hi", "--file", "x"),
        ("hi", "--param", "novalue"),
        ("hi", "--param", "a=1", "--param", "a=2"),
        ("hi", "--seed", "-1"),
        ("hi", "--mode", ""),
    ],
)
def test_what_cannot_be_meant_is_refused(
    cli: Cli, node: ScriptedNode, arguments: tuple[str, ...]
) -> None:
    assert cli("run", "translation", *arguments).status == 2
    assert node.calls == []


def test_capabilities_are_listed_and_shown(cli: Cli, node: ScriptedNode) -> None:
    one = {"name": "translation", "label": "Translation", "models": 2, "askable": True}
    text = {"name": "text", "label": "Text", "models": 2, "askable": False, "reason": "a group"}
    node.answers["capabilities"] = {"capabilities": [one, text]}
    listed = cli("capability", "list")
    assert "translation" in listed.out
    assert "`run` does not take: text" in listed.err
    node.answers["capability_show"] = {
        **one,
        "input": {"type": "string"},
        "output": {},
        "parameters": {},
        "models": [{"name": "opus", "state": "warm", "nodes": 3}],
    }
    shown = cli("capability", "show", "translation").out
    assert 'input: {"type": "string"}' in shown
    assert "opus (warm, 3 nodes)" in shown


def test_a_group_is_shown_with_what_to_ask_for(cli: Cli, node: ScriptedNode) -> None:
    empty: dict[str, Any] = {"input": {}, "output": {}, "parameters": {}, "models": []}
    said = {"askable": False, "reason": "text is a group: ask for one of translation"}
    node.answers["capability_show"] = {"name": "text", "label": "Text", **said, **empty}
    assert "ask for one of translation." in cli("capability", "show", "text").out
