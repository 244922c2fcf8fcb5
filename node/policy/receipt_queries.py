"""Looking at the receipts that are kept: lists, sums, and one of them with everything.

All rows may have to be looked at, so each function takes them in portions and lets others run
between.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import trio

from aigrid.metagraph.database import Database
from aigrid.node.policy.receipt_rows import FIELDS, Role, Row, State
from aigrid.protocol.errors import Code, InvalidRequestError, VerificationError
from aigrid.protocol.record import verify_form_and_signature

_ENDING = re.compile(r"[a-z0-9]{8,64}")
_PORTION = 512  # some milliseconds
_FILTERS = {
    "role": "role = ?",
    "state": "state = ?",
    "actor": "actor = ?",
    "model": "model = ?",
    "peer": "peer = ?",
    "since_ms": "kept_ms >= ?",
}
By = Literal["actor", "model", "peer"]


@dataclass(frozen=True, slots=True)
class Filters:
    """Which segments; "" and 0 keep all. `peer` is a DID, `model` a model id."""

    role: str = ""
    state: str = ""
    actor: str = ""
    model: str = ""
    peer: str = ""
    since_ms: int = 0


@dataclass(slots=True)
class Total:
    """Sums over segments. A request that took several segments counts once.

    `unreceipted` and `disputed` are how many of the segments are; their tokens are as counted here.
    """

    value: str
    role: str
    segments: int = 0
    unreceipted: int = 0
    disputed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    took_ms: int = 0
    requests: set[tuple[str, str]] = field(default_factory=set)


async def newest(database: Database, filters: Filters, *, limit: int) -> tuple[list[Row], bool]:
    """At most `limit` segments, newest first, and whether there are more."""
    found: list[Row] = []
    for portion in _portions(database, filters, FIELDS):
        found += [Row(**dict(zip(Row.__struct_fields__, row, strict=True))) for row in portion]
        if len(found) > limit:
            return found[:limit], True
        await trio.lowlevel.checkpoint()
    return found, False


async def totals(database: Database, filters: Filters, by: By) -> list[Total]:
    """Sums for each value of `by` and each role, those with most tokens first."""
    sums: dict[tuple[str, str], Total] = {}
    fields = (
        f"{by}, role, state, peer, request_id, prompt_tokens, completion_tokens, "
        "ended_ms - began_ms"
    )
    for portion in _portions(database, filters, fields):
        for value, role, state, peer, request_id, prompt, completion, took_ms in portion:
            total = sums.get((value, role))
            if total is None:
                total = sums[value, role] = Total(value, role)
            total.segments += 1
            total.unreceipted += state == State.UNRECEIPTED.value
            total.disputed += state == State.DISPUTED.value
            total.prompt_tokens += prompt
            total.completion_tokens += completion
            total.took_ms += took_ms
            total.requests.add((peer if role == Role.SERVED.value else "", request_id))
        await trio.lowlevel.checkpoint()

    def order(total: Total) -> tuple[int, int, str, str]:
        tokens = total.prompt_tokens + total.completion_tokens
        return (-tokens, -total.segments, total.value, total.role)

    return sorted(sums.values(), key=order)


def one(database: Database, receipt_id: str) -> Row:
    """The segment with this id, or the only one whose id ends so.

    Where this node was both of its ends, it is the one that asked.

    Raises:
        InvalidRequestError: `not_found`; `invalid_request` where several ids end so.
    """
    found = _with_id(database, receipt_id, "id = ?", receipt_id)
    if not found and _ENDING.fullmatch(receipt_id):
        found = _with_id(database, receipt_id, "id LIKE ?", f"%{receipt_id}")
    if not found:
        raise InvalidRequestError(
            f"no receipt {receipt_id[:64]} is kept here: it never came, or was dropped for newer "
            "ones; `aigrid receipts` lists them",
            Code.NOT_FOUND,
        )
    return found[0]


def _with_id(database: Database, receipt_id: str, where: str, value: str) -> list[Row]:
    rows = database.rows(
        f"SELECT {FIELDS} FROM receipts WHERE {where} "  # noqa: S608 - from this file
        "ORDER BY role, number DESC LIMIT 4",
        (value,),
    )
    found = [Row(**dict(zip(Row.__struct_fields__, row, strict=True))) for row in rows]
    if len({row.id for row in found}) > 1:
        raise InvalidRequestError(f"several receipts end in {receipt_id[:64]}: give more of it")
    return found


def problem_of(row: Row) -> VerificationError | None:
    """What is wrong with a segment's receipt; one that held is verified anew, except for time."""
    if row.raw is None or row.state != State.RECEIPTED.value:
        return VerificationError(row.because or "it does not hold", Code(row.code))
    try:
        record = verify_form_and_signature(row.raw)
    except VerificationError as error:
        return error
    if record.content_id != row.id:
        return VerificationError("these are not the bytes of this content id", Code.HASH_MISMATCH)
    return None


def _portions(database: Database, filters: Filters, fields: str) -> Iterator[list[Any]]:
    """What the filters keep, newest first."""
    chosen = {name: getattr(filters, name) for name in _FILTERS if getattr(filters, name)}
    where = "".join(f" AND {_FILTERS[name]}" for name in chosen)
    first, last = database.row("SELECT MIN(number), MAX(number) FROM receipts")
    while last is not None and last >= first:
        rows = database.rows(
            f"SELECT {fields} FROM receipts "  # noqa: S608 - names of columns, from this file
            f"WHERE number > ? AND number <= ?{where} ORDER BY number DESC",
            (last - _PORTION, last, *chosen.values()),
        )
        yield list(rows)
        last -= _PORTION
