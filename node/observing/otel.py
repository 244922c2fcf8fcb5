"""Real traces, through OpenTelemetry's SDK: the extra `aigrid-node[otel]`.

The environment says where they go, by OpenTelemetry's own names: `OTEL_EXPORTER_OTLP_ENDPOINT`
(OTLP over HTTP), `OTEL_SERVICE_NAME`, `OTEL_TRACES_SAMPLER`, `OTEL_BSP_*` and so on.
"""

import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

import structlog

from aigrid.node.observing.trace import NO_TRACER, Trace, Tracer
from aigrid.protocol.errors import AigridError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.trace import Span
    from opentelemetry.trace import Tracer as SdkTracer

log = structlog.get_logger()
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_FLUSH_MS: Final = 2000


def tracer_of(environment: Mapping[str, str]) -> Tracer:
    """What the environment asks for; without an endpoint, or without the extra: nothing."""
    if not any(environment.get(name) for name in _ENDPOINTS):
        return NO_TRACER
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return NO_TRACER
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        log.warning("traces_need_the_extra_otel", next_step="pip install 'aigrid-node[otel]'")
        return NO_TRACER
    return OtelTracer(BatchSpanProcessor(OTLPSpanExporter()))


class OtelTracer(Tracer):
    """`processor` is told of each span that has ended."""

    enabled = True

    def __init__(self, processor: "SpanProcessor") -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider

        resource = Resource({"service.name": "aigrid-node"}).merge(Resource.create())
        # At exit nobody waits for a collector that does not answer: `close` has its bounds.
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("aigrid.node")

    def begin(self, name: str, parent: str = "") -> Trace:
        from opentelemetry.context import Context

        context = _remote(parent) if parent else Context()
        return OtelTrace(self._tracer, self._tracer.start_span(name, context=context))

    def close(self) -> None:
        self._provider.force_flush(_FLUSH_MS)


class OtelTrace(Trace):
    """A span that is recorded."""

    __slots__ = ("_span", "_tracer")

    def __init__(self, tracer: "SdkTracer", span: "Span") -> None:
        self._tracer = tracer
        self._span = span

    @property
    def parent(self) -> str:
        context = self._span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags & 1:02x}"

    def child(self, name: str) -> Trace:
        from opentelemetry.context import Context
        from opentelemetry.trace import set_span_in_context

        context = set_span_in_context(self._span, Context())
        return OtelTrace(self._tracer, self._tracer.start_span(name, context=context))

    def past(
        self, name: str, seconds: float, ago_seconds: float, **attributes: str | float | bool
    ) -> None:
        from opentelemetry.context import Context
        from opentelemetry.trace import set_span_in_context

        context = set_span_in_context(self._span, Context())
        now_ns = time.time_ns()  # the clock that the SDK begins and ends its spans by
        ended_ns = now_ns - round(ago_seconds * 1e9)
        begun_ns = ended_ns - round(seconds * 1e9)
        span = self._tracer.start_span(name, context=context, start_time=begun_ns)
        OtelTrace(self._tracer, span).tell(**attributes)
        span.end(ended_ns)

    def tell(self, **attributes: str | float | bool) -> None:
        for name, value in attributes.items():
            self._span.set_attribute(f"aigrid.{name}", value)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None and not isinstance(error, GeneratorExit):
            self._failed(error)
        self._span.end()

    def _failed(self, error: BaseException) -> None:
        """Its code, or its class: what an error says may be what somebody wrote."""
        from opentelemetry.trace import StatusCode

        kind = error.code.value if isinstance(error, AigridError) else type(error).__name__
        self._span.set_attribute("error.type", kind)
        self._span.set_status(StatusCode.ERROR)


def _remote(parent: str) -> Any:
    """The context of a span elsewhere, by its traceparent, whose form was checked."""
    from opentelemetry.context import Context
    from opentelemetry.trace import (
        NonRecordingSpan,
        SpanContext,
        TraceFlags,
        set_span_in_context,
    )

    _, trace, span, flags = parent.split("-")
    said = SpanContext(int(trace, 16), int(span, 16), True, TraceFlags(int(flags, 16)))  # noqa: FBT003
    return set_span_in_context(NonRecordingSpan(said), Context())
