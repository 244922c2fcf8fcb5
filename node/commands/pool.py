"""What the pool is told and asked by command: pinning, and trying again what was quarantined."""

from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from aigrid.node.app import Node
from aigrid.node.control import Emit
from aigrid.node.mesh.routing.answer import the_one

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class OwnModel(msgspec.Struct, forbid_unknown_fields=True):
    """The name or id of a model on this node's disk."""

    model: str


def methods(
    node: Node,
) -> "dict[str, tuple[type[OwnModel], Callable[[Any, Emit], Awaitable[dict[str, Any]]]]]":
    """By the names of the control socket."""
    return {
        "models_pin": (OwnModel, partial(_pin, node)),
        "models_unpin": (OwnModel, partial(_unpin, node)),
        "models_retry": (OwnModel, partial(_retry, node)),
    }


async def _pin(node: Node, params: OwnModel, _: Emit) -> dict[str, Any]:
    """Keep a model loaded. It is loaded in the background; `models` says how that goes.

    Raises as `Pins.check` and `Pins.pin`.
    """
    model = own_model(node, params.model)
    await node.pins.check(model)
    node.pins.pin(model)
    return {"model": model, "pinned": True}


async def _unpin(node: Node, params: OwnModel, _: Emit) -> dict[str, Any]:
    model = own_model(node, params.model)
    node.pins.unpin(model)
    return {"model": model, "pinned": False}


async def _retry(node: Node, params: OwnModel, _: Emit) -> dict[str, Any]:
    """Offer a model again that was quarantined."""
    model = own_model(node, params.model)
    node.pool.forgive(model)
    return {"model": model, "problem": node.pool.problem(model)}


def own_model(node: Node, said: str) -> str:
    """The id of a model here. Raises InvalidRequestError: `model_not_found`, `ambiguous_model`."""
    found = [m for m in node.models.list() if said in (m, node.hosting.name(m))]
    return the_one(said, found, unknown=f"this node does not hold {said[:256]!r}")
