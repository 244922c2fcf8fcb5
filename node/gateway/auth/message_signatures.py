"""HTTP Message Signatures (RFC 9421) by callers with an Ed25519 key of their own, strictly.

`http-message-signatures` parses and builds the signature base. What it leaves open is closed here:
one signature, of Ed25519 alone, over at least method, authority, target URI and Content-Digest (RFC
9530, SHA-256), made within the last minute by the injected clock, with a nonce. Whether the nonce
is new and the body is what the digest says is for the caller. Imported only where somebody signs.
"""

import base64
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from http_message_signatures import (
    HTTPMessageSignaturesException,
    HTTPMessageVerifier,
    HTTPSignatureAlgorithm,
    HTTPSignatureKeyResolver,
    InvalidSignature,
)

from aigrid.protocol.errors import Code, PolicyDeniedError
from aigrid.protocol.identity import verify_signature
from aigrid.protocol.limits import LIMITS

REQUIRED: Final = ("@method", "@authority", "@target-uri", "content-digest")
_SAID_MAX_CHARS = 160
_DIGEST = re.compile(r"sha-256=:([A-Za-z0-9+/]{43}=):")
_NONCE = re.compile(r"[\x21-\x7e]+")

KeyOf = Callable[[str], bytes | None]


@dataclass(frozen=True, slots=True)
class Headers:
    """The fields of a request, in order; the interface that the library asks for."""

    fields: tuple[tuple[str, str], ...]

    def items(self) -> Iterator[tuple[str, str]]:
        return iter(self.fields)


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """A request as it was received. `url` is absolute, spelled as the client did."""

    method: str
    url: str
    headers: Headers

    def has(self, name: str) -> bool:
        """Whether there is a field of this lower-case name."""
        return any(known.lower() == name for known, _ in self.headers.fields)


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature that holds. `digest` is the SHA-256 that the body must have."""

    keyid: str
    nonce: str
    created_seconds: int
    digest: bytes


def verify(
    request: SignedRequest, key_of: KeyOf, *, now_seconds: int, covered: Iterable[str] = ()
) -> Signature:
    """Verify the one signature of a request.

    Args:
        request: what was received, without its body.
        key_of: the public key for a `keyid`, or None for one that may not call.
        now_seconds: wall time in seconds since the epoch.
        covered: fields that must be signed, too, where they are there.

    Raises:
        PolicyDeniedError: `unauthenticated`, with the reason.
    """
    required = [*REQUIRED, *(name for name in covered if request.has(name))]
    parameters, components = verified(
        request, key_of, now_seconds=now_seconds, required=tuple(required)
    )
    nonce = parameters.get("nonce")
    if not isinstance(nonce, str) or not _NONCE.fullmatch(nonce):
        raise unauthenticated("the nonce is missing")
    if len(nonce) > LIMITS.nonce_max_chars:
        raise unauthenticated(f"the nonce has more than {LIMITS.nonce_max_chars} characters")
    digest = _DIGEST.fullmatch(components['"content-digest"'])
    if digest is None:
        raise unauthenticated("Content-Digest is not one SHA-256 (sha-256=:...:)")
    return Signature(
        str(parameters["keyid"]),
        nonce,
        int(parameters["created"]),
        base64.b64decode(digest[1]),
    )


def verified(
    request: SignedRequest, key_of: KeyOf, *, now_seconds: int, required: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, str]]:
    """The parameters of the one signature, and what it covers. Raises PolicyDeniedError."""
    verifier = _Verifier(key_of, now_seconds)
    try:
        (result,) = verifier.verify(request, max_age=None, require_components=required)
    except HTTPMessageSignaturesException as error:
        raise unauthenticated(str(error)) from None
    except (ValueError, TypeError, AssertionError, RecursionError):
        # What its own checks overlook in a hostile header is a malformed one.
        raise unauthenticated("it cannot be read") from None
    return result.parameters, result.covered_components


def unauthenticated(reason: str) -> PolicyDeniedError:
    """The refusal of a signature."""
    said = "".join(c if c.isprintable() else "?" for c in reason[:_SAID_MAX_CHARS]).rstrip(".")
    return PolicyDeniedError(f"The signature does not hold: {said}.", Code.UNAUTHENTICATED)


class _Ed25519(HTTPSignatureAlgorithm):
    algorithm_id = "ed25519"

    def __init__(self, public_key: bytes, private_key: None = None) -> None:
        self._public_key = public_key

    def verify(self, signature: bytes, message: bytes) -> None:
        if not verify_signature(self._public_key, message, signature):
            raise InvalidSignature("it was not made with that key over this request")


class _Keys(HTTPSignatureKeyResolver):
    def __init__(self, key_of: KeyOf) -> None:
        self._key_of = key_of

    def resolve_public_key(self, key_id: str) -> bytes | None:
        return self._key_of(key_id)


class _Verifier(HTTPMessageVerifier):
    def __init__(self, key_of: KeyOf, now_seconds: int) -> None:
        super().__init__(signature_algorithm=_Ed25519, key_resolver=_Keys(key_of))
        self._now_seconds = now_seconds

    def validate_created_and_expires(self, sig_input: Any, max_age: Any = None) -> None:
        """In place of the library's, which asks the system for the time and is generous."""
        created = sig_input.params.get("created")
        expires = sig_input.params.get("expires", self._now_seconds)
        if type(created) is not int or type(expires) is not int:
            raise InvalidSignature(
                "created and expires are whole seconds, and created must be there"
            )
        if created > self._now_seconds + LIMITS.signature_skew_seconds:
            raise InvalidSignature("it was made in the future: compare the clocks")
        if created < self._now_seconds - LIMITS.signature_age_seconds:
            raise InvalidSignature(f"it is older than {LIMITS.signature_age_seconds} s")
        if expires < self._now_seconds:
            raise InvalidSignature("it has expired")
