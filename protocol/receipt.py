"""Receipts: what one node served another, signed by the one that served. Pure.

A receipt names what was asked and answered by salted hashes only: the two ends, which know the
salt and the texts, can prove what they were; nobody else can test a guess. `request_hash` and
`prefix_hash` are those of the presentation, `output_hash` is made likewise.
"""

import hashlib
import struct
from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from aigrid.protocol.canonical import is_content_id
from aigrid.protocol.credential_kinds import CidText
from aigrid.protocol.errors import VerificationError
from aigrid.protocol.identity import public_key_of_did
from aigrid.protocol.inference import (
    InferChunk,
    InferRequest,
    TaskChunk,
    TensorChunk,
    TextChunk,
    TextRequest,
)
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.names import Did
from aigrid.protocol.timestamp import parse_ms

SALT_BYTES = 16
Salt = Annotated[bytes, Meta(min_length=SALT_BYTES, max_length=SALT_BYTES)]
HashHex = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Tokens = Annotated[int, Meta(ge=0, le=2**53 - 1)]
Time = Annotated[str, Meta(min_length=24, max_length=24)]
Ended = Literal["stop", "length", "cancelled", "tool_calls", "content_filter", "failed"]


class ReceiptBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The issuer served `id` (the DID that presented) one segment of an answer.

    Attributes:
        request_id: as in `Infer`.
        model, manifest: what served, and the manifest by which it was decided.
        request_hash, prefix_hash: as presented; see `request_hash` and `prefix_hash`.
        output_hash: of what this segment put out; see `OutputHash`.
        prompt_tokens, completion_tokens: of this segment; 0 where the model has none.
        began, ended: when the request was admitted, and when the segment was over.
        reason: how it ended.
        presentation: SHA-256 of the presentation, in hex.
        credentials: content ids of the credentials that the decision relied on.
    """

    id: Did
    request_id: Annotated[str, Meta(min_length=8, max_length=64, pattern=r"^[A-Za-z0-9_-]+\Z")]
    model: CidText
    manifest: CidText
    request_hash: HashHex
    prefix_hash: HashHex
    output_hash: HashHex
    prompt_tokens: Tokens
    completion_tokens: Tokens
    began: Time
    ended: Time
    reason: Ended
    presentation: HashHex
    credentials: Annotated[
        tuple[CidText, ...], Meta(max_length=LIMITS.presentation_credentials_max)
    ] = ()


def check_receipt(_issuer: str, body: ReceiptBody) -> None:
    public_key_of_did(body.id)
    for cid in (body.model, body.manifest, *body.credentials):
        if not is_content_id(cid):
            raise VerificationError("a receipt names models and records by content id")
    if parse_ms(body.began) > parse_ms(body.ended):
        raise VerificationError("a segment ends before it begins")


def request_hash(salt: bytes, request: InferRequest) -> str:
    """SHA-256 (hex) of the salt and the request's msgpack, output tokens to go on from left out.

    They count in `max_tokens` instead, if that is given. All requests that continue one answer
    therefore have one hash, if they have one salt.
    """
    if isinstance(request, TextRequest) and request.continued_ids:
        most = request.max_tokens
        request = msgspec.structs.replace(
            request,
            continued_ids=(),
            max_tokens=None if most is None else most + len(request.continued_ids),
        )
    return hashlib.sha256(salt + _ENCODER.encode(request)).hexdigest()


def prefix_hash(salt: bytes, request: InferRequest) -> str:
    """SHA-256 (hex) of the salt and `continued_ids`, each as 4 bytes, little-endian."""
    ids = request.continued_ids if isinstance(request, TextRequest) else ()
    return hashlib.sha256(salt + struct.pack(f"<{len(ids)}I", *ids)).hexdigest()


def seeded(request: InferRequest, salt: bytes) -> InferRequest:
    """The request, with a seed where it draws and names none: one that follows from the salt.

    The first 8 bytes of the SHA-256 of the salt, big-endian, without the highest bit. So all
    segments of an answer draw alike, and whoever knows the salt knows what was sent.
    """
    if not isinstance(request, TextRequest) or request.seed is not None or not request.temperature:
        return request
    seed = int.from_bytes(hashlib.sha256(salt).digest()[:8], "big") >> 1
    return msgspec.structs.replace(request, seed=seed)


class OutputHash:
    """SHA-256 of the salt and everything a segment puts out, in order, however it is cut in chunks.

    Of text: its UTF-8. Of `more` in a piece of text: the byte 0xff, which no UTF-8 has, its length
    as 4 bytes, and itself. Of a task: its JSON text. Of tensors: the msgpack of the chunk. After it
    the token ids, each as 4 bytes, and last how many there are, as 8, all little-endian: so that
    text cannot pass for ids.
    """

    def __init__(self, salt: bytes) -> None:
        self._text = hashlib.sha256(salt)
        self._ids = bytearray()

    def add(self, chunks: Iterable[InferChunk]) -> None:
        for chunk in chunks:
            if isinstance(chunk, TextChunk):
                self._text.update(chunk.text.encode("utf-8", "surrogatepass"))
                if chunk.more:
                    self._text.update(b"\xff" + struct.pack("<I", len(chunk.more)) + chunk.more)
                ids = chunk.token_ids
                if ids:
                    self._ids += struct.pack(f"<{len(ids)}I", *ids)
            elif isinstance(chunk, TaskChunk):
                self._text.update(chunk.output)
            elif isinstance(chunk, TensorChunk):
                self._text.update(_ENCODER.encode(chunk))

    def hexdigest(self) -> str:
        whole = self._text.copy()
        whole.update(self._ids + struct.pack("<Q", len(self._ids) // 4))
        return whole.hexdigest()


_ENCODER = msgspec.msgpack.Encoder(order="deterministic")
