"""The method behind `aigrid experience`: how requests to others went, and telling it."""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import msgspec

from aigrid.node.app import Node
from aigrid.node.control import Emit
from aigrid.protocol.errors import Code, LocalError

Method = Callable[[Any, Emit], Awaitable[dict[str, Any]]]


class Experience(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`tell`: sign it as AuditRecords, which everybody can read."""

    tell: bool = False


async def experience(node: Node, params: Experience, _: Emit) -> dict[str, Any]:
    """What is remembered, of the node that was asked last first; counts fade.

    `untold`: of how many nodes nothing is told, because this one tells of as many as it may.

    Raises:
        AigridError: a record cannot be issued now.
    """
    learning, now_ms = node.learning, node.now_ms()
    found: list[dict[str, Any]] = []
    records: list[str] = []
    already, untold = learning.told(), 0
    for peer_id in reversed(learning.ledger.peers()):
        findings = learning.ledger.findings(peer_id, now_ms)
        standing = round(learning.ledger.standing(peer_id, now_ms), 1)
        found += [
            {"node": peer_id, "standing": standing, **msgspec.to_builtins(one)} for one in findings
        ]
        if not params.tell:
            continue
        try:
            told = learning.tell(peer_id, already)
        except LocalError as error:
            if error.code is not Code.OVER_QUOTA:
                raise
            untold += 1
        else:
            records += [] if told is None else [told.content_id]
    return {"experience": found, "told": records, "untold": untold}


def experience_methods(node: Node) -> Mapping[str, tuple[type[msgspec.Struct], Method]]:
    """By name, for the control socket."""
    return {"experience": (Experience, partial(experience, node))}
