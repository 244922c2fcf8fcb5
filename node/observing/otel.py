"""Real traces, through OpenTelemetry's SDK: the extra `aigrid-node[otel]`.

The environment says where they go, by OpenTelemetry's own names: `OTEL_EXPORTER_OTLP_ENDPOINT`
(OTLP over HTTP), `OTEL_SERVICE_NAME`, `OTEL_TRACES_SAMPLER`, `OTEL_BSP_*` and so on.
"""

import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

import structlog
import trio

from aigrid.node.observing.trace import NO_TRACER, Trace, Tracer
from aigrid.protocol.errors import AigridError, Code

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.trace import Span
    from opentelemetry.trace import Tracer as SdkTracer

log = structlog.get_logger()
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_FLUSH_MS: Final = 2000

# As OpenTelemetry's conventions call them; everything else is `aigrid.*`.
_NAMES: Final = {
    "method": "http.request.method",
    "route": "http.route",
    "status": "http.response.status_code",
    "operation": "gen_ai.operation.name",
    "asked": "gen_ai.request.model",
    "prompt_tokens": "gen_ai.usage.input_tokens",
    "completion_tokens": "gen_ai.usage.output_tokens",
}


def tracer_of(environment: Mapping[str, str], peer_id: str) -> Tracer:
    """What the environment asks for; without an endpoint, or without the extra: nothing.

    Spans say that they are of the node `peer_id`, unless the environment names it otherwise.
    """
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
    return OtelTracer(BatchSpanProcessor(OTLPSpanExporter()), peer_id)


class OtelTracer(Tracer):
    """`processor` is told of each span that has ended."""

    enabled = True

    def __init__(self, processor: "SpanProcessor", peer_id: str) -> None:
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider

        ours = {"service.name": "aigrid-node", "service.instance.id": peer_id}
        # What the environment says counts for more than that, and OpenTelemetry's default for less.
        resource = Resource.create(ours).merge(OTELResourceDetector().detect())
        # At exit nobody waits for a collector that does not answer: `close` has its bounds.
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("aigrid.node")

    def begin(self, name: str, parent: str = "") -> Trace:
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind

        context = _remote(parent) if parent else Context()
        span = self._tracer.start_span(name, context=context, kind=SpanKind.SERVER)
        return OtelTrace(self._tracer, span)

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

    def child(self, name: str, *, calls: bool = False) -> Trace:
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind, set_span_in_context

        context = set_span_in_context(self._span, Context())
        kind = SpanKind.CLIENT if calls else SpanKind.INTERNAL
        return OtelTrace(self._tracer, self._tracer.start_span(name, context=context, kind=kind))

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
            if name == "code" and value:
                self._failed(str(value))
            elif value != "":
                self._span.set_attribute(_NAMES.get(name, f"aigrid.{name}"), value)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None and not isinstance(error, GeneratorExit):
            self._failed(_kind(error))
        self._span.end()

    def _failed(self, kind: str) -> None:
        from opentelemetry.trace import StatusCode

        self._span.set_attribute("error.type", kind)
        self._span.set_status(StatusCode.ERROR)


def _kind(error: BaseException) -> str:
    """Its code, or its class: what an error says may be what somebody wrote."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    if isinstance(error, trio.Cancelled):
        return Code.CANCELLED.value
    return error.code.value if isinstance(error, AigridError) else type(error).__name__


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
