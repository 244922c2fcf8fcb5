"""How far long work in a worker has come: told by whoever does it, heard by the node.

Loading may take minutes where a graph is built first. Each word extends the time that the node
waits, so it is told when something has been done, never by a clock.
"""

from collections.abc import Callable

Tell = Callable[[str], None]


def _nobody(_: str) -> None:
    """Without a worker around it an engine works in silence."""


_tell: Tell = _nobody
_last = ""


def hear(tell: Tell) -> None:
    """Have `tell` called, in the thread that works, with a few words now and then."""
    global _tell  # noqa: PLW0603 -- a worker serves one model, and loads it once
    _tell = tell


def told(what: str, done: int, total: int) -> None:
    """So much of `what` is done; told on in steps of at least a hundredth."""
    global _last  # noqa: PLW0603 -- as above
    text = f"{what}: {100 * done // total if total else 100} %"
    if text != _last:
        _last = text
        _tell(text)
