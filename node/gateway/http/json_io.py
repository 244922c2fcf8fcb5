"""JSON in and out, for all dialects."""

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from aigrid.node.gateway.http.asgi import JSON_TYPE, BodyReader
from aigrid.node.gateway.http.guard import check_json


async def json_body(bodies: BodyReader, request: Request) -> bytes:
    """The body of a request that says it is JSON.

    Raises:
        InvalidRequestError: `unsupported_media_type`, or as `BodyReader.read`.
    """
    headers = dict(request.scope["headers"])
    check_json(headers)
    return await bodies.read(headers, request.receive)


def json_response(value: object, headers: dict[str, str] | None = None) -> Response:
    """A value as JSON."""
    return Response(msgspec.json.encode(value), headers=headers, media_type=JSON_TYPE)
