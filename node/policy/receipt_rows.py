"""What is kept of a segment, as a row of the table `receipts`."""

from enum import StrEnum

import msgspec


class Role(StrEnum):
    """Which end this node was."""

    SERVED = "served"
    ASKED = "asked"


class State(StrEnum):
    """What there is to show for a segment.

    A receipt that holds; none; or something that was sent as one and does not hold.
    """

    RECEIPTED = "receipted"
    UNRECEIPTED = "unreceipted"
    DISPUTED = "disputed"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A segment, at one of its ends.

    Attributes:
        id: content id of the receipt, or `local-` and a hash where none holds.
        code, because: what is wrong, or "".
        kept_ms, began_ms, ended_ms: wall time; the last two as the receipt says, or else as seen.
        actor: what this node calls whoever asked it, or the DID that presented to this node.
        peer: DID of the node at the other end.
        prompt_tokens, completion_tokens: as the receipt says, or else as counted here.
        salt: in the hashes.
        seen: JSON of `Seen` where no receipt holds.
        raw: the receipt, or what the serving node signed instead.
    """

    id: str
    role: str
    state: str
    code: str = ""
    because: str = ""
    kept_ms: int
    request_id: str
    actor: str
    peer: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    began_ms: int
    ended_ms: int
    salt: bytes
    seen: str | None = None
    raw: bytes | None = None


class Seen(msgspec.Struct, frozen=True, rename="camel"):
    """What the node that asked knows of a segment without a receipt; named as in a receipt."""

    manifest: str
    request_hash: str
    prefix_hash: str
    output_hash: str
    presentation: str
    credentials: tuple[str, ...]
    reason: str


FIELDS = ", ".join(Row.__struct_fields__)
INSERT = (
    f"INSERT INTO receipts ({FIELDS}) "  # noqa: S608 - constants
    f"VALUES ({', '.join('?' * len(Row.__struct_fields__))})"
)
