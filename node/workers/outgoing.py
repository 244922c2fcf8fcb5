"""What a node sends to a worker, without anybody waiting for it."""

import contextlib
import socket
from collections import deque

import trio


class Outgoing:
    """`send` never waits; what does not fit into the socket at once is left to `run`, in order."""

    def __init__(self, connection: socket.socket, awaited: trio.socket.SocketType) -> None:
        self._connection = connection
        self._awaited = awaited
        self._rest: deque[memoryview] = deque()
        self._some = trio.Event()

    def send(self, frame: bytes) -> None:
        """What cannot be sent is lost: whoever reads from this worker says why."""
        rest = memoryview(frame)
        if not self._rest:
            with contextlib.suppress(OSError):
                rest = rest[self._connection.send(rest) :]
        if rest:
            self._rest.append(rest)
            self._some.set()

    async def run(self) -> None:
        """Send what was left, until nothing can be sent any more."""
        while True:
            await self._some.wait()
            self._some = trio.Event()
            while self._rest:
                try:
                    sent = await self._awaited.send(self._rest[0])
                except OSError:
                    return
                self._rest[0] = self._rest[0][sent:]
                if not self._rest[0]:
                    self._rest.popleft()
