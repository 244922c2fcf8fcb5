"""What is made to be copied is whole and on one line, however narrow the terminal is."""

from typing import Any

import pytest
from tests.node.cli.conftest import Cli, ScriptedNode

DID, PEER_ID = "did:key:z6Mk" + "d" * 44, "12D3KooW" + "p" * 44
ID = "bagaaiera" + "i" * 52
RECEIPT: dict[str, Any] = {
    "id": ID,
    "role": "asked",
    "state": "receipted",
    "kept": "2026-11-28T15:00:00.000Z",
    "actor": DID,
    "peer": PEER_ID,
    "model": "bafkrei" + "m" * 52,
    "prompt_tokens": 1,
    "completion_tokens": 2,
    "seconds": 0.5,
}
KEY = {"id": "key-1", "name": "bob", "did": DID, "state": "active", "expires": "", "limits": {}}
OFFER = {"name": "parrot", "state": "warm", "node": PEER_ID, "signer": DID}
CALLS: list[tuple[list[str], str, dict[str, Any], list[str]]] = [
    (
        ["receipts"],
        "receipts",
        {"receipts": [RECEIPT], "more": False},
        [ID, DID, PEER_ID, RECEIPT["model"]],
    ),
    (
        ["peers"],
        "peers",
        {"peers": [{"peer_id": PEER_ID, "did": DID, "alive": True}]},
        [PEER_ID, DID],
    ),
    (
        ["models", "--long"],
        "models",
        {"models": [{"name": "parrot", "model": ID, "warm": [PEER_ID], "policy": []}]},
        [ID, PEER_ID],
    ),
    (
        ["models"],
        "models",
        {"models": [{"name": "", "model": ID}, {"name": "n" * 90, "model": ID}]},
        [ID, "n" * 90],
    ),
    (
        ["models"],
        "models",
        {"models": [{"name": "twin", "model": ID}, {"name": "twin", "model": ID[::-1]}]},
        [ID, ID[::-1]],
    ),
    (
        ["models", "show", "x"],
        "models_show",
        {"model": {"name": "twin", "model": ID, "warm": [PEER_ID]}, "peer_id": PEER_ID},
        [ID, PEER_ID],
    ),
    (["status"], "status", {"did": DID, "listen": [f"/p2p/{PEER_ID}"]}, [DID, f"/p2p/{PEER_ID}"]),
    (["find", "x"], "find", {"candidates": [OFFER]}, [PEER_ID, DID]),
    (["key", "list"], "key_list", {"keys": [KEY]}, [DID]),
    (["requests"], "requests", {"requests": [{"id": "1", "code": "c", "did": DID}]}, [DID]),
    (
        ["grid", "delegates"],
        "delegates",
        {
            "delegates": [{"did": DID, "heard": "2026-11-28T15:00:00.000Z"}],
            "quorum": 1,
            "as_of": "",
        },
        [DID],
    ),
]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call[1])
def test_ids_are_whole(
    cli: Cli,
    node: ScriptedNode,
    monkeypatch: pytest.MonkeyPatch,
    call: tuple[list[str], str, dict[str, Any], list[str]],
) -> None:
    arguments, method, answer, whole = call
    monkeypatch.setenv("COLUMNS", "40")
    node.answers[method] = answer
    done = cli(*arguments)
    assert done.status == 0
    assert set(whole) <= set(done.out.split())
