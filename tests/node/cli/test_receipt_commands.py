"""`aigrid receipts` and what stands below it."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.node.cli.conftest import Cli, ScriptedNode
from tests.node.policy.receipt_world import SALT, receipt

from aigrid.node.cli.session import now_ms
from aigrid.protocol.errors import Code, InvalidRequestError

NONE = {
    "role": "",
    "state": "",
    "actor": "",
    "model": "",
    "peer": "",
    "since_seconds": 0,
    "limit": 50,
}
ONE = {
    "id": "bagaaiera",
    "role": "asked",
    "state": "disputed",
    "code": "receipt_mismatch",
    "kept": "t",
    "request_id": "r",
    "actor": "al\x1bice",
    "peer": "12D3",
    "did": "did:key:z",
    "model": "m",
    "prompt_tokens": 1,
    "completion_tokens": 2,
    "seconds": 0.5,
}
SHOWN = {
    **ONE,
    "began": "b",
    "ended": "e",
    "because": "w",
    "record": {"a": 1},
    "seen": None,
    "verified": {"ok": True, "code": "", "message": ""},
}
CHAT = json.dumps({"model": "m", "messages": [{"role": "user", "content": "canary-prompt"}]})


def test_receipts_are_listed(cli: Cli, node: ScriptedNode) -> None:
    body = {"receipts": [ONE], "more": True}
    node.answers["receipts"] = body
    done = cli("receipts", "--json")
    assert (done.status, done.body) == (0, body)
    assert node.calls == [("receipts", NONE)]
    done = cli("receipts")
    assert "alice" in done.out
    assert "\x1b" not in done.out
    assert "older" in done.err


def test_filters_are_passed_on(cli: Cli, node: ScriptedNode) -> None:
    node.answers["receipts"] = {"receipts": [], "more": False}
    options = "--role served --state receipted --actor a --model m --peer p --since 2h --limit 7"
    done = cli("receipts", *options.split())
    assert done.status == 0
    assert done.out.strip()
    asked = ("served", "receipted", "a", "m", "p", 7200, 7)
    assert node.calls == [("receipts", dict(zip(NONE, asked, strict=True)))]


def test_filters_that_keep_nothing_do_not_say_that_nothing_was(
    cli: Cli, node: ScriptedNode
) -> None:
    node.answers["receipts"] = {"receipts": [], "more": False}
    node.answers["receipt_totals"] = {"by": "peer", "totals": [], "more": False}
    for options in ((), ("--totals", "peer"), ("--limit", "3")):
        assert "Nothing was served" in cli("receipts", *options).out
        assert "Nothing kept fits" in cli("receipts", *options, "--state", "disputed").out


@pytest.mark.parametrize("by", ["actor", "model", "peer"])
def test_receipts_are_summed(cli: Cli, node: ScriptedNode, by: str) -> None:
    numbers = ("requests", "segments", "unreceipted", "disputed")
    counted = dict.fromkeys((*numbers, "prompt_tokens", "completion_tokens", "seconds"), 3)
    body = {"by": by, "totals": [{by: "x" * 70, "role": "asked", **counted}], "more": False}
    node.answers["receipt_totals"] = body
    done = cli("receipts", "--totals", by, "--json")
    assert (done.status, done.body) == (0, body)
    assert node.calls == [("receipt_totals", {**NONE, "by": by})]
    out = cli("receipts", "--totals", by).out
    assert out.splitlines()[0] == "x" * 70
    assert "3 of 3 requests: 3 unreceipted, 3 disputed" in out


@pytest.mark.parametrize("since", ["x", "1", "d", "0d", "-1d", "1y", "9999999d"])
def test_a_time_that_is_none_is_usage(cli: Cli, since: str) -> None:
    assert cli("receipts", f"--since={since}").status == 2


@pytest.mark.parametrize("options", [["--role", "x"], ["--totals", "salt"], ["--state", "y"]])
def test_an_option_that_is_none_is_usage(cli: Cli, options: list[str]) -> None:
    assert cli("receipts", *options).status == 2


def test_one_is_shown(cli: Cli, node: ScriptedNode) -> None:
    node.answers["receipt_show"] = SHOWN
    done = cli("receipts", "show", "bagaaiera", "--json")
    assert (done.status, done.body) == (0, SHOWN)
    assert node.calls == [("receipt_show", {"id": "bagaaiera", "salt": False})]
    done = cli("receipts", "show", "bagaaiera")
    assert "aigrid receipts verify bagaaiera --request FILE" in done.out
    assert "Salt" not in done.out
    node.answers["receipt_show"] = {**SHOWN, "salt": "07"}
    assert "07" in cli("receipts", "show", "bagaaiera", "--salt").out


def test_one_that_does_not_hold_ends_in_its_status(cli: Cli, node: ScriptedNode) -> None:
    against = {"ok": False, "code": "receipt_mismatch", "message": "it names another model"}
    node.answers["receipt_show"] = {**SHOWN, "verified": against, "record": None, "seen": {"b": 2}}
    done = cli("receipts", "show", "local-1")
    assert done.status == 1
    assert "it names another model" in done.out
    node.answers["receipt_show"] = InvalidRequestError("no", Code.NOT_FOUND)
    assert cli("receipts", "show", "local-1").status == 1


def test_one_is_written_as_it_was_signed(cli: Cli, node: ScriptedNode, tmp_path: Path) -> None:
    raw, path = receipt().raw, tmp_path / "receipt.json"
    node.answers["receipt_show"] = {**SHOWN, "record": json.loads(raw), "salt": "07"}
    done = cli("receipts", "show", "bagaaiera", "--salt", "--out", str(path))
    assert done.status == 0
    assert path.read_bytes() == raw
    assert "07" in done.out
    node.answers["receipt_show"] = {**SHOWN, "record": json.loads(raw)}
    assert "Salt" not in cli("receipts", "show", "bagaaiera", "--out", str(path)).out
    assert cli("receipts", "show", "bagaaiera", "--out", str(tmp_path)).status == 2
    node.answers["receipt_show"] = {**SHOWN, "record": None}
    done = cli("receipts", "show", "local-1", "--out", str(path))
    assert (done.status, "no receipt" in done.err) == (2, True)


@pytest.fixture
def chat(tmp_path: Path) -> str:
    path = tmp_path / "request.json"
    path.write_text(CHAT)
    return str(path)


@pytest.mark.parametrize(
    ("ok", "request_", "prefix", "status"),
    [(True, True, True, 0), (True, True, False, 0), (True, False, True, 1), (False, True, True, 1)],
)
def test_a_kept_one_is_proved_by_the_node(
    cli: Cli, node: ScriptedNode, chat: str, *, ok: bool, request_: bool, prefix: bool, status: int
) -> None:
    body = {"ok": ok, "code": "" if ok else "unreceipted", "request": request_, "prefix": prefix}
    node.answers["receipt_prove"] = body
    done = cli("receipts", "verify", "local-1", "--request", chat, "--json")
    assert (done.status, done.body) == (status, body)
    assert node.calls == [("receipt_prove", {"id": "local-1", "request": CHAT})]
    done = cli("receipts", "verify", "local-1", "--request", chat)
    assert done.out.strip()


def test_a_file_is_proved_without_a_node(cli: Cli, tmp_path: Path, chat: str) -> None:
    path = tmp_path / "receipt.json"
    raw = receipt(at_ms=now_ms()).raw
    spaced = json.dumps(json.loads(raw)).encode()
    path.write_bytes(raw + b"\n")

    def verify(*options: str) -> Any:
        return cli("receipts", "verify", str(path), "--request", chat, *options, "--json")

    done = verify("--salt", SALT.hex())
    assert done.status == 0
    assert done.body == {"ok": True, "code": "", "request": True, "prefix": True}
    done = verify("--salt", "08" * 16)
    assert (done.status, done.body["request"]) == (1, False)
    for salt in ("", "07", "zz" * 16):
        assert verify("--salt", salt).status == 2
    for raw, code in ((b"{}", "unsigned"), (b"Receipt", "malformed"), (spaced, "not_canonical")):
        path.write_bytes(raw)
        done = verify("--salt", SALT.hex())
        assert (done.status, done.body["code"]) == (1, code)
        done = cli("receipts", "verify", str(path), "--request", chat, "--salt", SALT.hex())
        assert f"{path} is no receipt as it was signed" in done.out.replace("\n", " ")
        assert "not of this request" not in done.out
    path.unlink()
    assert verify("--salt", SALT.hex()).status == 2
    assert verify().status == 2  # taken for an id, and no node is running
