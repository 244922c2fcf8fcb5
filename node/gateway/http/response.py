"""A complete answer: status, headers and body."""

from collections.abc import Mapping
from typing import Final

from aigrid.node.gateway.http.request import Request

JSON_TYPE: Final = "application/json"


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

    async def __call__(self, request: Request) -> None:
        request.begin(self._status, encoded(self._headers))
        await request.write(self._body, last=True)


def encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Headers as they are written."""
    return [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
