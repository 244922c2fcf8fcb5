"""`record show`: a record, whether it holds now, and where it came from."""

from typing import Any

import msgspec

from aigrid.metagraph.graph import Metagraph
from aigrid.protocol.errors import Code, InvalidRequestError, VerificationError
from aigrid.protocol.record import Record, verify_form_and_signature
from aigrid.protocol.timestamp import format_ms


def describe(graph: Metagraph, content_id: str, *, now_ms: int) -> dict[str, Any]:
    """A stored record, its form and signature verified anew, and what this node makes of it.

    `verified` is `{"ok", "code", "message"}`. `state` is `believed`, `withdrawn` (a withdrawal that
    is believed: it takes back what was said under the key) or the code of what is against it:
    `expired`, `from_future`, `not_member`, or that of a failed check. `received_from` is a PeerId;
    None for a record signed or imported here.

    Raises:
        InvalidRequestError: `superseded`, where that is remembered, else `not_found`: of each key
            only the newest record is held.
    """
    stored = graph.store.get(content_id)
    if stored is None:
        raise _not_held(graph, content_id)
    record = stored.record
    against = _signature_problem(record.raw, content_id)
    verified = {
        "ok": against is None,
        "code": against.code.value if against else "",
        "message": against.message if against else "",
    }
    against = against or _standing_problem(graph, record, now_ms)
    return {
        "record": msgspec.json.decode(record.raw),
        "id": content_id,
        "signer": record.issuer,
        "verified": verified,
        "state": against.code.value if against else "withdrawn" if record.withdrawn else "believed",
        "because": against.message if against else _because(graph, record, now_ms),
        "valid_from": format_ms(record.valid_from_ms),
        "valid_until": format_ms(record.valid_until_ms),
        "received_from": stored.received_from,
        "received": format_ms(stored.received_ms),
    }


def _not_held(graph: Metagraph, content_id: str) -> InvalidRequestError:
    newer = graph.store.successor(content_id)
    if newer is not None:
        return InvalidRequestError(
            f"that record was superseded by a newer one of its key: `aigrid record show {newer}`",
            Code.SUPERSEDED,
        )
    return InvalidRequestError(
        f"no record {content_id[:64]} is held here: it never came, has expired, or was superseded "
        "long ago; `aigrid query` finds those that are believed",
        Code.NOT_FOUND,
    )


def _signature_problem(raw: bytes, content_id: str) -> VerificationError | None:
    try:
        record = verify_form_and_signature(raw)
    except VerificationError as error:
        return error
    if record.content_id != content_id:
        return VerificationError("these are not the bytes of this content id", Code.HASH_MISMATCH)
    return None


def _standing_problem(graph: Metagraph, record: Record, now_ms: int) -> VerificationError | None:
    try:
        graph.check_believed(record, now_ms)
    except VerificationError as error:
        return error
    return None


def _because(graph: Metagraph, record: Record, now_ms: int) -> str:
    """Why its issuer is believed."""
    if record.issuer == graph.own_did:
        return "this node signed it"
    if record.issuer == graph.grid:
        return "the grid's authority signed it"
    membership = graph.membership_of(record.issuer, now_ms)
    if membership is None:
        return "the grid is open to strangers"
    return f"its issuer is a member until {format_ms(membership.valid_until_ms)}"
