"""Whoever is told of every request as it begins and ends: counts it, traces it, logs it."""

import math
from collections.abc import Callable, Iterable, Mapping

import structlog
import trio

from aigrid.node.observing.course import Course
from aigrid.node.observing.metrics import Metrics, Reading
from aigrid.node.observing.trace import NO_TRACER, Tracer, traceparent_of
from aigrid.protocol.errors import Code
from aigrid.protocol.limits import LIMITS

_log = structlog.get_logger("aigrid.gateway")


class Observer:
    """`readings` gives the numbers of the node as it stands."""

    def __init__(
        self, *, readings: Callable[[], Iterable[Reading]] = tuple, tracer: Tracer = NO_TRACER
    ) -> None:
        self._readings = readings
        self._tracer = tracer
        self._metrics = Metrics()
        self._rendering = trio.Lock()
        self._rendered = b""
        self._rendered_at = -math.inf

    def begins(self, course: Course, method: str, headers: Mapping[bytes, bytes]) -> None:
        """A request has arrived; its trace goes on from the client's, if he says so."""
        course.begin()
        if self._tracer.enabled:
            course.trace = self._tracer.begin(f"gateway {method}", traceparent_of(headers))
            course.trace.tell(method=method)

    def ends(self, course: Course) -> None:
        """It was answered, or the client is gone."""
        course.over()
        self._metrics.observe(course)
        code = "" if course.code is None else course.code.value
        said: dict[str, str | float] = {
            "request_id": course.request_id,
            "route": course.route,
            "status": course.status,
            "code": code,
            "duration_ms": round(course.seconds * 1000, 1),
        }
        if course.first_seconds is not None:
            said["model"], said["node"] = course.model, course.node
        if course.operation:
            said["attempts"] = course.attempts
        if course.counted:
            said["prompt_tokens"] = course.prompt_tokens
            said["completion_tokens"] = course.completion_tokens
        if course.finished:
            said["overhead_ms"] = course.overhead_ms
        if self._tracer.enabled:
            course.trace.tell(**said)
            if course.operation:
                course.trace.tell(operation=course.operation, asked=course.name)
        broken = bool(code) and course.status < 400 and course.code is not Code.CANCELLED
        if course.status >= 500 or broken:  # a stream that broke off
            _log.info("request", **said)
        else:
            _log.debug("request", **said)

    async def render(self) -> bytes:
        """The metrics, no older than a second; made in a thread, once for all who ask at a time."""
        async with self._rendering:
            now = trio.current_time()
            if now - self._rendered_at >= LIMITS.metrics_cache_seconds:
                readings = tuple(self._readings())
                self._rendered = await trio.to_thread.run_sync(self._metrics.render, readings)
                self._rendered_at = now
            return self._rendered
