"""Proving from a receipt what was asked: whoever has the salt and the request can do it."""

import msgspec

from aigrid.node.gateway.call import TextCall
from aigrid.node.gateway.choices import requests_of
from aigrid.node.gateway.openai.chat_request import decode_chat
from aigrid.node.gateway.openai.completion_request import decode_completion
from aigrid.node.gateway.openai.response_request import decode_response
from aigrid.node.policy.receipt_rows import Row, Seen
from aigrid.protocol.errors import Code, InvalidRequestError, VerificationError
from aigrid.protocol.inference import InferRequest
from aigrid.protocol.receipt import ReceiptBody, prefix_hash, request_hash, seeded
from aigrid.protocol.record import Record, verify_form_and_signature

_REQUEST: msgspec.json.Decoder[InferRequest] = msgspec.json.Decoder(InferRequest)


class _Tagged(msgspec.Struct):
    """What tells the bodies of requests from each other."""

    type: str = ""
    messages: msgspec.Raw = msgspec.Raw()
    prompt: msgspec.Raw = msgspec.Raw()


def requests_in(body: bytes) -> tuple[InferRequest, ...]:
    """One request for each choice of a body in OpenAI's dialect, or JSON as SPEC.md has it.

    That is a body for chat, completions or responses.

    Raises:
        InvalidRequestError: it is neither.
    """
    try:
        said = msgspec.json.decode(body, type=_Tagged)
        if not said.type:
            return tuple(requests_of(_call(said, body)))
        request = _REQUEST.decode(body)
        msgspec.msgpack.encode(request)  # as its hash does: JSON has greater numbers
    except (msgspec.DecodeError, RecursionError, UnicodeError, OverflowError):
        raise InvalidRequestError("the request is not JSON as SPEC.md describes it") from None
    return (request,)


def _call(said: _Tagged, body: bytes) -> TextCall:
    if said.messages:
        return decode_chat(body).call
    return decode_completion(body).call if said.prompt else decode_response(body).call


def hashes_of(receipt: Record) -> tuple[str, str]:
    """The hashes of request and prefix in a receipt.

    Raises:
        VerificationError: `unknown_kind`, it is no receipt.
    """
    body = receipt.body
    if not isinstance(body, ReceiptBody):
        raise VerificationError("it is no receipt", Code.UNKNOWN_KIND)
    return body.request_hash, body.prefix_hash


def kept_hashes(row: Row) -> tuple[str, str]:
    """The same, of what is kept of a segment: as seen here, where no receipt holds."""
    if row.seen is not None:
        seen = msgspec.json.decode(row.seen, type=Seen)
        return seen.request_hash, seen.prefix_hash
    return hashes_of(verify_form_and_signature(row.raw or b""))


def proved(hashes: tuple[str, str], salt: bytes, *requests: InferRequest) -> dict[str, bool]:
    """Whether the hashes are of one of `requests`, and of as much output before it as it names.

    A request that draws and names no seed is sent with one that follows from the salt.
    """
    sent = [one for request in requests for one in (request, seeded(request, salt))]
    return {
        "request": any(request_hash(salt, one) == hashes[0] for one in sent),
        "prefix": any(prefix_hash(salt, one) == hashes[1] for one in requests),
    }
