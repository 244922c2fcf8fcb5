"""The methods behind `aigrid receipts`: what was served and asked, and what there is to show."""

from functools import partial
from typing import Any, Literal

import msgspec

from aigrid.node.app import Node
from aigrid.node.commands.credential_terms import check_did
from aigrid.node.control import Emit
from aigrid.node.policy import receipt_queries as queries
from aigrid.node.policy.receipt_proof import kept_hashes, proved, requests_in
from aigrid.node.policy.receipt_rows import Row
from aigrid.node.policy.receipts import did_of
from aigrid.protocol.canonical import is_content_id
from aigrid.protocol.errors import AigridError, UsageError
from aigrid.protocol.identity import peer_id_of_did
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.model import MODEL_URN
from aigrid.protocol.timestamp import format_ms


class Asked(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Which segments.

    Attributes:
        model: a name or an id.
        peer: a DID or a PeerId.
        since_seconds: kept within so many seconds from now; 0 for all.
        limit: at most so many segments or sums, newest or greatest first.
    """

    role: Literal["", "served", "asked"] = ""
    state: Literal["", "receipted", "unreceipted", "disputed"] = ""
    actor: str = ""
    model: str = ""
    peer: str = ""
    since_seconds: int = 0
    limit: int = 50


class Summed(Asked, kw_only=True):
    """The same, and what to sum by."""

    by: queries.By


class Shown(msgspec.Struct, forbid_unknown_fields=True):
    """One receipt, and whether to give its salt."""

    id: str
    salt: bool = False


class Proof(msgspec.Struct, forbid_unknown_fields=True):
    """A receipt, and a request in JSON that it may be of."""

    id: str
    request: str


def methods(node: Node) -> dict[str, tuple[type[msgspec.Struct], Any]]:
    """Name of each method, its parameters and what runs it."""
    return {
        "receipts": (Asked, partial(listed, node)),
        "receipt_totals": (Summed, partial(summed, node)),
        "receipt_show": (Shown, partial(shown, node)),
        "receipt_prove": (Proof, partial(prove, node)),
    }


async def listed(node: Node, params: Asked, _: Emit) -> dict[str, Any]:
    """The newest segments; `more` says that there are older ones."""
    rows, more = await queries.newest(
        node.policy.receipts.database, _filters(node, params), limit=_limit(params)
    )
    return {"receipts": [_brief(row) for row in rows], "more": more}


async def summed(node: Node, params: Summed, _: Emit) -> dict[str, Any]:
    """Sums for each actor, model or peer, and each end that this node was."""
    sums = await queries.totals(node.policy.receipts.database, _filters(node, params), params.by)
    limit = _limit(params)
    return {
        "by": params.by,
        "totals": [_total(total, params.by) for total in sums[:limit]],
        "more": len(sums) > limit,
    }


async def shown(node: Node, params: Shown, _: Emit) -> dict[str, Any]:
    """Everything about one segment."""
    row = queries.one(node.policy.receipts.database, params.id)
    problem = queries.problem_of(row)
    return {
        **_brief(row),
        "began": format_ms(row.began_ms),
        "ended": format_ms(row.ended_ms),
        "because": row.because,
        "record": None if row.raw is None else msgspec.json.decode(row.raw),
        "seen": None if row.seen is None else msgspec.json.decode(row.seen),
        "verified": {
            "ok": problem is None,
            "code": "" if problem is None else problem.code.value,
            "message": "" if problem is None else problem.message,
        },
        **({"salt": row.salt.hex()} if params.salt else {}),
    }


async def prove(node: Node, params: Proof, _: Emit) -> dict[str, Any]:
    """Whether a receipt is of a request; the salt does not leave the node for that."""
    row = queries.one(node.policy.receipts.database, params.id)
    problem = queries.problem_of(row)
    requests = requests_in(params.request.encode("utf-8", "replace"))
    found = proved(kept_hashes(row), row.salt, *requests)
    return {"ok": problem is None, "code": problem.code.value if problem else "", **found}


def _limit(params: Asked) -> int:
    if not 1 <= params.limit <= LIMITS.receipts_shown_max:
        raise UsageError(f"the limit is a number from 1 to {LIMITS.receipts_shown_max}")
    return params.limit


def _filters(node: Node, params: Asked) -> queries.Filters:
    model = params.model.removeprefix(MODEL_URN)
    if model and not is_content_id(model):
        model = node.router.resolve(model)
    try:
        peer = did_of(params.peer) if params.peer else ""
    except AigridError:
        raise UsageError("the peer is neither a DID nor a PeerId: see `aigrid peers`") from None
    if peer:
        check_did(peer)
    since_ms = node.now_ms() - params.since_seconds * 1000 if params.since_seconds else 0
    return queries.Filters(params.role, params.state, params.actor, model, peer, max(0, since_ms))


def _brief(row: Row) -> dict[str, Any]:
    return {
        "id": row.id,
        "role": row.role,
        "state": row.state,
        "code": row.code,
        "kept": format_ms(row.kept_ms),
        "request_id": row.request_id,
        "actor": row.actor,
        "peer": peer_id_of_did(row.peer),
        "did": row.peer,
        "model": row.model,
        "prompt_tokens": row.prompt_tokens,
        "completion_tokens": row.completion_tokens,
        "seconds": (row.ended_ms - row.began_ms) / 1000,
    }


def _total(total: queries.Total, by: str) -> dict[str, Any]:
    return {
        by: peer_id_of_did(total.value) if by == "peer" else total.value,
        "role": total.role,
        "requests": len(total.requests),
        "segments": total.segments,
        "unreceipted": total.unreceipted,
        "disputed": total.disputed,
        "prompt_tokens": total.prompt_tokens,
        "completion_tokens": total.completion_tokens,
        "seconds": total.took_ms / 1000,
    }
