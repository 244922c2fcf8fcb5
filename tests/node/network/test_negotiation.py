"""multistream-select: what the peer says is bounded."""

import pytest
import trio
from hypothesis import example, given
from hypothesis import strategies as st

from aigrid.node.network import negotiation
from aigrid.protocol.errors import Code, RemoteError


class Scripted:
    """A peer that says `says`, and what it was told."""

    def __init__(self, says: bytes) -> None:
        self._says = says
        self.told = b""

    async def read(self, n: int | None = None) -> bytes:
        if not self._says:
            raise RemoteError("ended", Code.CONNECTION_LOST)
        part, self._says = self._says[:n], self._says[n:]
        return part

    async def write(self, data: bytes) -> None:
        self.told += data


def lines(*texts: str) -> bytes:
    return b"".join(negotiation.encode_line(t) for t in texts)


async def test_select_speaks_first_and_takes_no_byte_too_many() -> None:
    peer = Scripted(lines(negotiation.HEADER, "/a/1") + b"payload")
    await negotiation.select(peer, "/a/1")
    assert peer.told == lines(negotiation.HEADER, "/a/1")
    assert await peer.read(100) == b"payload"


async def test_refused_protocol_is_not_member() -> None:
    with pytest.raises(RemoteError) as caught:
        await negotiation.select(Scripted(lines(negotiation.HEADER, "na")), "/a/1")
    assert caught.value.code is Code.NOT_MEMBER


async def test_offer_lists_refuses_and_agrees() -> None:
    peer = Scripted(lines(negotiation.HEADER, "ls", "/b/1", "/a/1"))
    assert await negotiation.offer(peer, ["/a/1", "/c/1"]) == "/a/1"
    listing = lines("/a/1", "/c/1") + b"\n"
    assert peer.told == (
        lines(negotiation.HEADER) + bytes([len(listing)]) + listing + lines("na", "/a/1")
    )


async def test_offer_gives_up_on_endless_proposals() -> None:
    with pytest.raises(RemoteError, match="too many"):
        await negotiation.offer(Scripted(lines(negotiation.HEADER, *["ls"] * 100)), ["/a/1"])


@given(
    st.one_of(
        st.binary(max_size=200), st.binary(max_size=50).map(lambda b: lines(negotiation.HEADER) + b)
    )
)
@example(b"\x04\xff\xfe\xfd\n")  # T7: a whole line, not UTF-8
@example(lines(negotiation.HEADER) + b"\x04\xff\xfe\xfd\n")
def test_random_bytes_raise_nothing_but_remote_error(said: bytes) -> None:
    async def run() -> None:
        for call in (
            negotiation.offer(Scripted(said), ["/a/1"]),
            negotiation.select(Scripted(said), "/a/1"),
        ):
            with pytest.raises(RemoteError):
                await call

    trio.run(run)
