"""Receipts, kept by both ends: of what this node served, and of what it asked others for.

A segment that this node asked for is `receipted` (the serving node's receipt says what happened),
`disputed` (what it sent as one does not) or `unreceipted` (it sent none, or died). Kept are hashes,
counts, times and the salt, never a text.
"""

import hashlib

import msgspec
import structlog

from aigrid.metagraph.database import Database
from aigrid.node.discovery.grid import NowMs
from aigrid.node.policy.receipt_checks import Expected, check_received
from aigrid.node.policy.receipt_rows import INSERT, Role, Row, Seen, State
from aigrid.protocol.canonical import is_content_id
from aigrid.protocol.errors import AigridError, Code, VerificationError
from aigrid.protocol.identity import did_of_peer_id
from aigrid.protocol.kinds import Kind
from aigrid.protocol.limits import LIMITS, Limits
from aigrid.protocol.receipt import ReceiptBody
from aigrid.protocol.record import Record, verify_form_and_signature
from aigrid.protocol.timestamp import parse_ms

log = structlog.get_logger()
_PRUNE_EVERY = 256  # receipts; the bounds may be exceeded by so many
_PRUNE_MAX = 1024  # go at once because of their age
_OURS = (Code.RECEIPT_MISMATCH, Code.UNRECEIPTED)


class Receipts:
    """Writes receipts; `receipt_queries` reads them.

    Each method is one insert, committed when it returns, and returns the receipt's id: its content
    id where there is a receipt that holds (see `holds`), else `local-` and a hash. Nothing that a
    peer sends raises an error here, nor does a database that cannot be written: what cannot be kept
    is logged, and its id is "".
    """

    def __init__(
        self, database: Database, *, own_did: str, now_ms: NowMs, limits: Limits = LIMITS
    ) -> None:
        self.database = database
        self._own_did = own_did
        self._now_ms = now_ms
        self._limits = limits
        prune(self.database, limits, now_ms=now_ms())

    def served(self, record: Record, salt: bytes, *, peer: str) -> str:
        """Keep a receipt that this node signed.

        Args:
            record: of kind Receipt. Its subject, who presented, counts as the actor.
            salt: as in `Infer`.
            peer: DID or PeerId of the node that asked.
        """
        return self._insert(
            self._receipted(record, Role.SERVED, actor=record.subject, peer=did_of(peer), salt=salt)
        )

    def received(self, sent: bytes | Record, expected: Expected) -> str:
        """Check what the serving node sent as the receipt for a segment, and keep what it is.

        A record is one that this node has made itself: its form and signature are not looked at.
        """
        server = did_of(expected.peer)
        try:
            record = check_received(
                sent, expected, asker=self._own_did, server=server, now_ms=self._now_ms()
            )
        except VerificationError as error:
            log.warning(
                "receipt_disputed",
                peer=expected.peer,
                request_id=expected.request_id,
                code=error.code.value,
            )
            raw = sent.raw if isinstance(sent, Record) else sent
            return self._insert(
                self._without(expected, State.DISPUTED, error, raw=_evidence(raw, server))
            )
        return self._insert(
            self._receipted(
                record, Role.ASKED, actor=expected.actor, peer=server, salt=expected.salt
            )
        )

    def unreceipted(self, expected: Expected, reason: Code = Code.UNRECEIPTED) -> str:
        """Keep that there is no receipt; `reason` is what the segment ended with, if not well."""
        error = VerificationError("the serving node sent no receipt", reason)
        return self._insert(self._without(expected, State.UNRECEIPTED, error))

    def _receipted(self, record: Record, role: Role, *, actor: str, peer: str, salt: bytes) -> Row:
        body = record.body
        if not isinstance(body, ReceiptBody):
            raise VerificationError("it is no receipt", Code.UNKNOWN_KIND)
        return Row(
            id=record.content_id,
            role=role.value,
            state=State.RECEIPTED.value,
            kept_ms=self._now_ms(),
            request_id=body.request_id,
            actor=actor,
            peer=peer,
            model=body.model,
            prompt_tokens=body.prompt_tokens,
            completion_tokens=body.completion_tokens,
            began_ms=parse_ms(body.began),
            ended_ms=parse_ms(body.ended),
            salt=salt,
            raw=record.raw,
        )

    def _without(
        self, expected: Expected, state: State, error: AigridError, *, raw: bytes | None = None
    ) -> Row:
        seen = Seen(
            manifest=expected.manifest,
            request_hash=expected.request_hash,
            prefix_hash=expected.prefix_hash,
            output_hash=expected.output_hash,
            presentation=expected.presentation,
            credentials=expected.credentials,
            reason=expected.reason,
        )
        # The salt is in it: nobody guesses the id.
        digest = hashlib.sha256(msgspec.msgpack.encode((expected, state.value))).hexdigest()
        return Row(
            id=f"local-{digest[:32]}",
            role=Role.ASKED.value,
            state=state.value,
            code=error.code.value,
            # Other messages may hold what the peer wrote, and the peer knows the prompt.
            because=error.message if error.code in _OURS else "",
            kept_ms=self._now_ms(),
            request_id=expected.request_id,
            actor=expected.actor,
            peer=did_of(expected.peer),
            model=expected.model,
            prompt_tokens=expected.prompt_tokens,
            completion_tokens=expected.completion_tokens,
            began_ms=expected.began_ms,
            ended_ms=expected.ended_ms,
            salt=expected.salt,
            seen=msgspec.json.encode(seen).decode(),
            raw=raw,
        )

    def _insert(self, row: Row) -> str:
        try:
            number = self.database.execute(INSERT, msgspec.structs.astuple(row)).lastrowid or 0
            if number % _PRUNE_EVERY == 0:
                prune(self.database, self._limits, now_ms=row.kept_ms)
        except AigridError as error:  # a full disk: the answer is not worth less for it
            log.warning("receipt_not_kept", request_id=row.request_id, code=error.code.value)
            return ""
        return row.id


def holds(receipt_id: str) -> bool:
    """Whether an id that `Receipts` gave is that of a receipt that holds."""
    return is_content_id(receipt_id)


def did_of(peer: str) -> str:
    """The DID of a node that is named by its DID or its PeerId."""
    return peer if peer.startswith("did:") else did_of_peer_id(peer)


def prune(database: Database, limits: Limits, *, now_ms: int) -> None:
    """Drop the oldest receipts beyond the count, and some of those beyond the age."""
    newest = database.row("SELECT MAX(number) FROM receipts")[0] or 0
    database.execute("DELETE FROM receipts WHERE number <= ?", (newest - limits.receipts_kept_max,))
    old_ms = now_ms - limits.receipt_ttl_seconds * 1000
    first = database.row("SELECT number, kept_ms FROM receipts ORDER BY number LIMIT 1")
    if first is not None and first[1] <= old_ms:
        database.execute(
            "DELETE FROM receipts WHERE number < ? AND kept_ms <= ?",
            (first[0] + _PRUNE_MAX, old_ms),
        )


def _evidence(raw: bytes, server: str) -> bytes | None:
    """What the serving node has signed as a receipt; anything else proves nothing."""
    try:
        record = verify_form_and_signature(raw)
    except VerificationError:
        return None
    signed = record.kind is Kind.RECEIPT and record.issuer == server
    return raw if signed else None
