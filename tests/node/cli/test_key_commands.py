"""`aigrid key` as a person sees it."""

import pytest
from tests.node.cli.conftest import Cli, ScriptedNode

KEY = "aigrid-" + "A" * 43
SHOWN = {
    "id": "0011223344556677",
    "name": "alice",
    "did": "",
    "limits": {"requests_per_minute": 60, "models": ["smollm2"]},
    "created": "2026-11-28T12:00:00.000Z",
    "expires": "",
    "state": "live",
    "tokens_today": 12,
}


def test_the_key_alone_is_on_stdout(cli: Cli, node: ScriptedNode) -> None:
    node.answers["key_create"] = {**SHOWN, "key": KEY}
    options = ("--requests-per-minute", "60", "--model", "smollm2", "--expires", "30d")
    done = cli("key", "create", "alice", *options)
    assert (done.status, done.out) == (0, f"{KEY}\n")
    assert "only time" in done.err
    ((method, params),) = node.calls
    assert method == "key_create"
    assert (params["name"], params["did"], params["expires_seconds"]) == ("alice", "", 30 * 86400)
    assert params["limits"]["requests_per_minute"] == 60
    assert params["limits"]["models"] == ["smollm2"]
    assert cli("key", "create", "alice", "--json").body["key"] == KEY


def test_a_did_is_told_to_be_served(cli: Cli, node: ScriptedNode) -> None:
    node.answers["key_create"] = {**SHOWN, "did": "did:key:z6Mk", "key": ""}
    done = cli("key", "create", "alice", "--did", "did:key:z6Mk")
    assert done.out == "Requests signed by did:key:z6Mk are served, as alice.\n"


def test_a_list_shows_limits_and_use(cli: Cli, node: ScriptedNode) -> None:
    node.answers["key_list"] = {"keys": [SHOWN]}
    shown = cli("key", "list").out
    for piece in ("0011223344556677", "alice", "requests_per_minute 60", "smollm2", "12"):
        assert piece in shown
    node.answers["key_list"] = {"keys": []}
    assert "no keys" in cli("key", "list").out + cli("key", "list").err


def test_revoking_says_whose_it_was(cli: Cli, node: ScriptedNode) -> None:
    node.answers["key_revoke"] = {"id": SHOWN["id"], "name": "alice", "state": "revoked"}
    assert cli("key", "revoke", "alice").out == "Revoked alice.\n"
    assert node.calls == [("key_revoke", {"id": "alice"})]


@pytest.mark.parametrize(
    "wrong", [("--expires", "soon"), ("--expires", "0d"), ("--tokens-per-day", "-1"), ()]
)
def test_what_cannot_be_said_is_usage(cli: Cli, node: ScriptedNode, wrong: tuple[str, ...]) -> None:
    arguments = ("create", "alice", *wrong) if wrong else ("create",)
    assert cli("key", *arguments).status == 2
    assert node.calls == []
