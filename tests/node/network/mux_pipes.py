"""Secured connections in memory, for the tests of the muxer."""

from typing import Any

import trio
import trio.testing


class Pipe:
    """A secured connection in memory."""

    def __init__(self, stream: trio.abc.Stream, *, is_initiator: bool) -> None:
        self._stream = stream
        self.is_initiator = is_initiator
        self.writes: list[bytes] = []

    async def read(self, n: int | None = None) -> bytes:
        data = bytes(await self._stream.receive_some(n))
        if not data:
            raise ConnectionError("closed")
        return data

    async def write(self, data: bytes) -> None:
        self.writes.append(data)
        await self._stream.send_all(data)

    async def close(self) -> None:
        await self._stream.aclose()

    def get_remote_address(self) -> tuple[str, int]:
        return ("127.0.0.1", 1)

    def get_transport_addresses(self) -> list[Any]:
        return []

    def get_connection_type(self) -> None:
        return None


def pipes() -> tuple[Pipe, Pipe]:
    left, right = trio.testing.memory_stream_pair()
    return Pipe(left, is_initiator=True), Pipe(right, is_initiator=False)
