"""JSON in and out, for all dialects."""

import msgspec

from aigrid.node.gateway.http.bodies import BodyReader
from aigrid.node.gateway.http.guard import check_json
from aigrid.node.gateway.http.request import Request
from aigrid.node.gateway.http.response import JSON_TYPE, Response


async def json_body(bodies: BodyReader, request: Request, *, unsaid: bool = False) -> bytes:
    """The body of a request that says it is JSON; `unsaid`: or that need not, see `check_json`.

    Raises:
        InvalidRequestError: `unsupported_media_type`, or as `BodyReader.read`.
    """
    check_json(request.fields, unsaid=unsaid)
    return await bodies.read(request)


def json_response(value: object, headers: dict[str, str] | None = None) -> Response:
    """A value as JSON."""
    return Response(msgspec.json.encode(value), headers=headers, media_type=JSON_TYPE)
