"""What a peer says of itself in identify, made small before the library sees it, and not too often.

The library takes a megabyte: half a million empty protocols, which it keeps, or a thousand
addresses, which it parses one by one. A push of that kind held a node up for 30 ms, and nothing
bounded how many came.

The fields are those of https://github.com/libp2p/specs/blob/master/identify/README.md.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import trio
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.utils.varint import read_length_prefixed_protobuf

from aigrid.metagraph.quota import TokenBuckets
from aigrid.protocol.errors import RemoteError
from aigrid.protocol.limits import LIMITS


async def read(stream: Any, use_varint_format: bool = True) -> bytes:  # noqa: FBT001, FBT002 - the library's signature
    """Stands in for the library's reader of length-prefixed messages where it reads identify.

    Raises:
        Exception: what the library's own raises; the stream is reset then, since the library
            would take what is left of it for a message of an older form.
    """
    try:
        return bounded(
            await read_length_prefixed_protobuf(stream, use_varint_format, LIMITS.identify_bytes)
        )
    except Exception:
        await stream.reset()
        raise


def bounded(data: bytes) -> bytes:
    """The message without what is over the limits. As it was if nothing has to go.

    Raises:
        DecodeError: it is no message.
    """
    message = Identify.FromString(data)
    cut = _keep(message.listen_addrs, len, LIMITS.dht_address_bytes, LIMITS.addresses_max)
    most_bytes, most = LIMITS.negotiation_line_max_bytes, LIMITS.identify_protocols
    cut |= _keep(message.protocols, _text_bytes, most_bytes, most)
    return message.SerializeToString() if cut else data


def _text_bytes(said: str | bytes) -> int:
    """Size of a text; 0 of what is none, which comes as bytes and could not be put back."""
    return len(said.encode()) if isinstance(said, str) else 0


def _keep(entries: Any, size: Callable[[Any], int], most_bytes: int, most: int) -> bool:
    """The first few of those that are neither empty nor too long; whether any went."""
    kept = [one for one in entries if 0 < size(one) <= most_bytes][:most]
    if len(kept) == len(entries):
        return False
    del entries[:]
    entries.extend(kept)
    return True


class Seldom:
    """A handler of identify, asked for or pushed, that serves each peer a few times a minute."""

    def __init__(self, handler: Callable[[Any], Awaitable[None]]) -> None:
        self._handler = handler
        self._rate = TokenBuckets(
            burst=LIMITS.identify_burst, per_second=LIMITS.identify_per_second
        )

    async def __call__(self, stream: Any) -> None:
        """Raises RemoteError `protocol_violation` for what comes too often."""
        if self._rate.take(str(stream.muxed_conn.peer_id), trio.current_time()) > 0:
            raise RemoteError("identify too often")
        await self._handler(stream)
