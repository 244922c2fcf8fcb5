"""The outer boundary that every request passes, and every error as an answer."""

from collections.abc import Awaitable, Callable, Mapping, Sequence

import structlog

from aigrid.node.gateway.auth.authenticator import Authenticator
from aigrid.node.gateway.core import GatewayCore
from aigrid.node.gateway.http.errors import SpellError, error_answer
from aigrid.node.gateway.http.guard import Hosts, check_caller
from aigrid.node.gateway.http.request import ClientGoneError, Request
from aigrid.node.gateway.http.response import JSON_TYPE, Response
from aigrid.node.gateway.http.routes import MethodNotAllowedError
from aigrid.node.gateway.limits import GatewayLimits
from aigrid.node.gateway.openai.answers import error_body
from aigrid.node.gateway.told import OutcomeError
from aigrid.node.mesh.routing.answer import Segment
from aigrid.node.observing.course import Course
from aigrid.node.observing.observer import Observer
from aigrid.node.settings.places import places_of
from aigrid.protocol.errors import AigridError, Code, LocalError

_log = structlog.get_logger("aigrid.gateway")
_REFUSALS = {
    431: Code.HEADER_TOO_LARGE,
    505: Code.HTTP_VERSION,
    500: Code.INTERNAL,
}
_OPEN = frozenset({"/healthz", "/v2/health/live", "/v2/health/ready"})


class Boundary:
    """The outermost layer: request ids, the guard against web pages, every error an answer.

    Here alone it is decided who gets to a route; all but those that only say whether this node is
    alive find a `visit` in the request.
    `dialect` says by path how an error is spelled there; `observer` is told of every request.
    """

    def __init__(
        self,
        app: Callable[[Request], Awaitable[None]],
        core: GatewayCore,
        limits: GatewayLimits,
        hosts: Hosts,
        *,
        auth: Authenticator,
        dialect: Callable[[str], SpellError],
        observer: Observer,
    ) -> None:
        self._app = app
        self._dialect = dialect
        self._observer = observer
        self._auth = auth
        self._core = core
        self._limits = limits
        self._hosts = hosts

    async def __call__(self, request: Request) -> None:
        offered = request.fields.get(b"x-request-id")
        with self._core.request(None if offered is None else offered.decode("latin-1")) as id_:
            course = request.course = self._core.course(id_)
            self._observer.begins(course, request.method, request.fields)
            request.scheme = self._hosts.scheme
            with course.trace:
                try:
                    check_caller(request.fields, self._hosts)
                    await self._admit(request)
                except ClientGoneError:
                    course.client_gone()
                except Exception as error:  # noqa: BLE001  boundary: a request handler
                    answer = self._answer(error, course, self._dialect(request.path))
                    if course.status == 0:
                        await answer(request)
                course.route = request.route or "other"
                self._observer.ends(course)

    def refusal(self, status: int, reason: str) -> Response:
        """What is answered to what is no request; to be written without one.

        Args:
            status: 400, 431, 505 or, where an endpoint left out to answer, 500.
            reason: one sentence, which names nothing that was sent.
        """
        error = AigridError(reason, _REFUSALS.get(status, Code.INVALID_REQUEST))
        with self._core.request(None) as id_:
            course = self._core.course(id_)
            self._observer.begins(course, "", {})
            course.code, course.status, course.route = error.code, error.info.http, "other"
            self._observer.ends(course)
        headers = {"x-request-id": id_, "connection": "close"}
        return error_response(error, self._limits, error_body, headers)

    async def _admit(self, request: Request) -> None:
        if request.path in _OPEN:
            await self._app(request)
            return
        with request.course.trace.child("auth"):
            found = await self._auth.authenticate(request)
        request.digest = found.digest
        with self._auth.meter.visit(found.caller, found.actor) as request.visit:
            await self._app(request)

    def _answer(self, error: Exception, course: Course, spell: SpellError) -> Response:
        headers: Mapping[str, str] | None = None
        if isinstance(error, MethodNotAllowedError):
            headers = {"allow": error.allow}
        if not isinstance(error, AigridError):
            error = internal_error(error, course.request_id)
        course.code = error.code
        segments = error.segments if isinstance(error, OutcomeError) else ()
        return error_response(error, self._limits, spell, headers, segments=segments)


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
