"""SPARQL 1.1 Protocol: `GET` and `POST /sparql`, queries only.

A query is not cancelled when its client leaves: it ends within its limit anyway, and stopping it
earlier would cost the process that holds the dataset.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final, Protocol
from urllib.parse import parse_qsl

from aigrid.metagraph.query import AnswerFormat
from aigrid.node.gateway.http.bodies import BodyReader
from aigrid.node.gateway.http.request import Request
from aigrid.node.gateway.http.response import Response
from aigrid.node.gateway.http.routes import Route
from aigrid.node.gateway.limits import GatewayLimits
from aigrid.node.querying import QueryAnswer
from aigrid.protocol.errors import Code, InvalidRequestError
from aigrid.protocol.limits import LIMITS

PATH: Final = "/sparql"
_FORM, _QUERY = "application/x-www-form-urlencoded", "application/sparql-query"
_UPDATE = "application/sparql-update"
_ESCAPED = 3  # a byte in a form may be three
_FIELDS_MAX = 16
_FORMATS: Final[Mapping[str, tuple[AnswerFormat, ...]]] = {
    **{answer_format.value: (answer_format,) for answer_format in AnswerFormat},
    "application/json": (AnswerFormat.JSON, AnswerFormat.JSONLD),
    "application/xml": (AnswerFormat.XML,),
    "application/n-triples": (AnswerFormat.NQUADS,),
}


class Queries(Protocol):
    """Who answers queries: `node.querying.Querying`."""

    async def query(self, text: str, accepted: tuple[AnswerFormat, ...]) -> QueryAnswer:
        """See `Querying.query`."""


class SparqlEndpoint:
    """The one route of the protocol."""

    def __init__(self, queries: Queries, limits: GatewayLimits) -> None:
        most = _ESCAPED * LIMITS.query_max_bytes + LIMITS.query_max_bytes
        self._queries = queries
        self._bodies = BodyReader(replace(limits, body_max_bytes=most))

    def routes(self) -> list[Route]:
        return [Route(PATH, self._answer, methods=["GET", "POST"])]

    async def _answer(self, request: Request) -> Response:
        if request.method == "POST":
            text = await self._posted(request)
        else:
            text = _query_of(request.query)
        accept = request.fields.get(b"accept", b"").decode("latin-1")
        answer = await self._queries.query(text, accepted(accept))
        return Response(
            answer.body, headers={"vary": "accept"}, media_type=answer.answer_format.value
        )

    async def _posted(self, request: Request) -> str:
        headers = request.fields
        kind = headers.get(b"content-type", b"").decode("latin-1").partition(";")[0]
        kind = kind.strip().lower()
        if kind == _UPDATE:
            raise InvalidRequestError("The data cannot be changed here.", Code.QUERY_REFUSED)
        if kind not in (_FORM, _QUERY):
            raise InvalidRequestError(
                f"A query is posted as {_QUERY} or {_FORM}.", Code.UNSUPPORTED_MEDIA_TYPE
            )
        if headers.get(b"content-encoding", b"identity").strip().lower() != b"identity":
            raise InvalidRequestError(
                "The body must not be compressed.", Code.UNSUPPORTED_MEDIA_TYPE
            )
        body = await self._bodies.read(request)
        if kind == _FORM:
            return _query_of(body)
        _query_of(request.query, required=False)
        return _text(body)


def accepted(header: str) -> tuple[AnswerFormat, ...]:
    """The formats an Accept header names, best first; of those that are not known, none."""
    wanted: list[tuple[float, AnswerFormat]] = []
    for part in header.split(","):
        media_type, *parameters = (piece.strip() for piece in part.split(";"))
        quality = next((p[2:] for p in parameters if p.startswith("q=")), "1")
        try:
            weight = float(quality)
        except ValueError:
            weight = 0.0
        if weight > 0:
            wanted += [(weight, known) for known in _FORMATS.get(media_type.lower(), ())]
    wanted.sort(key=lambda pair: -pair[0])
    return tuple(dict.fromkeys(answer_format for _, answer_format in wanted))


def _query_of(encoded: bytes, *, required: bool = True) -> str:
    """The query in a form. Raises InvalidRequestError."""
    try:
        fields = parse_qsl(
            _text(encoded), keep_blank_values=True, max_num_fields=_FIELDS_MAX, errors="strict"
        )
    except ValueError:
        raise InvalidRequestError("The form cannot be read.", Code.QUERY_MALFORMED) from None
    names = [name for name, _ in fields]
    if "update" in names:
        raise InvalidRequestError("The data cannot be changed here.", Code.QUERY_REFUSED)
    if any(name.endswith("graph-uri") for name in names):
        raise InvalidRequestError("A query may not name its own data.", Code.QUERY_REFUSED)
    if required and names.count("query") != 1:
        raise InvalidRequestError(
            "There has to be one `query`.", Code.QUERY_MALFORMED, param="query"
        )
    return dict(fields).get("query", "")


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidRequestError("The query is not UTF-8.", Code.QUERY_MALFORMED) from None
