"""multistream-select 1.0 on a fresh stream, for both ends (https://github.com/multiformats/multistream-select).

The library's own end of it lets a line that is not UTF-8 take the host down (T7) and spends two
round trips; here what the peer sends is bounded and the dialer speaks first, in one round trip.
"""

from collections.abc import Collection
from typing import Final, Protocol

from aigrid.protocol.errors import Code, RemoteError
from aigrid.protocol.limits import LIMITS

HEADER: Final = "/multistream/1.0.0"
NOT_AVAILABLE: Final = "na"
LIST: Final = "ls"


class ByteStream(Protocol):
    """What negotiation needs of a muxed stream."""

    async def read(self, n: int | None = None) -> bytes: ...
    async def write(self, data: bytes) -> None: ...


def encode_line(text: str) -> bytes:
    """Varint length, the text, a newline."""
    line = text.encode() + b"\n"
    return encode_varint(len(line)) + line


def encode_varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


async def select(stream: ByteStream, protocol: str) -> None:
    """Dialer: propose one protocol.

    Raises:
        RemoteError: `not_member` when the peer does not serve it to us, `protocol_violation`.
    """
    await stream.write(encode_line(HEADER) + encode_line(protocol))
    if await read_line(stream) != HEADER:
        raise RemoteError("The peer does not speak multistream-select.")
    answer = await read_line(stream)
    if answer == NOT_AVAILABLE:
        raise RemoteError(f"The peer does not serve {protocol} to this node.", Code.NOT_MEMBER)
    if answer != protocol:
        raise RemoteError("The peer answered with another protocol than asked for.")


async def offer(stream: ByteStream, protocols: Collection[str]) -> str:
    """Listener: the protocol the peer chose.

    Raises:
        RemoteError: `protocol_violation`, or nothing of ours was chosen.
    """
    await stream.write(encode_line(HEADER))
    if await read_line(stream) != HEADER:
        raise RemoteError("The peer does not speak multistream-select.")
    for _ in range(LIMITS.negotiation_proposals_max):
        proposal = await read_line(stream)
        if proposal in protocols:
            await stream.write(encode_line(proposal))
            return proposal
        if proposal == LIST:
            listing = b"".join(encode_line(p) for p in sorted(protocols)) + b"\n"
            await stream.write(encode_varint(len(listing)) + listing)
        else:
            await stream.write(encode_line(NOT_AVAILABLE))
    raise RemoteError("The peer proposed too many protocols.")


async def read_line(stream: ByteStream) -> str:
    """One line; nothing beyond it is taken from the stream. Raises RemoteError."""
    length = await _read_varint(stream)
    if not 0 < length <= LIMITS.negotiation_line_max_bytes:
        raise RemoteError(f"A line of {length} bytes while negotiating.")
    line = bytearray()
    while len(line) < length:
        line += await stream.read(length - len(line))
    if line[-1:] != b"\n":
        raise RemoteError("A line without an end while negotiating.")
    try:
        return line[:-1].decode()
    except UnicodeDecodeError:
        raise RemoteError("A line that is not UTF-8 while negotiating.") from None


async def _read_varint(stream: ByteStream) -> int:
    value = 0
    for shift in (0, 7):
        byte = (await stream.read(1))[0]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value
    raise RemoteError("A line too long while negotiating.")
