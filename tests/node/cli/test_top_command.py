"""`aigrid top`: what it asks of the node, and how it goes on and ends."""

from typing import Any

import pytest
from tests.node.cli.conftest import Cli, ScriptedNode

from aigrid.protocol.errors import Code

BODY: dict[str, Any] = {
    "grid": "did:key:z",
    "whole": True,
    "members": 2,
    "not_connected": 0,
    "asked_max": 64,
    "nodes": [
        {
            "peer_id": "12D3KooWabcdef",
            "state": "fresh",
            "age_seconds": 0.0,
            "vitals": {
                "name": "laptop",
                "running": 1,
                "waiting": 0,
                "prompt_per_second": 3.0,
                "completion_per_second": 9.0,
            },
        },
        {"peer_id": "12D3KooWabcdeg", "state": "private", "age_seconds": None, "vitals": None},
    ],
}


@pytest.mark.parametrize("options", [(), ("--once",)])
def test_where_there_is_no_terminal_it_is_one_table(
    cli: Cli, node: ScriptedNode, options: tuple[str, ...]
) -> None:
    node.answers["top"] = BODY
    done = cli("top", "--grid", *options)
    assert done.status == 0
    lines = done.out.splitlines()
    assert lines[0] == "2 members: 1 fresh, 1 private"
    assert "laptop" in lines[3]
    assert all(len(line) <= 100 for line in lines)
    assert node.calls == [("top", {"grid": True})]


def test_json_is_what_the_node_says(cli: Cli, node: ScriptedNode) -> None:
    node.answers["top"] = BODY
    assert cli("top", "--json").body == BODY
    assert node.calls == [("top", {"grid": False})]


@pytest.mark.parametrize("interval", ["0", "-1", "nan", "soon"])
def test_an_interval_that_cannot_be_kept_is_refused(
    cli: Cli, node: ScriptedNode, interval: str
) -> None:
    assert cli("top", "--interval", interval).status == 2


def test_without_a_node_it_says_so(cli: Cli) -> None:
    done = cli("top", "--json")
    assert (done.status, done.body["error"]["code"]) == (2, Code.NOT_RUNNING.value)
