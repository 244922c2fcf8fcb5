"""Traces as the services know them: a span is entered, told things, left. Costs nothing unused.

`otel` makes real ones. Nothing here is "the current span" of a task: a span is handed on as an
argument, so it is safe to hold one open in an asynchronous generator.
"""

import re
from collections.abc import Mapping
from types import TracebackType
from typing import Final, Self

_TRACEPARENT: Final = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-0[01]")


class Trace:
    """A span of a trace; this one does nothing, and neither do its children.

    Attributes:
        parent: the W3C traceparent for whoever works on it elsewhere, or "".
    """

    __slots__ = ()

    @property
    def parent(self) -> str:
        return ""

    def child(self, name: str, *, calls: bool = False) -> "Trace":
        """A span below this one; it begins now, and ends where it is left.

        `calls`: another process is asked meanwhile, and waited for.
        """
        return self

    def past(
        self, name: str, seconds: float, ago_seconds: float, **attributes: str | float | bool
    ) -> None:
        """A span below this one that lasted so long and ended so long ago: others measured it."""

    def tell(self, **_attributes: str | float | bool) -> None:
        """What is known of it: names, ids, counts, codes. Never what a client wrote.

        A `code` that is not "" says that it failed.
        """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """It ends, with the code of the error if it is one of ours."""


class Tracer:
    """Begins traces, and goes on with those of others. This one does not."""

    enabled = False

    def begin(self, name: str, parent: str = "") -> Trace:
        """A span of what is done for another process, below `parent` (a traceparent) if any."""
        return NO_TRACE

    def close(self) -> None:
        """Give away what is not exported yet; blocks for a moment."""


NO_TRACE: Final = Trace()
NO_TRACER: Final = Tracer()


def traceparent_of(headers: Mapping[bytes, bytes]) -> str:
    """What a client says its trace is, if it is well-formed; else ""."""
    said = headers.get(b"traceparent", b"").decode("latin-1")
    return said if _TRACEPARENT.fullmatch(said) else ""
