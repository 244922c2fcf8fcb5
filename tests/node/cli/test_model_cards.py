"""How models look to a person."""

from typing import Any

import pytest
from tests.node.cli.conftest import Cli, ScriptedNode

OWN, OTHER = "12D3KooW" + "o" * 44, "12D3KooW" + "p" * 44
HERE: dict[str, Any] = {
    "state": "warm",
    "workers": 1,
    "loading": 0,
    "engine": "onnx_text",
    "device": "cpu",
    "memory": {"cpu": 300 << 20},
    "slots": 4,
    "leases": 1,
    "waiting": 2,
    "expires_in_seconds": 250.0,
    "pinned": False,
    "cold_start": {"seconds": 0.84, "ago_seconds": 7300.0},
    "problem": "",
    "progress": "",
}
MODEL: dict[str, Any] = {
    "model": "bagaaiera" + "i" * 52,
    "name": "smollm2",
    "names": ["smol", "smollm2"],
    "state": "warm",
    "warm": [OTHER, OWN],
    "on_disk": [],
    "can_fetch": [],
    "seeds": [OWN],
    "capabilities": ["text-generation"],
    "policy": [{"actions": ["invoke"], "assignees": ["members"]}],
    "here": HERE,
}


def shown(cli: Cli, node: ScriptedNode, *command: str, **here: Any) -> str:
    model = {**MODEL, "here": {**HERE, **here}}
    words = command or ("models", "--long")
    node.answers[words[0]] = {"models": [model], "trouble": "", "peer_id": OWN}
    done = cli(*words)
    assert done.status == 0
    assert all(len(line) <= 100 for line in done.out.splitlines())
    return " ".join(done.out.split())


def test_a_model_tells_where_it_is_and_how_it_stands_here(cli: Cli, node: ScriptedNode) -> None:
    told = shown(cli, node)
    for part in (
        "smollm2 (elsewhere: smol)",
        "does text-generation",
        "for members",
        f"warm {OTHER} {OWN} (here)",
        f"seeds {OWN} (here)",
        "here warm, 1 worker of onnx_text on cpu",
        "memory 300 MiB of cpu",
        "requests 1 of 4 slots taken, 2 waiting",
        "unloads in 4 min",
        "cold start 0.8 s, 2 h ago",
    ):
        assert part in told


@pytest.mark.parametrize(
    ("here", "part"),
    [
        (
            {"state": "loading", "progress": "loading: 50 %"},
            "here loading, 2 waiting: loading: 50 %",
        ),
        ({"state": "on_disk", "problem": "it keeps crashing"}, "problem it keeps crashing"),
        ({"pinned": True, "expires_in_seconds": None}, "unloads never: it is pinned"),
        ({"expires_in_seconds": None}, "unloads not while it is in use"),
        ({"expires_in_seconds": None, "leases": 0}, "unloads when its memory is needed"),
        ({"workers": 2, "loading": 1}, "warm, 2 workers of onnx_text on cpu, 1 more on the way"),
        ({"memory": {"cuda:0": 3 << 30}}, "3.0 GiB of cuda:0"),
    ],
)
def test_each_state_in_words(cli: Cli, node: ScriptedNode, here: dict[str, Any], part: str) -> None:
    assert part in shown(cli, node, **here)


def test_status_has_one_line_for_a_model(cli: Cli, node: ScriptedNode) -> None:
    told = shown(cli, node, "status", problem="it keeps crashing")
    line = "model smollm2: warm 2, seeds 1; warm, 1 worker of onnx_text on cpu; it keeps crashing"
    assert line in told


def test_ask_shows_how_far_a_load_is_and_sends_keep_alive(cli: Cli, node: ScriptedNode) -> None:
    node.events["ask"] = [{"progress": "loading: 5 %\x1b[2J"}, {"text": "hi"}]
    node.answers["ask"] = {"text": "hi", "model": "m", "segments": []}
    done = cli("ask", "hello", "--keep-alive", "-1")
    assert (done.status, done.out) == (0, "hi\n")
    assert node.calls[-1][1]["keep_alive"] == "-1"
    assert "\x1b[2J" not in done.err
