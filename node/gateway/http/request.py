"""A request of a client, as whoever answers it sees it."""

import re
from collections.abc import Awaitable, Iterable
from typing import Final, Protocol, TypeVar
from urllib.parse import unquote_to_bytes

from aigrid.node.observing.course import Course
from aigrid.node.policy.metering import Visit

T = TypeVar("T")
_ABSOLUTE: Final = re.compile(rb"https?://([^/?]*)(.*)", re.IGNORECASE | re.DOTALL)
_HEX: Final = frozenset(b"0123456789abcdefABCDEF")


class ClientGoneError(Exception):
    """The client left; nobody is there to be answered."""


class Exchange(Protocol):
    """The connection that a request came by; see `connection.Connection`."""

    async def receive(self) -> bytes: ...

    async def unless_gone(self, work: Awaitable[T]) -> T: ...

    def begin(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None: ...

    async def write(self, data: bytes, *, last: bool) -> None: ...


class Request:
    """What was asked, and the way to answer it: `begin`, then `write` until the `last` one.

    Attributes:
        method: in capitals.
        path: percent-decoded; `raw_path` and `query` are as they were sent.
        headers: names in lower case, in order; `fields` has the last of each name.
        scheme: `http` or `https`.
        route: the template of its path; "" before it is known.
        path_params: what of the path stands for the names in the template.
        course: what is noted of it, its id with it.
        visit: who asks; of those paths alone that are not open to everybody.
        digest: SHA-256 that its body must have, if it is signed.
    """

    __slots__ = (
        "_exchange",
        "_visit",
        "course",
        "digest",
        "fields",
        "headers",
        "method",
        "path",
        "path_params",
        "query",
        "raw_path",
        "route",
        "scheme",
    )

    def __init__(
        self, exchange: Exchange, method: bytes, target: bytes, headers: list[tuple[bytes, bytes]]
    ) -> None:
        """A host that the target names is the one that counts (RFC 9112, 3.2.2).

        The method is as it was sent: "HeAD" is another than "HEAD" (RFC 9110, 9.1), to h11, too.

        Raises ValueError for a path that is not percent-encoded UTF-8.
        """
        self._exchange = exchange
        self.method = method.decode("ascii")
        self.headers = headers
        self.fields = dict(headers)
        if not target.startswith(b"/") and (absolute := _ABSOLUTE.fullmatch(target)):
            self.fields[b"host"], target = absolute[1], absolute[2]
            target = target if target.startswith(b"/") else b"/" + target
        self.raw_path, _, self.query = target.partition(b"?")
        self.path = _decoded(self.raw_path)
        self.scheme = "http"
        self.route = ""
        self.path_params: dict[str, str] = {}
        self.course = Course("")
        self.digest: bytes | None = None
        self._visit: Visit | None = None

    @property
    def id(self) -> str:
        """The request id."""
        return self.course.request_id

    @property
    def visit(self) -> Visit:
        if self._visit is None:
            raise RuntimeError("this path asks nobody who they are")
        return self._visit

    @visit.setter
    def visit(self, visit: Visit) -> None:
        self._visit = visit

    async def receive(self) -> bytes:
        """The next part of the body, b"" at its end. Raises ClientGoneError."""
        return await self._exchange.receive()

    async def unless_gone(self, work: Awaitable[T]) -> T:
        """Wait for `work`, which is cancelled when the client leaves.

        Raises:
            ClientGoneError: the client left first. Otherwise whatever `work` raises.
        """
        return await self._exchange.unless_gone(work)

    def begin(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Status and header, with the request id; they leave with what is written first."""
        course = self.course
        course.status = status
        self._exchange.begin(status, [*headers, (b"x-request-id", course.request_id.encode())])

    async def write(self, data: bytes, *, last: bool = False) -> None:
        """A part of the answer's body. To a client that is gone, nothing."""
        await self._exchange.write(data, last=last)
        self.course.written = last


def _decoded(path: bytes) -> str:
    """The path as text. Raises ValueError: no two paths may come out as one."""
    if b"%" not in path:
        return path.decode("ascii")
    for part in path.split(b"%")[1:]:
        if len(part) < 2 or not _HEX.issuperset(part[:2]):
            raise ValueError("an escape that is none")
    return unquote_to_bytes(path).decode("utf-8")
