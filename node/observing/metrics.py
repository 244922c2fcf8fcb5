"""Numbers for Prometheus: what requests did, and how the node stands when it is asked.

Names are those of OpenTelemetry's conventions for generative AI where it has one, `aigrid_*`
elsewhere. No label has a value that a client or a peer makes up at will: models are named once they
were asked for an answer, as their manifests do, and no more than `metrics_models_max` of them.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from aigrid.node.observing.course import Course
from aigrid.protocol.limits import LIMITS

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS: Final = tuple(0.01 * 2**n for n in range(14))
_FIRST: Final = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1,
    2.5,
    5,
    7.5,
    10,
)
_EACH: Final = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5)
_TOKENS: Final = tuple(4**n for n in range(12))
_OVERHEAD: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 5)
_DIALECTS: Final = {"/v1/": "openai", "/api/": "ollama", "/v2": "open_inference"}
_ENDPOINT: Final = ("gen_ai_operation_name", "gen_ai_request_model")
OTHER: Final = "other"


@dataclass(frozen=True, slots=True)
class Reading:
    """A number of the node as it stands; `values` by those of the labels, one for each name.

    `total`: it only grows, from 0 when the node started.
    """

    name: str
    help: str
    values: Mapping[tuple[str, ...], float]
    labels: tuple[str, ...] = ()
    total: bool = False


@dataclass(slots=True)
class _Answers:
    """The series of one operation on one model, looked up once."""

    first: Histogram
    each: Histogram
    prompt: Histogram
    completion: Histogram
    overhead: Histogram
    attempts: Counter
    continued: Counter
    by_error: dict[str, Histogram] = field(default_factory=dict)


class Metrics:
    """`observe` is told of each request that has ended; `render` may be called in a thread."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._models: dict[str, str] = {}
        self._answers: dict[tuple[str, str], _Answers] = {}
        self._requests_seen: dict[tuple[str, int, str], Counter] = {}
        self._requests = Counter(
            "aigrid_requests",
            "Requests to the gateway that have ended.",
            ("route", "dialect", "status", "code"),
            registry=self._registry,
        )
        self._duration = self._histogram(
            "gen_ai_server_request_duration_seconds",
            "From the arrival of a request for a model's answer to its end.",
            (*_ENDPOINT, "error_type"),
            _SECONDS,
        )
        self._first = self._histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "From the arrival of a request to the first chunk of its answer.",
            _ENDPOINT,
            _FIRST,
        )
        self._each = self._histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "Between two tokens, after the first.",
            _ENDPOINT,
            _EACH,
        )
        self._tokens = self._histogram(
            "gen_ai_client_token_usage",
            "Tokens of a request.",
            (*_ENDPOINT, "gen_ai_token_type"),
            _TOKENS,
        )
        self._overhead = self._histogram(
            "aigrid_overhead_seconds",
            "Of an answer, what was neither an engine's time nor the client's.",
            _ENDPOINT,
            _OVERHEAD,
        )
        self._attempts = Counter(
            "aigrid_attempts", "How often a node was asked.", _ENDPOINT, registry=self._registry
        )
        self._continued = Counter(
            "aigrid_continuations",
            "Answers that went on at another node where they had broken off.",
            _ENDPOINT,
            registry=self._registry,
        )

    def observe(self, course: Course) -> None:
        """A request has ended."""
        code = "" if course.code is None else course.code.value
        key = (course.route, course.status, code)
        counted = self._requests_seen.get(key)
        if counted is None:
            told = (course.route, _dialect(course.route), _class(course.status), code)
            counted = self._requests_seen[key] = self._requests.labels(*told)
        counted.inc()
        if course.operation:
            self._observe_answer(course, code)

    def _observe_answer(self, course: Course, code: str) -> None:
        model, seconds = self._model(course.name), course.seconds
        known = self._answers.get((course.operation, model))
        if known is None:
            known = self._answers[course.operation, model] = self._series(course.operation, model)
        took = known.by_error.get(code)
        if took is None:
            labels = (course.operation, model, code)
            took = known.by_error[code] = self._duration.labels(*labels)
        took.observe(seconds)
        if course.first_seconds is not None:
            known.first.observe(course.first_seconds)
        if course.attempts:
            known.attempts.inc(course.attempts)
        if course.continued:
            known.continued.inc(course.continued)
        if course.counted:
            known.prompt.observe(course.prompt_tokens)
            known.completion.observe(course.completion_tokens)
        if not course.finished:
            return
        known.overhead.observe(course.overhead_ms / 1000)
        if course.longest_tokens > 1 and course.first_seconds is not None:
            each = (seconds - course.first_seconds) / (course.longest_tokens - 1)
            known.each.observe(each)

    def render(self, readings: Iterable[Reading]) -> bytes:
        """All of it in Prometheus' text format."""
        told = CollectorRegistry()
        told.register(_Readings(readings))
        return generate_latest(self._registry) + generate_latest(told)

    def _model(self, name: str) -> str:
        known = self._models.get(name)
        if known is None:
            if len(self._models) >= LIMITS.metrics_models_max:
                return OTHER
            known = self._models[name] = name
        return known

    def _series(self, operation: str, model: str) -> _Answers:
        of = (operation, model)
        return _Answers(
            first=self._first.labels(*of),
            each=self._each.labels(*of),
            prompt=self._tokens.labels(*of, "input"),
            completion=self._tokens.labels(*of, "output"),
            overhead=self._overhead.labels(*of),
            attempts=self._attempts.labels(*of),
            continued=self._continued.labels(*of),
        )

    def _histogram(
        self, name: str, text: str, labels: tuple[str, ...], buckets: tuple[float, ...]
    ) -> Histogram:
        return Histogram(name, text, labels, buckets=buckets, registry=self._registry)


class _Readings(Collector):
    def __init__(self, readings: Iterable[Reading]) -> None:
        self._readings = readings

    def collect(self) -> Iterator[Metric]:
        for one in self._readings:
            made = CounterMetricFamily if one.total else GaugeMetricFamily
            family = made(one.name, one.help, labels=one.labels)
            for labels, value in sorted(one.values.items()):
                family.add_metric(labels, value)
            yield family


def _dialect(route: str) -> str:
    return next((name for start, name in _DIALECTS.items() if route.startswith(start)), "aigrid")


def _class(status: int) -> str:
    return f"{status // 100}xx"
