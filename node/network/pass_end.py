"""A call at the end of the scheduler's pass: when every task that could run has run.

What tasks send in one pass can so leave together, and no later than if a task waited for it.
"""

from collections.abc import Callable

import structlog
import trio

_log = structlog.get_logger(__name__)


class PassEnd(trio.abc.Instrument):
    """Calls what was asked for, once, before trio waits for I/O.

    The callbacks must wake no task: trio has made up its mind how long to sleep. They may ask for
    `soon`, which wakes it.
    """

    def __init__(self) -> None:
        self._due: list[Callable[[], None]] = []
        self._token = trio.lowlevel.current_trio_token()

    def call(self, callback: Callable[[], None]) -> None:
        self._due.append(callback)

    def soon(self, callback: Callable[[], None]) -> None:
        """Call it where it may wake tasks."""
        self._token.run_sync_soon(callback)

    def before_io_wait(self, _timeout: float, /) -> None:
        if self._due:
            due, self._due = self._due, []
            for callback in due:
                try:
                    callback()
                except Exception as error:  # noqa: BLE001 - boundary: trio drops an instrument that raises
                    _log.error("pass_end_failed", error=type(error).__name__)


_of_run: trio.lowlevel.RunVar[PassEnd] = trio.lowlevel.RunVar("pass_end")


def pass_end() -> PassEnd:
    """That of this run of trio."""
    try:
        return _of_run.get()
    except LookupError:
        found = PassEnd()
        trio.lowlevel.add_instrument(found)
        _of_run.set(found)
        return found
