"""`aigrid key` over the control socket's methods, on a node in virtual time."""

import pytest
import trio
from tests.node.commands.test_commands import Console
from tests.node.commands.test_credentials import publish
from tests.simulation.harness import Simulation

from aigrid.protocol.errors import Code
from aigrid.protocol.identity import Identity

DID = Identity(b"\x44" * 32).did


@pytest.fixture
async def console(tmp_path):
    async with trio.open_nursery() as nursery:
        yield Console((await Simulation(11, tmp_path, nursery).start("a")).node)
        nursery.cancel_scope.cancel()


async def test_a_key_is_shown_once_and_listed_without_itself(console, autojump_clock):
    made = await console(
        "key_create",
        name="alice",
        expires_seconds=60,
        limits={"requests_per_minute": 5, "capabilities": ["feature-extraction"]},
    )
    assert made["key"].startswith("aigrid-")
    listed = await console("key_list")
    assert made["key"] not in str(listed)
    (shown,) = listed["keys"]
    made.pop("key")
    assert made.pop("unknown_models") == []
    assert shown == made
    assert shown["limits"] == {"requests_per_minute": 5, "capabilities": ("feature-extraction",)}
    assert shown["state"] == "live"
    await trio.sleep(61)
    assert (await console("key_list"))["keys"][0]["state"] == "expired"


async def test_a_model_that_nobody_knows_yet_may_be_named_and_is_said(console, autojump_clock):
    await publish(console, "parrot")
    limits = {"models": ["parrot", "parot"]}
    made = await console("key_create", name="alice", limits=limits)
    assert made["unknown_models"] == ["parot"]
    assert made["limits"] == {"models": ("parrot", "parot")}


async def test_a_did_is_listed_without_a_key(console, autojump_clock):
    made = await console("key_create", name="bob", did=DID)
    assert (made["key"], made["did"]) == ("", DID)
    assert await console.refused("key_create", name="more", did=DID) is Code.USAGE


async def test_revoked_by_id_or_name(console, autojump_clock):
    first = await console("key_create", name="alice")
    await console("key_create", name="bob")
    assert (await console("key_revoke", id=first["id"]))["name"] == "alice"
    assert (await console("key_revoke", id="bob"))["state"] == "revoked"
    assert (await console("key_list"))["keys"] == []
    assert await console.refused("key_revoke", id="bob") is Code.NOT_FOUND


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "a b"},
        {"name": "a", "expires_seconds": -1},
        {"name": "a", "limits": {"requests_per_minute": -1}},
        {"name": "a", "limits": {"surprise": 1}},
        {"name": "a", "limits": {"models": [""]}},
        {"name": "a", "limits": {"capabilities": ["no-such-capability"]}},
    ],
)
async def test_what_cannot_be_is_usage(console, wrong, autojump_clock):
    assert await console.refused("key_create", **wrong) is Code.USAGE
