"""Canonical JSON (RFC 8785, JCS), strict parsing, and content ids (CIDv1, sha2-256).

A content id is the multibase base32 (lower case, no padding, prefix `b`) of
`0x01 | multicodec | 0x12 0x20 | sha256`, with multicodec `json` (0x0200) for records and model
descriptions and `raw` (0x55) for the bytes of a file. Source: multiformats CID specification.
"""

import base64
import functools
import hashlib
import json
import re
from typing import Any, NamedTuple, NoReturn

import rfc8785

from aigrid.protocol import plain_json
from aigrid.protocol.errors import Code, VerificationError
from aigrid.protocol.nesting import is_nested_deeper

_CID_PREFIX_JSON = b"\x01\x80\x04\x12\x20"
_CID_PREFIX_RAW = b"\x01\x55\x12\x20"
# Eight characters of base32 hold the five bytes of one prefix; the four bytes of the other, and two
# bits of the digest, take seven. The last character carries one bit of the digest, or three.
_CID = re.compile(r"bagaaiera[a-z2-7]{51}[aq]|bafkrei[a-h][a-z2-7]{50}[aeimquy4]")
_ERROR_CHARS = 200


class Parsed(NamedTuple):
    """A JSON value; `plain`, if its text was shown to be canonical (see `plain_json`)."""

    value: Any
    plain: bool


def canonical(value: Any) -> bytes:
    """The JCS bytes of a JSON value.

    Raises:
        VerificationError: `malformed`, for what JCS cannot express (integers beyond 2**53, NaN,
            lone surrogates, other types).
    """
    quickly = plain_json.write(value)
    if quickly is not None:
        return quickly
    try:
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeError, RecursionError) as error:
        raise VerificationError(f"not expressible in canonical JSON: {plain(error)}") from None


def parse(raw: bytes, *, max_bytes: int, depth_max: int) -> Parsed:
    """Parse JSON as it came from outside.

    Raises:
        VerificationError: `record_too_large`, `duplicate_key` or `malformed` (not UTF-8, not JSON,
            more than `depth_max` objects and arrays within each other, NaN or infinite numbers,
            a surrogate without its other half).
    """
    if len(raw) > max_bytes:
        raise VerificationError(
            f"{len(raw)} bytes; at most {max_bytes} are allowed", Code.RECORD_TOO_LARGE
        )
    value = plain_json.read(raw)
    plain = value is not None
    if not plain:
        value = _parse_slowly(raw, depth_max)
    # Fewer cannot nest as deep.
    if raw.count(b"{") + raw.count(b"[") > depth_max and is_nested_deeper(value, depth_max):
        raise VerificationError(f"nested deeper than {depth_max}")
    if b"\\u" in raw:
        _check_surrogates(value)
    return Parsed(value, plain)


def plain(error: Exception) -> str:
    """An error's text, made fit for a log, a terminal and the wire: short, ASCII, printable."""
    text = str(error)[:_ERROR_CHARS].encode("unicode_escape").decode("ascii")
    return text.replace("\\\\", "\\")[:_ERROR_CHARS]


def content_id(canonical_bytes: bytes) -> str:
    """The CID of canonical JSON bytes."""
    return record_cid(hashlib.sha256(canonical_bytes).digest())


@functools.lru_cache(maxsize=256)  # of a record that comes in, it is asked for twice
def record_cid(sha256: bytes) -> str:
    """Content id of a record whose canonical bytes have this SHA-256."""
    return _cid(_CID_PREFIX_JSON, sha256)


def file_cid(sha256: bytes) -> str:
    """The CID of a file, from the SHA-256 of its bytes."""
    return _cid(_CID_PREFIX_RAW, sha256)


def is_content_id(text: str) -> bool:
    """Whether `text` is a content id in its one canonical spelling."""
    return _CID.fullmatch(text) is not None


def _cid(prefix: bytes, digest: bytes) -> str:
    return "b" + base64.b32encode(prefix + digest).decode("ascii").rstrip("=").lower()


def _parse_slowly(raw: bytes, depth_max: int) -> Any:
    """Parse what is not plain, or is wrong in a way that has to be named."""
    try:
        return json.loads(
            raw.decode("utf-8"), object_pairs_hook=_no_duplicates, parse_constant=_no_constant
        )
    except RecursionError:
        raise VerificationError(f"nested deeper than {depth_max}") from None
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are both ValueErrors
        raise VerificationError(f"not JSON: {error}") from None


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise VerificationError(f"member {key[:64]!r} appears twice", Code.DUPLICATE_KEY)
            seen.add(key)
    return result


def _no_constant(name: str) -> NoReturn:
    raise VerificationError(f"{name} is not JSON")


def _check_surrogates(value: Any) -> None:
    """Half a surrogate pair parses, and then breaks whatever encodes it later."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise VerificationError("half a surrogate pair is not text") from None
