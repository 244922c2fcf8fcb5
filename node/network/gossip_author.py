"""Who wrote a gossip message, and whether it did.

A message is passed on as it came, and what may stand beside its data is signed by nobody or of any
length: here it has one form, so that nobody makes others keep and forward more than was written.
The fields are those of https://github.com/libp2p/specs/blob/master/pubsub/README.md, "The Message".
"""

import functools
from dataclasses import dataclass
from typing import Any, Final

from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.validators import PUBSUB_SIGNING_PREFIX

from aigrid.protocol.limits import LIMITS

# A PeerId is a multihash of 34 bytes or, of an Ed25519 key, 38. To spell one takes time that grows
# with the square of its length: seconds for one that fills a frame.
PEER_ID_BYTES_MAX: Final = 64
SEQNO_BYTES: Final = 8
SIGNATURE_BYTES: Final = 64  # of Ed25519
_PREFIX: Final = PUBSUB_SIGNING_PREFIX.encode()


@dataclass(frozen=True, slots=True)
class Author:
    """A PeerId as text, its public key, and the key as some write it into a message, too."""

    peer_id: str
    key: Any
    key_bytes: bytes


def author_of(message: Any) -> Author | None:
    """None where a message cannot be one that was signed. Proves nothing: see `signed_by`."""
    from_id: bytes = message.from_id
    if (
        not 0 < len(from_id) <= PEER_ID_BYTES_MAX
        or len(message.seqno) != SEQNO_BYTES
        or len(message.signature) != SIGNATURE_BYTES
    ):
        return None
    author = _author(from_id)
    if author is None or message.key not in {b"", author.key_bytes}:
        return None
    return author


@functools.lru_cache(maxsize=LIMITS.peers_known_max)
def _author(from_id: bytes) -> Author | None:
    """None where the key is not in the PeerId, as an Ed25519 key is: no member has another."""
    identity = ID(from_id)
    key = identity.extract_public_key()
    if key is None or ID.from_pubkey(key) != identity:
        return None  # or another spelling of the key: not its PeerId
    return Author(str(identity), key, key.serialize())


def signed_by(message: Any, author: Author) -> bool:
    """Whether the signature of StrictSign is the author's."""
    signed = rpc_pb2.Message(
        data=message.data,
        topicIDs=message.topicIDs,
        from_id=message.from_id,
        seqno=message.seqno,
    )
    return bool(author.key.verify(_PREFIX + signed.SerializeToString(), message.signature))
