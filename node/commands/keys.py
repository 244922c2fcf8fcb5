"""The methods behind `aigrid key`: who may call the gateway of this node."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import msgspec

from aigrid.metagraph.capabilities import known
from aigrid.node.app import Node
from aigrid.node.commands.finding import unknown_capability
from aigrid.node.control import Emit
from aigrid.node.policy.api_keys import Actor
from aigrid.node.policy.limits import ActorLimits
from aigrid.protocol.errors import UsageError
from aigrid.protocol.model import MODEL_URN
from aigrid.protocol.timestamp import format_ms

Method = Callable[[Any, Emit], Awaitable[dict[str, Any]]]


class NewKey(msgspec.Struct, forbid_unknown_fields=True):
    """An actor to be; with a `did` it signs its requests, without one it gets a bearer key.

    `expires_seconds` counts from now; 0 is never.
    """

    name: str
    did: str = ""
    expires_seconds: int = 0
    limits: ActorLimits = ActorLimits()


class KeyId(msgspec.Struct, forbid_unknown_fields=True):
    """The id of an actor, or its name."""

    id: str


class AllKeys(msgspec.Struct, forbid_unknown_fields=True):
    """No parameters."""


def key_methods(node: Node) -> dict[str, tuple[type[msgspec.Struct], Method]]:
    """The methods by name, each with its parameters."""
    return {
        "key_create": (NewKey, partial(_create, node)),
        "key_list": (AllKeys, partial(_list, node)),
        "key_revoke": (KeyId, partial(_revoke, node)),
    }


async def _create(node: Node, params: NewKey, _: Emit) -> dict[str, Any]:
    """The key is in this answer and nowhere else, ever."""
    now_ms = node.now_ms()
    unknown = [
        name
        for name in params.limits.capabilities
        if not known(name) and not node.graph.index.concepts.known(name, now_ms)
    ]
    if unknown:
        raise UsageError(unknown_capability(node.graph.index.concepts, unknown[0], now_ms))
    if params.expires_seconds < 0:
        raise UsageError("a key cannot have expired already")
    expires_ms = now_ms + params.expires_seconds * 1000 if params.expires_seconds else 0
    actor, key = node.policy.access.keys.create(
        params.name, params.limits, did=params.did, expires_ms=expires_ms, now_ms=now_ms
    )
    unknown_models = _unknown(node, params.limits.models)
    return {**_shown(node, actor), "key": key, "unknown_models": unknown_models}


def _unknown(node: Node, models: tuple[str, ...]) -> list[str]:
    """Names and ids of no model that is known here: it may come yet, or be a slip of the hand."""
    return [
        name
        for name in models
        if not node.graph.index.resolve(name.removeprefix(MODEL_URN), node.now_ms())
    ]


async def _list(node: Node, _: AllKeys, __: Emit) -> dict[str, Any]:
    return {"keys": [_shown(node, actor) for actor in node.policy.access.keys.all()]}


async def _revoke(node: Node, params: KeyId, _: Emit) -> dict[str, Any]:
    actor = node.policy.access.keys.revoke(params.id)
    return {"id": actor.id, "name": actor.name, "state": "revoked"}


def _shown(node: Node, actor: Actor) -> dict[str, Any]:
    return {
        "id": actor.id,
        "name": actor.name,
        "did": actor.did,
        "limits": msgspec.to_builtins(actor.limits),
        "created": format_ms(actor.created_ms),
        "expires": format_ms(actor.expires_ms) if actor.expires_ms else "",
        "state": "live" if actor.live(node.now_ms()) else "expired",
        "tokens_today": node.policy.access.meter.day_tokens(actor),
    }
