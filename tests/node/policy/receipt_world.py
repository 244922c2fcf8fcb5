"""A segment, its receipt, and a node that asked for it."""

import dataclasses
from typing import Any

from aigrid.metagraph.store import Store
from aigrid.node.policy.receipt_checks import Expected
from aigrid.node.policy.receipts import Receipts
from aigrid.protocol.canonical import content_id
from aigrid.protocol.identity import Identity
from aigrid.protocol.inference import ChatMessage, TextChunk, TextRequest
from aigrid.protocol.kinds import Kind
from aigrid.protocol.limits import DAY, LIMITS
from aigrid.protocol.receipt import OutputHash, ReceiptBody, prefix_hash, request_hash
from aigrid.protocol.record import Record, build
from aigrid.protocol.timestamp import format_ms

NOW = 1_790_000_000_000
ASKER, SERVER, OTHER = (Identity(bytes([n]) * 32) for n in (21, 22, 23))
SALT = b"\x07" * 16
REQUEST = TextRequest(messages=(ChatMessage("user", "canary-prompt"),))
MODEL, MANIFEST, GRANT = (content_id(text) for text in (b"model", b"manifest", b"grant"))


class Clock:
    """Wall time in milliseconds."""

    def __init__(self) -> None:
        self.now_ms = NOW

    def __call__(self) -> int:
        return self.now_ms


def output_hash(*chunks: TextChunk) -> str:
    made = OutputHash(SALT)
    made.add(chunks)
    return made.hexdigest()


def expected(**changes: Any) -> Expected:
    segment = Expected(
        request_id="request-1",
        peer=SERVER.peer_id,
        model=MODEL,
        manifest=MANIFEST,
        salt=SALT,
        request_hash=request_hash(SALT, REQUEST),
        prefix_hash=prefix_hash(SALT, REQUEST),
        output_hash=output_hash(TextChunk("canary-answer", (1, 2, 3))),
        began_ms=NOW - 5000,
        ended_ms=NOW - 1000,
        presentation="ab" * 32,
        credentials=(GRANT,),
        actor="alice",
        prompt_tokens=7,
        completion_tokens=3,
        reason="stop",
    )
    return dataclasses.replace(segment, **changes)


def body(segment: Expected | None = None, **changes: Any) -> ReceiptBody:
    """What an honest server says of a segment."""
    segment = segment or expected()
    said: dict[str, Any] = {
        "id": ASKER.did,
        "request_id": segment.request_id,
        "model": segment.model,
        "manifest": segment.manifest,
        "request_hash": segment.request_hash,
        "prefix_hash": segment.prefix_hash,
        "output_hash": segment.output_hash,
        "prompt_tokens": segment.prompt_tokens,
        "completion_tokens": segment.completion_tokens,
        "began": format_ms(segment.began_ms + 10),
        "ended": format_ms(segment.ended_ms - 10),
        "reason": segment.reason,
        "presentation": segment.presentation,
        "credentials": segment.credentials,
    }
    return ReceiptBody(**{**said, **changes})


def receipt(
    segment: Expected | None = None,
    *,
    by: Identity = SERVER,
    at_ms: int = NOW,
    lives_seconds: int = 300 * DAY,
    **changes: Any,
) -> Record:
    return build(
        Kind.RECEIPT,
        body(segment, **changes),
        by,
        valid_from_ms=at_ms,
        valid_until_ms=at_ms + lives_seconds * 1000,
    )


def receipts(store: Store | None = None, clock: Clock | None = None, **limits: int) -> Receipts:
    bounds = dataclasses.replace(LIMITS, **limits)
    store = store or Store()
    return Receipts(store.database, own_did=ASKER.did, now_ms=clock or Clock(), limits=bounds)
