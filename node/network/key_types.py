"""Ed25519 keys and no others: the library parses a stranger's before it knows who is there.

A PeerId of the grid is that of an Ed25519 key. Of the other types, one RSA key in a handshake
message of 64 KB kept a node computing for twenty seconds, since what stands in it as primes is
inverted before its size is looked at; and even a key of a lawful size takes a tenth of a second.
"""

from typing import Any, NoReturn

from libp2p.crypto import serialization
from libp2p.crypto.keys import KeyType
from libp2p.crypto.rsa import RSAPublicKey
from libp2p.crypto.secp256k1 import Secp256k1PublicKey

OTHERS = {KeyType.RSA: RSAPublicKey, KeyType.Secp256k1: Secp256k1PublicKey}


class KeyTypeError(ValueError):
    """A public key of a type that no peer of ours has."""


def ed25519_only() -> None:
    """Refuse others wherever the library reads one: handshakes, identify, signed records."""
    for kind, of_kind in OTHERS.items():
        serialization.key_type_to_public_key_deserializer[kind.value] = _refuse
        of_kind.from_bytes = _refuse


def _refuse(_data: bytes, *_more: Any) -> NoReturn:
    raise KeyTypeError
