"""Whose turn it is to write where the link of many streams is full: first come, first served."""

from collections import deque
from collections.abc import Callable

import trio


class WriteTurns:
    """A line. Whoever has written goes to its end by waiting again.

    `may_grant` says whether there is room for one turn more when so many are granted and not used
    yet. Who waits no longer, because of cancellation or otherwise, passes its turn on.
    """

    def __init__(self, may_grant: Callable[[int], bool]) -> None:
        self._may_grant = may_grant
        self._line: deque[trio.Event] = deque()
        self._granted = 0
        self._is_over = False

    @property
    def is_free(self) -> bool:
        """Whether nobody stands in line or is about to write."""
        return not (self._line or self._granted)

    async def wait(self) -> None:
        """Until it is our turn. What follows must use it without an await, and call `grant`."""
        if self._is_over:
            await trio.lowlevel.checkpoint()
            return
        turn = trio.Event()
        self._line.append(turn)
        try:
            await turn.wait()
        except trio.Cancelled:
            if turn.is_set():  # granted in the same moment: it is the next one's
                self._granted -= 1
                self.grant()
            else:
                self._line.remove(turn)
            raise
        self._granted -= 1

    def grant(self) -> None:
        """Wake as many as there is room for."""
        while self._line and (self._is_over or self._may_grant(self._granted)):
            self._granted += 1
            self._line.popleft().set()

    def end(self) -> None:
        """There is nothing to wait for any more: wake everybody, and whoever comes later."""
        self._is_over = True
        self.grant()
