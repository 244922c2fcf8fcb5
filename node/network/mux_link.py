"""What the muxer sends through and receives from: the Noise connection, or the socket below it.

`PlainLink` works over anything the library calls a secured connection. `FusedLink` is for the one
pairing that matters, Noise over our TCP: whatever a socket read brings is deciphered without an
await in between, and what is sent goes to the socket at once, without a task, unless it is full.
"""

from collections.abc import Callable
from typing import Final, Protocol

import trio
from libp2p.io.exceptions import ConnectionClosedError

from aigrid.node.network.tcp import TcpStream

LENGTH_BYTES: Final = 2  # before each Noise message, big-endian
DECIPHERED_AT_ONCE: Final = 64


class SecuredConnection(Protocol):
    """The part of `libp2p.abc.ISecureConn` that a link uses."""

    async def read(self, n: int | None = None) -> bytes: ...
    async def write(self, data: bytes) -> None: ...


class MuxLink(Protocol):
    """Plaintext in both directions. Sending never waits; what could not go at once is pending."""

    @property
    def is_full(self) -> bool:
        """Whether something is pending, and nothing may be sent."""

    @property
    def sends_at_once(self) -> bool:
        """Whether `send` is a call of the system: few large ones are better than many."""

    @property
    def backlog_bytes(self) -> int:
        """Of what was sent, how much has not reached the peer's system, as far as is known."""

    @property
    def taken_bytes(self) -> int:
        """How much has, since the beginning: it grows as long as the peer takes something."""

    def send(self, messages: list[bytes]) -> None:
        """Send each as one Noise message, or keep it pending. Raises nothing."""

    async def advance(self) -> None:
        """Send some of what is pending; waits until the peer takes it.

        Raises an error of the library, of trio or of the system once the connection is gone.
        """

    async def receive(self) -> list[bytes]:
        """What the peer sent, at least one message. Raises an error at the end."""


class PlainLink:
    """Through the library, message by message. Cancelling `advance` tears the connection."""

    sends_at_once = False

    def __init__(self, conn: SecuredConnection) -> None:
        self._conn = conn
        self._pending: list[bytes] = []
        self.taken_bytes = 0

    @property
    def is_full(self) -> bool:
        return bool(self._pending)

    @property
    def backlog_bytes(self) -> int:
        return sum(map(len, self._pending))

    def send(self, messages: list[bytes]) -> None:
        self._pending = messages

    async def advance(self) -> None:
        await self._conn.write(self._pending[0])
        self.taken_bytes += len(self._pending.pop(0))

    async def receive(self) -> list[bytes]:
        return [await self._conn.read(None)]


Cipher = Callable[[None, bytes | memoryview], bytes]


class FusedLink:
    """Straight over the socket.

    Args:
        tcp: from here on read and written by nobody else.
        encrypt, decrypt: one Noise message each, with the session's cipher states.
        early: what was deciphered during the handshake and not yet used.
    """

    sends_at_once = True

    def __init__(
        self, tcp: TcpStream, encrypt: Cipher, decrypt: Cipher, early: bytes = b""
    ) -> None:
        self._tcp = tcp
        self._encrypt = encrypt
        self._decrypt = decrypt
        self._early = early
        self._rest = b""  # received, not deciphered
        self._has_more = False  # of it, a whole message
        self._pending = memoryview(b"")
        self._sent_bytes = 0  # with what is pending

    @property
    def is_full(self) -> bool:
        return bool(self._pending)

    @property
    def backlog_bytes(self) -> int:
        return len(self._pending) + self._tcp.unacknowledged_bytes

    @property
    def taken_bytes(self) -> int:
        return self._sent_bytes - self.backlog_bytes

    def send(self, messages: list[bytes]) -> None:
        parts: list[bytes] = []
        for message in messages:
            ciphertext = self._encrypt(None, message)
            parts += (len(ciphertext).to_bytes(LENGTH_BYTES, "big"), ciphertext)
        try:
            sent = self._tcp.send_now(parts)
        except OSError:
            sent = 0  # `advance` meets it again, in a task that it may end
        size = sum(map(len, parts))
        self._sent_bytes += size
        if sent < size:
            self._pending = memoryview(b"".join(parts))[sent:]

    async def advance(self) -> None:
        await self._tcp.wait_writable()
        self._pending = self._pending[self._tcp.send_now([self._pending]) :]

    async def receive(self) -> list[bytes]:
        if self._early:
            early, self._early = self._early, b""
            return [early]
        if self._has_more:
            await trio.lowlevel.checkpoint()
            return self._decipher(b"")
        while True:
            received = await self._tcp.receive_some()
            if not received:
                raise ConnectionClosedError("closed by the peer", transport="tcp")
            messages = self._decipher(received)
            if messages:
                return messages

    def _decipher(self, received: bytes) -> list[bytes]:
        """Whole messages of what was received, some at a time so that others have turns."""
        messages: list[bytes] = []
        data = self._rest + received if self._rest else received
        view, position, end = memoryview(data), 0, len(data)
        self._has_more = False
        while end - position >= LENGTH_BYTES:
            start = position + LENGTH_BYTES
            stop = start + (data[position] << 8 | data[position + 1])
            if stop > end:
                break
            if len(messages) == DECIPHERED_AT_ONCE:
                self._has_more = True
                break
            messages.append(self._decrypt(None, view[start:stop]))
            position = stop
        self._rest = data[position:]
        return messages


async def advance_within(link: MuxLink, seconds: float) -> bool:
    """`advance`; False if the peer takes nothing in that time.

    A socket is writable when a third of a buffer of megabytes is free, which a slow peer may take
    minutes for: what it takes meanwhile counts.
    """
    while True:
        taken_bytes = link.taken_bytes
        with trio.move_on_after(seconds) as scope:
            await link.advance()
        if not scope.cancelled_caught:
            return True
        if link.taken_bytes <= taken_bytes:
            return False


class Ahead:
    """What stood before a ping when it was sent, and whether it still moves. Pure."""

    def __init__(self, taken_bytes: int, ahead_bytes: int) -> None:
        self._seen_bytes = taken_bytes
        self._due_bytes = taken_bytes + ahead_bytes

    def moves(self, taken_bytes: int) -> bool:
        """Whether the ping was still under way when last asked, and more was taken since."""
        moving = self._seen_bytes < self._due_bytes and taken_bytes > self._seen_bytes
        self._seen_bytes = taken_bytes
        return moving
