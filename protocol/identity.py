"""Ed25519 keys, and the two spellings of one: the libp2p PeerId and the did:key.

Sources: did:key Method v0.9 (multicodec 0xed), libp2p peer-ids spec (identity multihash of the
protobuf-encoded public key, for keys of at most 42 bytes), RFC 8032.
"""

from functools import lru_cache

import base58
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from aigrid.protocol.errors import Code, VerificationError

SEED_BYTES = 32
_ED25519_MULTICODEC = b"\xed\x01"
_PEER_ID_PREFIX = (
    b"\x00\x24\x08\x01\x12\x20"  # identity multihash, 36 bytes: type Ed25519, 32 bytes
)
_DID_KEY = "did:key:"
_DID_MAX_CHARS = 80
_TWO_DIGITS, _TEN_DIGITS = 58**2, 58**10
_DIGITS = base58.BITCOIN_ALPHABET.decode("ascii")
_PAIRS = tuple(a + b for a in _DIGITS for b in _DIGITS)
_KEYS_KEPT = 4096  # base58 is slow, and the same few keys come with every request


class Identity:
    """A signing key. `seed` is the 32-byte private scalar seed of RFC 8032; keep it secret."""

    __slots__ = ("_key", "did", "peer_id", "public_key")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_BYTES:
            raise ValueError(f"an Ed25519 seed has {SEED_BYTES} bytes, not {len(seed)}")
        self._key = SigningKey(seed)
        self.public_key = bytes(self._key.verify_key)
        self.did = did_of(self.public_key)
        self.peer_id = peer_id_of(self.public_key)

    @property
    def seed(self) -> bytes:
        return bytes(self._key)

    def sign(self, message: bytes) -> bytes:
        """The 64-byte Ed25519 signature of `message`."""
        return bytes(self._key.sign(message).signature)

    def __repr__(self) -> str:
        return f"Identity({self.did})"


def verify_signature(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` is `public_key`'s over `message`; False for keys or sizes that cannot."""
    try:
        VerifyKey(public_key).verify(message, signature)
    except (BadSignatureError, ValueError, TypeError):
        return False
    return True


@lru_cache(_KEYS_KEPT)
def did_of(public_key: bytes) -> str:
    """The did:key of an Ed25519 public key of 32 bytes."""
    return _DID_KEY + multibase(_ED25519_MULTICODEC + public_key)


@lru_cache(_KEYS_KEPT)
def peer_id_of(public_key: bytes) -> str:
    """The libp2p PeerId of an Ed25519 public key of 32 bytes, in base58btc."""
    return str(base58.b58encode(_PEER_ID_PREFIX + public_key).decode("ascii"))


@lru_cache(_KEYS_KEPT)
def public_key_of_did(did: str) -> bytes:
    """The 32-byte key of an Ed25519 did:key.

    Raises:
        VerificationError: anything else, a non-canonical spelling included.
    """
    if len(did) <= _DID_MAX_CHARS and did.startswith(_DID_KEY + "z"):
        decoded = _base58(did[len(_DID_KEY) + 1 :])
        if decoded is not None and len(decoded) == 34 and decoded[:2] == _ED25519_MULTICODEC:
            return decoded[2:]
    raise VerificationError("not a did:key of an Ed25519 key", Code.MALFORMED)


@lru_cache(_KEYS_KEPT)
def public_key_of_peer_id(peer_id: str) -> bytes:
    """The 32-byte key inside an Ed25519 PeerId. Raises VerificationError for anything else."""
    if len(peer_id) <= _DID_MAX_CHARS:
        decoded = _base58(peer_id)
        if decoded is not None and decoded[:6] == _PEER_ID_PREFIX and len(decoded) == 38:
            return decoded[6:]
    raise VerificationError("not a PeerId of an Ed25519 key", Code.MALFORMED)


def did_of_peer_id(peer_id: str) -> str:
    return did_of(public_key_of_peer_id(peer_id))


def peer_id_of_did(did: str) -> str:
    return peer_id_of(public_key_of_did(did))


def multibase(data: bytes) -> str:
    """`data` in base58btc with its multibase prefix."""
    return "z" + _to_base58(data)


def multibase_decode(text: str, *, max_chars: int) -> bytes | None:
    """The bytes of a base58btc multibase string, or None."""
    if not text.startswith("z") or len(text) > max_chars:
        return None
    return _base58(text[1:])


def _to_base58(data: bytes) -> str:
    """As `base58.b58encode` has it, ten digits at a time: each division is one of a long number."""
    zeros = len(data) - len(data.lstrip(b"\0"))
    number, groups = int.from_bytes(data), []
    while number:
        number, ten = divmod(number, _TEN_DIGITS)
        for _ in range(5):
            ten, two = divmod(ten, _TWO_DIGITS)
            groups.append(_PAIRS[two])
    return "1" * zeros + "".join(reversed(groups)).lstrip("1")


def _base58(text: str) -> bytes | None:
    """What base58btc text stands for, or None. No two texts stand for the same bytes."""
    if text and not text.isalnum():  # the library would overlook spaces at the end
        return None
    try:
        number: int = base58.b58decode_int(text)
    except ValueError:
        return None
    zeros = len(text) - len(text.lstrip("1"))
    return bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")
