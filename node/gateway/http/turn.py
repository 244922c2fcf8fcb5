"""Taking turns at writing."""

import trio


class Turn:
    """A lock for `async with` that is no checkpoint while nobody else holds it.

    Every write that it guards is one itself; the second would be a trip through the scheduler per
    streamed token.
    """

    def __init__(self) -> None:
        self._lock = trio.Lock()

    async def __aenter__(self) -> None:
        try:
            self._lock.acquire_nowait()
        except trio.WouldBlock:
            await self._lock.acquire()

    async def __aexit__(self, *_error: object) -> None:
        self._lock.release()
