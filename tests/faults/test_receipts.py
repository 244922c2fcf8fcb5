"""Receipts between real nodes: both ends have the same one, and it proves what was asked."""

import json

import httpx
import pytest
from scripts.nodes import NodeFailedError
from tests.faults.conftest import MODEL, ProcessGrid

pytestmark = pytest.mark.process
CANARY = "canary-4b1d-prompt"
BODY = {
    "model": MODEL,
    "messages": [{"role": "user", "content": CANARY}],
    "max_tokens": 5,
    "temperature": 0,
}


def listed(node, *options):
    return node.cli("receipts", *options)["receipts"]


@pytest.fixture(scope="module")
def segment(grid: ProcessGrid):
    """What the gateway says of the one segment of an answer."""
    answer = httpx.post(f"{grid.asker.gateway}/v1/chat/completions", json=BODY, timeout=60)
    assert answer.status_code == 200
    (said,) = answer.json()["aigrid"]["segments"]
    assert said["receipted"]
    return said


def test_both_ends_keep_the_receipt_that_the_answer_names(grid, segment):
    (asked,) = listed(grid.asker, "--role", "asked")
    (served,) = listed(grid.holder, "--role", "served")
    assert asked["id"] == served["id"] == segment["receipt"]
    assert (asked["state"], served["state"]) == ("receipted", "receipted")
    assert (asked["peer"], served["peer"]) == (grid.holder.peer_id, grid.asker.peer_id)
    assert served["actor"] == grid.asker.ready["did"]
    assert asked["completion_tokens"] == served["completion_tokens"] == segment["tokens"]
    assert listed(grid.authority) == []


@pytest.mark.parametrize("by", ["actor", "model", "peer"])
def test_sums_agree(grid, segment, by):
    (asked,) = grid.asker.cli("receipts", "--totals", by)["totals"]
    (served,) = grid.holder.cli("receipts", "--totals", by)["totals"]
    counted = ("requests", "segments", "prompt_tokens", "completion_tokens", "seconds")
    assert [asked[name] for name in counted] == [served[name] for name in counted]
    assert (asked["requests"], asked["unreceipted"], asked["disputed"]) == (1, 0, 0)


def test_it_proves_what_was_asked_to_a_third_party(grid, segment, tmp_path):
    receipt, request = tmp_path / "receipt.json", tmp_path / "request.json"
    show = ("receipts", "show", segment["receipt"], "--out", str(receipt))
    assert "salt" not in grid.holder.cli(*show)
    shown = grid.holder.cli(*show, "--salt")
    request.write_text(json.dumps(BODY))
    prove = ("receipts", "verify", str(receipt), "--request", str(request), "--salt")
    assert grid.authority.cli(*prove, shown["salt"])["request"]
    with pytest.raises(NodeFailedError):
        grid.authority.cli(*prove, "00" * 16)
    kept = grid.asker.cli("receipts", "verify", segment["receipt"], "--request", str(request))
    assert kept == {"ok": True, "code": "", "request": True, "prefix": True}
    request.write_text(json.dumps({**BODY, "max_tokens": 6}))
    with pytest.raises(NodeFailedError):
        grid.asker.cli("receipts", "verify", segment["receipt"], "--request", str(request))


def test_a_receipt_survives_kill_9_and_holds_no_prompt(grid, segment):
    grid.asker.kill9()
    grid.asker.restart()
    assert grid.asker.cli("receipts", "show", segment["receipt"])["verified"]["ok"]
    for node in (grid.asker, grid.holder):
        for path in node.data_dir.rglob("*"):
            if path.is_file():
                assert CANARY.encode() not in path.read_bytes(), path.name
