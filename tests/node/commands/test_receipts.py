"""`aigrid receipts` as the control socket serves it, and the proof that a receipt gives."""

import json
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from tests.node.policy.receipt_world import (
    ASKER,
    MODEL,
    NOW,
    REQUEST,
    SALT,
    SERVER,
    expected,
    receipt,
    receipts,
)

from aigrid.node.commands.commands import NodeCommands
from aigrid.node.mesh.routing.answer import the_one
from aigrid.node.policy.receipt_checks import Expected
from aigrid.node.policy.receipts import Receipts
from aigrid.protocol.errors import AigridError, Code, InvalidRequestError, UsageError
from aigrid.protocol.inference import TextRequest
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.receipt import prefix_hash, request_hash

CHAT = json.dumps({"model": "m", "messages": [{"role": "user", "content": "canary-prompt"}]})


async def ignore(_event: dict[str, Any]) -> None:
    pass


class Console:
    """The commands of a node that keeps `kept`."""

    def __init__(self, kept: Receipts) -> None:
        router = SimpleNamespace(
            resolve=lambda name: the_one(name, {MODEL} if name == "m" else (), unknown="no")
        )
        policy = SimpleNamespace(receipts=kept)
        node: Any = SimpleNamespace(policy=policy, router=router, now_ms=lambda: NOW)
        self._commands = NodeCommands(node)

    async def __call__(self, method: str, **params: Any) -> dict[str, Any]:
        return await self._commands.call(method, params, ignore)


@pytest.fixture
def kept() -> Receipts:
    return receipts()


@pytest.fixture
def console(kept: Receipts) -> Console:
    return Console(kept)


async def test_what_is_listed_says_nothing_that_tests_a_guess(kept: Receipts, console: Console):
    record = receipt()
    kept.received(record.raw, expected())
    answer = await console("receipts")
    assert answer == {
        "receipts": [
            {
                "id": record.content_id,
                "role": "asked",
                "state": "receipted",
                "code": "",
                "kept": "2026-09-21T14:13:20.000Z",
                "request_id": "request-1",
                "actor": "alice",
                "peer": SERVER.peer_id,
                "did": SERVER.did,
                "model": MODEL,
                "prompt_tokens": 7,
                "completion_tokens": 3,
                "seconds": 3.98,
            }
        ],
        "more": False,
    }
    shown = await console("receipt_show", id=record.content_id)
    assert SALT.hex() not in json.dumps([answer, shown])


async def test_a_list_is_filtered(kept: Receipts, console: Console):
    kept.received(receipt().raw, expected())
    kept.unreceipted(expected(actor="bob"))
    kept.served(receipt(), SALT, peer=SERVER.did)

    async def count(**filters: Any) -> int:
        return len((await console("receipts", **filters))["receipts"])

    assert await count() == 3
    assert await count(role="asked") == 2
    assert await count(state="unreceipted") == 1
    assert await count(actor=ASKER.did) == 1
    assert await count(model="m") == await count(model=MODEL) == 3
    assert await count(model=f"urn:aigrid:model:{MODEL}") == 3
    assert await count(peer=SERVER.peer_id) == await count(peer=SERVER.did) == 3
    assert await count(peer=ASKER.peer_id) == 0
    assert await count(since_seconds=60) == 3
    assert (await console("receipts", limit=1))["more"]


@pytest.mark.parametrize(
    "params",
    [
        {"limit": 0},
        {"limit": LIMITS.receipts_shown_max + 1},
        {"peer": "nobody"},
        {"role": "both"},
        {"state": "x"},
        {"since_seconds": "1d"},
    ],
)
async def test_a_filter_that_is_none_is_usage(console: Console, params: dict[str, Any]):
    with pytest.raises(UsageError):
        await console("receipts", **params)


async def test_a_model_that_is_unknown_is_said_to_be(console: Console):
    with pytest.raises(InvalidRequestError):
        await console("receipts", model="nothing")


async def test_sums(kept: Receipts, console: Console):
    kept.received(receipt().raw, expected())
    kept.unreceipted(expected(completion_tokens=1))
    kept.served(receipt(), SALT, peer=SERVER.did)
    answer = await console("receipt_totals", by="peer")
    both = {"peer": SERVER.peer_id, "requests": 1, "disputed": 0}
    assert answer == {
        "by": "peer",
        "totals": [
            {
                **both,
                "role": "asked",
                "segments": 2,
                "unreceipted": 1,
                "prompt_tokens": 14,
                "completion_tokens": 4,
                "seconds": 7.98,
            },
            {
                **both,
                "role": "served",
                "segments": 1,
                "unreceipted": 0,
                "prompt_tokens": 7,
                "completion_tokens": 3,
                "seconds": 3.98,
            },
        ],
        "more": False,
    }
    assert [t["actor"] for t in (await console("receipt_totals", by="actor"))["totals"]] == [
        "alice",
        ASKER.did,
    ]
    assert (await console("receipt_totals", by="model", limit=1))["more"]
    with pytest.raises(UsageError):
        await console("receipt_totals", by="salt")


async def test_one_is_shown_with_everything(kept: Receipts, console: Console):
    record = receipt()
    kept.received(record.raw, expected())
    shown = await console("receipt_show", id=record.content_id, salt=True)
    assert shown["record"] == json.loads(record.raw)
    assert shown["verified"] == {"ok": True, "code": "", "message": ""}
    assert (shown["salt"], shown["seen"]) == (SALT.hex(), None)
    local = kept.unreceipted(expected(), Code.CONNECTION_LOST)
    shown = await console("receipt_show", id=local)
    assert (shown["record"], shown["seen"]["requestHash"]) == (None, expected().request_hash)
    assert (shown["verified"]["ok"], shown["verified"]["code"]) == (False, "connection_lost")
    disputed = kept.received(receipt(completion_tokens=4).raw, expected())
    shown = await console("receipt_show", id=disputed)
    assert shown["record"]["credentialSubject"]["completionTokens"] == 4
    assert shown["completion_tokens"] == 3
    assert "more tokens than came" in shown["verified"]["message"]
    with pytest.raises(AigridError) as caught:
        await console("receipt_show", id="local-none")
    assert caught.value.code is Code.NOT_FOUND


def continued() -> Expected:
    request = msgspec.structs.replace(REQUEST, continued_ids=(1, 2))
    return expected(
        request_hash=request_hash(SALT, request), prefix_hash=prefix_hash(SALT, request)
    )


async def test_a_receipt_proves_what_was_asked(kept: Receipts, console: Console):
    said = kept.received(receipt().raw, expected())
    good = {"ok": True, "code": "", "request": True, "prefix": True}
    assert await console("receipt_prove", id=said, request=CHAT) == good
    wire = msgspec.json.encode(REQUEST).decode()
    assert await console("receipt_prove", id=said, request=wire) == good
    other = msgspec.json.encode(TextRequest(prompt="canary-prompt")).decode()
    assert not (await console("receipt_prove", id=said, request=other))["request"]
    later = kept.unreceipted(continued())
    assert await console("receipt_prove", id=later, request=CHAT) == {
        "ok": False,
        "code": "unreceipted",
        "request": True,
        "prefix": False,
    }


@pytest.mark.parametrize("request_", ["", "[]", '{"type": "x"}', '{"type": 7}', "{", "[" * 9999])
async def test_what_is_no_request_proves_nothing(kept: Receipts, console: Console, request_: str):
    said = kept.received(receipt().raw, expected())
    with pytest.raises(InvalidRequestError):
        await console("receipt_prove", id=said, request=request_)
