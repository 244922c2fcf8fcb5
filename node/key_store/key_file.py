"""What is in a key file: a W3C Multikey in JSON, its secret plain or under a passphrase. Pure.

Plain, `secretKeyMultibase` is multicodec ed25519-priv (0x1300) and the seed. Protected, that is
encrypted with XChaCha20-Poly1305 under a key that argon2id makes from the passphrase, and stands in
`secretKeyProtected` with all that is needed to open it but the passphrase. The rest of the file is
authenticated with it, so that no byte that means anything can be changed unnoticed.
"""

import json
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_ABYTES,
    crypto_aead_xchacha20poly1305_ietf_decrypt,
    crypto_aead_xchacha20poly1305_ietf_encrypt,
    crypto_aead_xchacha20poly1305_ietf_KEYBYTES,
    crypto_aead_xchacha20poly1305_ietf_NPUBBYTES,
)
from nacl.exceptions import CryptoError
from nacl.exceptions import RuntimeError as SodiumError
from nacl.pwhash import argon2id

from aigrid.protocol.canonical import canonical, parse
from aigrid.protocol.errors import Code, UsageError, VerificationError
from aigrid.protocol.identity import (
    SEED_BYTES,
    Identity,
    multibase,
    multibase_decode,
    public_key_of_did,
)
from aigrid.protocol.limits import LIMITS

# Asked for only when something has to be opened.
Passphrase = Callable[[], str]
RandomBytes = Callable[[int], bytes]

_SECRET_MULTICODEC = b"\x80\x26"
_SECRET_CHARS_MAX = 64
_SEALED_BYTES = len(_SECRET_MULTICODEC) + SEED_BYTES + crypto_aead_xchacha20poly1305_ietf_ABYTES
_SEALED_CHARS_MAX = 128
_DEPTH_MAX = 2
_DID_KEY = "did:key:"
_PLAIN, _PROTECTED = "secretKeyMultibase", "secretKeyProtected"

SealedText = Annotated[str, Meta(max_length=_SEALED_CHARS_MAX)]


class _Protected(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """How to open a secret; bounded, since argon2id is run before anything is authenticated."""

    kdf: Literal["argon2id13"]
    operations: Annotated[int, Meta(ge=argon2id.OPSLIMIT_MIN, le=LIMITS.key_operations_max)]
    memory_bytes: Annotated[int, Meta(ge=argon2id.MEMLIMIT_MIN, le=LIMITS.key_memory_max_bytes)]
    salt: SealedText
    cipher: Literal["xchacha20-poly1305"]
    nonce: SealedText
    sealed: SealedText


class _ProtectedFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    type: Literal["Multikey"]
    controller: str
    public_key_multibase: str
    secret_key_protected: _Protected


@dataclass(frozen=True, slots=True)
class Cost:
    """What one guess of the passphrase costs: passes of argon2id, over this much memory."""

    operations: int = LIMITS.key_operations
    memory_bytes: int = LIMITS.key_memory_bytes


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A key file that has been read. The DID of a protected one counts once it is open."""

    did: str
    _plain: Identity | None
    _document: dict[str, Any]

    @property
    def protected(self) -> bool:
        return self._plain is None

    def open(self, passphrase: str) -> Identity:
        """The key. Takes about half a second where it is protected.

        Raises:
            UsageError: `passphrase_wrong`, which is also what a changed file looks like.
        """
        if self._plain is not None:
            return self._plain
        said = msgspec.convert(self._document, _ProtectedFile).secret_key_protected
        salt, nonce, sealed = (
            multibase_decode(text, max_chars=_SEALED_CHARS_MAX) or b""
            for text in (said.salt, said.nonce, said.sealed)
        )
        key = _derive(passphrase, salt, Cost(said.operations, said.memory_bytes))
        try:
            secret = crypto_aead_xchacha20poly1305_ietf_decrypt(
                sealed, _authenticated(self._document), nonce, key
            )
        except CryptoError:
            raise _wrong() from None
        identity = _identity(secret)
        if identity is None or identity.did != self.did:
            raise _wrong()
        return identity


def encode_key(identity: Identity) -> bytes:
    """The content of a key file without protection."""
    secret = multibase(_SECRET_MULTICODEC + identity.seed)
    return _written({**_head(identity), _PLAIN: secret})


def encode_protected(
    identity: Identity, passphrase: str, random_bytes: RandomBytes, cost: Cost | None = None
) -> bytes:
    """The content of a key file that `passphrase` opens. Takes about half a second.

    Raises:
        UsageError: `usage`, for a passphrase that is empty or too long.
    """
    cost = cost or Cost()
    salt = random_bytes(argon2id.SALTBYTES)
    nonce = random_bytes(crypto_aead_xchacha20poly1305_ietf_NPUBBYTES)
    said = {
        "kdf": "argon2id13",
        "operations": cost.operations,
        "memoryBytes": cost.memory_bytes,
        "salt": multibase(salt),
        "cipher": "xchacha20-poly1305",
        "nonce": multibase(nonce),
    }
    document = {**_head(identity), _PROTECTED: said}
    sealed = crypto_aead_xchacha20poly1305_ietf_encrypt(
        _SECRET_MULTICODEC + identity.seed,
        _authenticated(document),
        nonce,
        _derive(passphrase, salt, cost),
    )
    return _written({**document, _PROTECTED: {**said, "sealed": multibase(sealed)}})


def read_key_file(raw: bytes) -> KeyFile | None:
    """A key file, protected or not, or None for whatever is not exactly one."""
    try:
        document = parse(raw, max_bytes=LIMITS.key_file_max_bytes, depth_max=_DEPTH_MAX).value
    except VerificationError:
        return None
    if not isinstance(document, dict) or document.get("type") != "Multikey":
        return None
    if _PROTECTED in document:
        return _read_protected(document)
    encoded = document.get(_PLAIN)
    if not isinstance(encoded, str):
        return None
    identity = _identity(multibase_decode(encoded, max_chars=_SECRET_CHARS_MAX) or b"")
    if identity is None:
        return None
    matches = document.get("publicKeyMultibase") == identity.did.removeprefix(_DID_KEY)
    return KeyFile(identity.did, identity, document) if matches else None


def decode_key(raw: bytes) -> Identity | None:
    """The key in a key file without protection, or None for anything else."""
    found = read_key_file(raw)
    return None if found is None or found.protected else found.open("")


def check_passphrase(passphrase: str) -> bytes:
    """The bytes that argon2id gets: NFC, so that two keyboards agree, in UTF-8.

    Raises:
        UsageError: it is empty, too long or no text.
    """
    try:
        encoded = unicodedata.normalize("NFC", passphrase).encode("utf-8")
    except UnicodeEncodeError:
        raise UsageError("the passphrase is not text in UTF-8") from None
    if not 0 < len(encoded) <= LIMITS.passphrase_max_bytes:
        raise UsageError(
            f"a passphrase takes 1 to {LIMITS.passphrase_max_bytes} bytes; "
            "`aigrid id unprotect` removes one"
        )
    return encoded


def _read_protected(document: dict[str, Any]) -> KeyFile | None:
    try:
        file = msgspec.convert(document, _ProtectedFile)
        did = _DID_KEY + file.public_key_multibase
        public_key_of_did(did)
    except (msgspec.ValidationError, VerificationError):
        return None
    said = file.secret_key_protected
    sizes = (
        (said.salt, argon2id.SALTBYTES),
        (said.nonce, crypto_aead_xchacha20poly1305_ietf_NPUBBYTES),
        (said.sealed, _SEALED_BYTES),
    )
    for text, size in sizes:
        if len(multibase_decode(text, max_chars=_SEALED_CHARS_MAX) or b"") != size:
            return None
    return KeyFile(did, None, document) if file.controller == did else None


def _identity(secret: bytes) -> Identity | None:
    prefix = len(_SECRET_MULTICODEC)
    if secret[:prefix] != _SECRET_MULTICODEC or len(secret) != prefix + SEED_BYTES:
        return None
    return Identity(secret[prefix:])


def _derive(passphrase: str, salt: bytes, cost: Cost) -> bytes:
    secret = check_passphrase(passphrase)
    try:
        return argon2id.kdf(
            crypto_aead_xchacha20poly1305_ietf_KEYBYTES,
            secret,
            salt,
            opslimit=cost.operations,
            memlimit=cost.memory_bytes,
        )
    except (SodiumError, MemoryError):
        raise UsageError(
            f"the key file takes {cost.memory_bytes >> 20} MiB of memory to open; free some"
            " and try again",
            Code.ENVIRONMENT,
        ) from None


def _authenticated(document: dict[str, Any]) -> bytes:
    """Everything in the file but the sealed secret itself."""
    said = {name: value for name, value in document[_PROTECTED].items() if name != "sealed"}
    return canonical({**document, _PROTECTED: said})


def _head(identity: Identity) -> dict[str, Any]:
    return {
        "type": "Multikey",
        "controller": identity.did,
        "publicKeyMultibase": identity.did.removeprefix(_DID_KEY),
    }


def _written(document: dict[str, Any]) -> bytes:
    return (json.dumps(document, indent=2) + "\n").encode("ascii")


def _wrong() -> UsageError:
    return UsageError("the passphrase is wrong, or the key file was changed", Code.PASSPHRASE_WRONG)
