"""How this node is, or all members are: the body of `aigrid top`."""

from typing import Any, Final

import msgspec
import trio

from aigrid.node.app import Node
from aigrid.node.control import Emit
from aigrid.node.discovery.vitals import Heard
from aigrid.protocol.codes import Code
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.vitals import Vitals

_STATES: Final = {Code.DENIED: "private", Code.PROTOCOL_VIOLATION: "unclear"}


class Top(msgspec.Struct, forbid_unknown_fields=True):
    """Whether all members are asked, or only this node."""

    grid: bool = False


async def top(node: Node, params: Top, _: Emit) -> dict[str, Any]:
    """One row for each node, this one first, then the busiest.

    `members` counts this node; `not_connected` of them are neither asked nor shown. `asked_max`:
    no more are asked at once, so in a larger grid figures are older.
    """
    own = node.identity.peer_id
    rows = [row(own, node.vitals.own(), state="fresh", age_seconds=0.0)]
    members = node.transport.members | {own}
    body = {"grid": node.grid.did, "peer_id": own, "whole": params.grid, "members": len(members)}
    if params.grid:
        heard = await node.vitals.gather()
        now = trio.current_time()
        rows += sorted((_heard_row(peer, one, now) for peer, one in heard.items()), key=_place)
    return {
        **body,
        "not_connected": len(members) - len(rows) if params.grid else 0,
        "asked_max": LIMITS.vitals_asked_max,
        "nodes": rows,
    }


def row(
    peer_id: str, vitals: Vitals | None, *, state: str, age_seconds: float | None
) -> dict[str, Any]:
    """A node as it said itself to be.

    `state`: fresh; stale, where the figures are `age_seconds` old; private; silent; or
    unclear. `vitals` is None where there are no figures.
    """
    told = None if vitals is None else _figures(vitals)
    age = None if age_seconds is None else round(age_seconds, 1)
    return {"peer_id": peer_id, "state": state, "age_seconds": age, "vitals": told}


def _heard_row(peer_id: str, heard: Heard, now: float) -> dict[str, Any]:
    if heard.vitals is None:
        state = _STATES.get(heard.code, "silent") if heard.code else "silent"
        return row(peer_id, None, state=state, age_seconds=None)
    age = now - heard.heard_seconds
    late = heard.code not in (None, Code.RATE_LIMITED) or age >= LIMITS.vitals_stale_seconds
    return row(peer_id, heard.vitals, state="stale" if late else "fresh", age_seconds=age)


def _place(one: dict[str, Any]) -> tuple[Any, ...]:
    """Where a row belongs: who is busy on top, who says nothing below."""
    told = one["vitals"]
    if told is None:
        return (2, 0, 0, "", one["peer_id"])
    busy = told["prompt_per_second"] + told["completion_per_second"]
    stale = int(one["state"] != "fresh")
    return (stale, -told["running"], -busy, told["name"], one["peer_id"])


def _figures(vitals: Vitals) -> dict[str, Any]:
    seconds = max(vitals.window_ms, 1000) / 1000
    told = msgspec.to_builtins(vitals)
    for left_out in ("type", "version", "window_ms", "prompt_tokens", "completion_tokens"):
        told.pop(left_out, None)
    return {
        **told,
        "models": list(vitals.models),
        "prompt_per_second": round(vitals.prompt_tokens / seconds, 2),
        "completion_per_second": round(vitals.completion_tokens / seconds, 2),
        "memory": {
            place: {"used_bytes": used, "budget_bytes": budget}
            for place, (used, budget) in vitals.memory.items()
        },
    }
