"""A complete answer: status, headers and body."""

from collections.abc import Iterable, Mapping
from typing import Final, Protocol

JSON_TYPE: Final = "application/json"


class Writable(Protocol):
    """A request, or the connection of what is none."""

    def begin(self, status: int, headers: Iterable[tuple[bytes, bytes]], /) -> None: ...

    async def write(self, data: bytes, /, *, last: bool) -> None: ...


class Response:
    """`headers` are beside those for the length and the `media_type`."""

    __slots__ = ("_body", "_headers", "_status")

    def __init__(
        self,
        body: bytes,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        *,
        media_type: str = "",
    ) -> None:
        if media_type.startswith("text/"):
            media_type += "; charset=utf-8"
        typed = {"content-type": media_type} if media_type else {}
        fields = {**(headers or {}), "content-length": str(len(body)), **typed}
        self._body = body
        self._status = status
        self._headers = fields

    async def __call__(self, request: Writable) -> None:
        request.begin(self._status, encoded(self._headers))
        await request.write(self._body, last=True)


def encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Headers as they are written."""
    return [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
