"""Messages of the DHT as they come in, made small before the library sees anything of them.

It spells every PeerId of a message for its log, whether or not anybody reads that: seconds of
computing for one of 64 kB, since base58 takes time that grows with the square of the length. It
keeps what is known of each peer in an answer, and asks them, however many are named.

Signed records of addresses are left out. To verify one takes a millisecond, and a message may have
one for each peer; the addresses beside them are taken in anyway, signed or not, and lead to a peer
only if a handshake proves that it is there. Those of members come with gossip and identify.
"""

from typing import Any

import trio
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from libp2p.network.stream.exceptions import StreamEOF, StreamReset
from libp2p.utils.varint import read_varint_prefixed_bytes_limited

from aigrid.metagraph.quota import TokenBucket
from aigrid.node.network.dht_places import Place
from aigrid.node.network.gossip_author import PEER_ID_BYTES_MAX
from aigrid.protocol.limits import LIMITS


class DhtMessageError(Exception):
    """A message names what no honest peer does; the library ends the stream for it."""


async def read(stream: Any, most_bytes: int) -> bytes:
    """Stands in for the library's reader of length-prefixed bytes in the modules of its DHT.

    What a peer asks is taken at its pace, see `Paced`; what it answers, at once. The end of a
    stream is no question: nobody waits for it.

    Raises:
        DhtMessageError: see `bounded`.
        Exception: what the library's own raises.
    """
    if isinstance(stream, Paced):
        return await stream.question(most_bytes)
    return bounded(await read_varint_prefixed_bytes_limited(stream, most_bytes))


class Paced:
    """A stream on which a peer asks: an answer takes a millisecond, a question may have 40 bytes.

    Nobody is blamed for questions: what comes too fast waits, and its sender with it once the
    window is full. So does what is none.
    """

    def __init__(self, stream: Any, rate: TokenBucket, place: Place) -> None:
        self._stream = stream
        self._rate = rate
        self._place = place
        self._has_come = False  # some of the next question

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def read(self, n: int | None = None) -> bytes:
        """As that of the stream; raises what that raises."""
        try:
            data: bytes = await self._stream.read(n)
        except (StreamEOF, StreamReset):
            self._place.given_up = True
            raise
        self._has_come = True
        return data

    async def question(self, most_bytes: int) -> bytes:
        """The next, when it is its turn; see `read`."""
        self._has_come = False
        try:
            message = bounded(await read_varint_prefixed_bytes_limited(self, most_bytes))
        except Exception:  # whatever it was, the library ends the stream for it
            if self._has_come:
                await self.turn()
            raise
        self._place.question(trio.current_time())
        await self.turn()
        return message

    async def turn(self) -> None:
        """Wait for it."""
        while not self._rate.take(trio.current_time()):  # noqa: ASYNC110 - no condition
            await trio.sleep(max(self._rate.wait_seconds(trio.current_time()), 0.001))
        await trio.lowlevel.checkpoint()  # many may have arrived at once


def bounded(data: bytes) -> bytes:
    """The message without signed records and what is over the limits: peers, addresses.

    A peer counts once in each list. As it was if nothing has to go.

    Raises:
        DhtMessageError: an id or a key is longer than any can be.
        DecodeError: it is no message.
    """
    message = Message.FromString(data)
    if len(message.key) > LIMITS.dht_key_bytes:
        raise DhtMessageError
    cut = message.HasField("senderRecord")
    message.ClearField("senderRecord")
    for peers, most in (
        (message.closerPeers, LIMITS.dht_closer_max),
        (message.providerPeers, LIMITS.dht_providers_max),
    ):
        cut |= _drop_peers(peers, most)
        for peer in peers:
            cut |= peer.HasField("signedRecord") | _drop_addresses(peer.addrs)
            peer.ClearField("signedRecord")
    return message.SerializeToString() if cut else data


def _drop_peers(peers: Any, most: int) -> bool:
    """Those beyond the first few, and repetitions; whether there were any.

    Raises:
        DhtMessageError: an id is longer than any can be.
    """
    first: dict[bytes, Any] = {}
    for peer in peers[:most]:
        if len(peer.id) > PEER_ID_BYTES_MAX:
            raise DhtMessageError
        first.setdefault(peer.id, peer)
    if len(first) == len(peers):
        return False
    del peers[:]
    peers.extend(first.values())
    return True


def _drop_addresses(addresses: Any) -> bool:
    """Those that are too long, and those beyond the first few; whether there were any."""
    kept = [one for one in addresses if len(one) <= LIMITS.dht_address_bytes][
        : LIMITS.addresses_max
    ]
    if len(kept) == len(addresses):
        return False
    addresses[:] = kept
    return True
