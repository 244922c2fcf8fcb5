"""Who wrote a gossip message, and whether it did."""

import functools
from dataclasses import dataclass
from typing import Any

from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.validators import PUBSUB_SIGNING_PREFIX, signature_validator

from aigrid.protocol.limits import LIMITS

# A PeerId is a multihash of 34 bytes or, of an Ed25519 key, 38. To spell one takes time that grows
# with the square of its length: seconds for one that fills a frame.
PEER_ID_BYTES_MAX = 64
_PREFIX = PUBSUB_SIGNING_PREFIX.encode()


@dataclass(frozen=True, slots=True)
class Author:
    """A PeerId as text, and its public key where the PeerId contains it."""

    peer_id: str
    key: Any | None


def author_of(message: Any) -> Author | None:
    """None where `from_id` cannot be a PeerId. Proves nothing: see `signed_by`."""
    from_id: bytes = message.from_id
    return _author(from_id) if 0 < len(from_id) <= PEER_ID_BYTES_MAX else None


@functools.lru_cache(maxsize=LIMITS.peers_known_max)
def _author(from_id: bytes) -> Author:
    identity = ID(from_id)
    key = identity.extract_public_key()
    if key is not None and ID.from_pubkey(key) != identity:
        key = None  # another spelling of the key: not its PeerId
    return Author(str(identity), key)


def signed_by(message: Any, author: Author) -> bool:
    """Whether the signature of StrictSign is the author's.

    Raises:
        Exception: whatever the library makes of a key that is in the message and none.
    """
    if author.key is None:
        return bool(signature_validator(message))
    signed = rpc_pb2.Message(
        data=message.data,
        topicIDs=message.topicIDs,
        from_id=message.from_id,
        seqno=message.seqno,
    )
    try:
        return bool(author.key.verify(_PREFIX + signed.SerializeToString(), message.signature))
    except ValueError:  # a signature of another length
        return False
