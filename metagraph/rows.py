"""How a record is a row of the store's tables, and how it is read back."""

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec

from aigrid.metagraph.branches import branches_of, mask
from aigrid.protocol.errors import Code, UsageError
from aigrid.protocol.kinds import KINDS, Body, Kind, WithdrawnBody
from aigrid.protocol.record import Record
from aigrid.protocol.record_status import StatusEntry

FIELDS = "kind, issuer, subject, valid_from_ms, valid_until_ms, withdrawn, content_id, raw"
_COLUMNS = (
    "content_id",
    "sha256",
    "issuer",
    "kind",
    "subject",
    "valid_from_ms",
    "valid_until_ms",
    "withdrawn",
    "account",
    "received_ms",
    "received_from",
    "raw",
    "branches",
)
OF_KEY = "issuer = ? AND kind = ? AND subject = ?"


def _upsert(table: str, columns: Sequence[str]) -> str:
    """Puts a row in place of that of its key. REPLACE would delete it unseen by what counts."""
    marks = ", ".join("?" * len(columns))
    changes = ", ".join(f"{column} = excluded.{column}" for column in columns)
    return (
        f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks}) "  # noqa: S608 - constants
        f"ON CONFLICT (issuer, kind, subject) DO UPDATE SET {changes}"
    )


INSERT = _upsert("records", _COLUMNS)
REMEMBER = _upsert(
    "remembered",
    ("issuer", "kind", "subject", "valid_from_ms", "content_id", "account", "until_ms"),
)


class _Status(msgspec.Struct):
    index: str = msgspec.field(name="statusListIndex")
    max_age_seconds: int = msgspec.field(name="maxStatusAge")


class _Envelope(msgspec.Struct):
    credential_subject: msgspec.Raw = msgspec.field(name="credentialSubject")
    status: _Status | None = msgspec.field(name="credentialStatus", default=None)


_envelope = msgspec.json.Decoder(_Envelope)
_withdrawn = msgspec.json.Decoder(WithdrawnBody)
_bodies: dict[Kind, msgspec.json.Decoder[Any]] = {
    kind: msgspec.json.Decoder(rule.body) for kind, rule in KINDS.items()
}


def row_of(
    record: Record, now_ms: int, received_from: str | None, account: str | None
) -> tuple[Any, ...]:
    """What `INSERT` takes."""
    return (
        record.content_id,
        hashlib.sha256(record.raw).digest(),
        *record.key,
        record.valid_from_ms,
        record.valid_until_ms,
        record.withdrawn,
        account,
        now_ms,
        received_from,
        record.raw,
        mask(branches_of(record.body)),
    )


def record_of(row: tuple[Any, ...]) -> Record:
    """Rebuild a record. It was verified before it was written, so only its body is decoded."""
    kind_text, issuer, subject, valid_from_ms, valid_until_ms, withdrawn, content_id, raw = row[:8]
    try:
        kind = Kind(kind_text)
        decoder = _withdrawn if withdrawn else _bodies[kind]
        envelope = _envelope.decode(raw)
        body: Body = decoder.decode(envelope.credential_subject)
        found = envelope.status
        status = None
        if found is not None:
            owner = getattr(body, "grid", issuer)
            status = StatusEntry(owner, int(found.index), found.max_age_seconds)
    except (msgspec.DecodeError, ValueError) as error:
        raise UsageError(
            "The data directory cannot be used: a stored record is damaged.",
            Code.DATA_DIRECTORY_UNUSABLE,
        ) from error
    return Record(
        kind, issuer, subject, valid_from_ms, valid_until_ms, body, content_id, raw, status
    )
