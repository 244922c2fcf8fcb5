"""What every HTTP dialect shares: the outer boundary, bodies read within bounds, disconnects."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

import structlog
import trio
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aigrid.node.gateway.auth.authenticator import Authenticator
from aigrid.node.gateway.core import GatewayCore
from aigrid.node.gateway.http.errors import SpellError, error_answer
from aigrid.node.gateway.http.guard import Hosts, check_caller
from aigrid.node.gateway.limits import GatewayLimits
from aigrid.node.mesh.routing.answer import Segment
from aigrid.node.observing.course import Course
from aigrid.node.observing.observer import Observer
from aigrid.node.settings.places import places_of
from aigrid.protocol.errors import AigridError, Code, InvalidRequestError, LocalError

T = TypeVar("T")
_log = structlog.get_logger("aigrid.gateway")
REQUEST_ID, VISIT = "aigrid.request_id", "aigrid.visit"
_OPEN = frozenset({"/healthz", "/v2/health/live", "/v2/health/ready"})
JSON_TYPE = "application/json"


class ClientGoneError(Exception):
    """The client left; nobody is there to be answered."""


class Boundary:
    """The outermost layer: request ids, the guard against web pages, every error an answer.

    Here alone it is decided who gets to a route; all but those that only say whether
    this node is alive find a `Visit` in the scope.
    `dialect` says by path how an error is spelled there; `observer` is told of every request, by
    the path of one of the `routes`.
    """

    def __init__(
        self,
        app: ASGIApp,
        core: GatewayCore,
        limits: GatewayLimits,
        hosts: Hosts,
        *,
        auth: Authenticator,
        dialect: Callable[[str], SpellError],
        observer: Observer,
        routes: Sequence[BaseRoute] = (),
    ) -> None:
        self._app = app
        self._dialect = dialect
        self._observer = observer
        self._paths = {one.endpoint: one.path for one in routes if isinstance(one, Route)}
        self._auth = auth
        self._core = core
        self._limits = limits
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"the server passed a {scope['type']} scope")
        headers: dict[bytes, bytes] = dict(scope["headers"])
        offered = headers.get(b"x-request-id")
        with self._core.request(None if offered is None else offered.decode("latin-1")) as id_:
            course = self._core.course(id_)
            self._observer.begins(course, scope["method"], headers)
            scope[REQUEST_ID] = id_
            scope["scheme"] = self._hosts.scheme
            scope["app"] = self  # so that the router raises instead of answering in plain text

            async def send_named(message: Message) -> None:
                if message["type"] == "http.response.start":
                    course.status = message["status"]
                    message["headers"] += _headers_of(course)
                await send(message)

            with course.trace:
                try:
                    check_caller(headers, self._hosts)
                    await self._admit(scope, _Timed(receive, course), send_named)
                except ClientGoneError:
                    course.status = course.status or 499
                except Exception as error:  # noqa: BLE001  boundary: a request handler
                    answer = self._answer(error, course, self._dialect(scope["path"]))
                    if course.status == 0:
                        await answer(scope, receive, send_named)
                course.route = self._paths.get(scope.get("endpoint", self), "other")
                self._observer.ends(course)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in _OPEN:
            await self._app(scope, receive, send)
            return
        course = self._core.course(scope[REQUEST_ID])
        with course.trace.child("auth"):
            found = await self._auth.authenticate(scope)
        with self._auth.meter.visit(found.caller, found.actor) as visit:
            scope[VISIT] = visit
            await self._app(scope, found.body(receive), send)

    def _answer(self, error: Exception, course: Course, spell: SpellError) -> Response:
        headers: Mapping[str, str] | None = None
        if isinstance(error, HTTPException):
            headers, error = error.headers, _routing_error(error.status_code)
        if not isinstance(error, AigridError):
            error = internal_error(error, course.request_id)
        course.code = error.code
        return error_response(error, self._limits, spell, headers)


class _Timed:
    """How a body is received; what is waited for it is the client's time."""

    def __init__(self, receive: Receive, course: Course) -> None:
        self._receive = receive
        self._course: Course | None = course

    async def __call__(self) -> Message:
        course = self._course
        if course is None:  # all of it is there: from now on the client is only watched
            return await self._receive()
        began_seconds = trio.current_time()
        message = await self._receive()
        course.waited(trio.current_time() - began_seconds)
        if not message.get("more_body", False):
            self._course = None
        return message


def _headers_of(course: Course) -> list[tuple[bytes, bytes]]:
    """Who asked, and what a complete answer has cost; a stream says that in its last chunk."""
    headers = [(b"x-request-id", course.request_id.encode())]
    if course.finished:
        headers.append((b"x-aigrid-attempts", str(course.attempts).encode()))
        headers.append((b"x-aigrid-overhead-ms", str(course.overhead_ms).encode()))
    return headers


def _routing_error(status: int) -> AigridError:
    if status == 405:
        return InvalidRequestError("The path has no such method.", Code.METHOD_NOT_ALLOWED)
    return InvalidRequestError("There is nothing at this path.", Code.NOT_FOUND)


def internal_error(error: BaseException, request_id: str) -> AigridError:
    """Log an unexpected exception, where it came from but not what it says; return our error."""
    _log.error("request_failed", request_id=request_id, **places_of(error))
    return LocalError(f"Request {request_id} failed inside this node.", Code.INTERNAL)


def error_response(
    error: AigridError,
    limits: GatewayLimits,
    spell: SpellError,
    headers: Mapping[str, str] | None = None,
    *,
    segments: Sequence[Segment] = (),
) -> Response:
    """An error as an HTTP answer; `segments` are of the answer that it ends."""
    answer = error_answer(
        error, spell, retry_after_seconds=limits.retry_after_seconds, segments=segments
    )
    return Response(
        answer.body, answer.status, {**answer.headers, **(headers or {})}, media_type=JSON_TYPE
    )


class BodyReader:
    """Reads request bodies within a size, a time, and a sum over all clients."""

    def __init__(self, limits: GatewayLimits) -> None:
        self._limits = limits
        self._held_bytes = 0

    async def read(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
        """The whole body.

        Raises:
            InvalidRequestError: `body_too_large` or `request_timeout`.
            LocalError: `busy`, when all bodies together hold too much.
            ClientGoneError: the client left before it was complete.
        """
        if int(headers.get(b"content-length", b"0")) > self._limits.body_max_bytes:
            raise self._too_large()
        body = bytearray()
        try:
            with trio.move_on_after(self._limits.body_seconds):
                while await self._receive_into(body, receive):
                    pass
                return bytes(body)
        finally:
            self._held_bytes -= len(body)
        raise InvalidRequestError("The body did not arrive in time.", Code.REQUEST_TIMEOUT)

    async def _receive_into(self, body: bytearray, receive: Receive) -> bool:
        """Take one message; False after the last."""
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        data: bytes = message.get("body", b"")
        if len(body) + len(data) > self._limits.body_max_bytes:
            raise self._too_large()
        if self._held_bytes + len(data) > self._limits.bodies_max_bytes:
            raise LocalError("Too many large requests arrive at once.", Code.BUSY)
        body += data
        self._held_bytes += len(data)
        return bool(message.get("more_body", False))

    def _too_large(self) -> AigridError:
        return InvalidRequestError(
            f"The body is larger than {self._limits.body_max_bytes} bytes.", Code.BODY_TOO_LARGE
        )


async def until_gone(receive: Receive, work: Callable[[trio.Nursery], Awaitable[T]]) -> T:
    """Run `work`, cancelled when the client leaves.

    Neither Anycorn nor Starlette cancels a handler whose client has left, so `receive` is raced.
    What `work` starts in the nursery ends with it.

    Raises:
        ClientGoneError: the client left first. Otherwise whatever `work` raises.
    """
    results: list[T] = []
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_cancel_when_gone, receive, nursery.cancel_scope)
        try:
            results.append(await work(nursery))
        except Exception as error:  # noqa: BLE001  carried out of the nursery, raised below
            failure = error
        nursery.cancel_scope.cancel()
    try:
        if failure is not None:
            raise failure
    finally:
        del failure  # it holds this frame, and with it the whole request
    if not results:
        raise ClientGoneError
    return results[0]


async def _cancel_when_gone(receive: Receive, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
