"""What can be seen of requests, on real nodes: numbers, one trace over two of them, and `top`.

The node "asked" is a gateway, "holder" has the model, "third" looks on. A collector of traces runs
here, over HTTP as any other.
"""

import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from scripts.nodes import AIGRID, NodeProcess, form_grid, stop_all, stream_chat, wait_for
from tests.engines.gguf_writer import tiny_llama, write
from tests.faults.conftest import MODEL, offered

pytestmark = pytest.mark.process
CANARY = "zyxcanary"
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TOKENS = 24
STREAMS, UNKNOWN = 3, 2  # requests of the test of numbers
Sample = tuple[str, frozenset[tuple[str, str]]]


@dataclass(frozen=True)
class Span:
    """As the collector got it."""

    service: str
    name: str
    trace: str
    id: str
    parent: str
    start_ns: int
    end_ns: int
    attributes: Mapping[str, Any]


@dataclass
class Collector:
    """What was exported to it: spans, and the bytes of all requests."""

    url: str
    spans: list[Span] = field(default_factory=list)
    said: bytes = b""

    def take(self, body: bytes) -> None:
        """One `ExportTraceServiceRequest`."""
        from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

        self.said += body
        request: Any = trace_service_pb2.ExportTraceServiceRequest.FromString(body)
        for of in request.resource_spans:
            service = _values(of.resource.attributes)["service.name"]
            for span in (span for scope in of.scope_spans for span in scope.spans):
                self.spans.append(
                    Span(
                        service,
                        span.name,
                        span.trace_id.hex(),
                        span.span_id.hex(),
                        span.parent_span_id.hex(),
                        span.start_time_unix_nano,
                        span.end_time_unix_nano,
                        _values(span.attributes),
                    )
                )

    def of(self, trace: str) -> dict[str, Span]:
        """The spans of a trace, by name."""
        return {span.name: span for span in list(self.spans) if span.trace == trace}


def _values(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


@contextmanager
def collecting() -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            collector.take(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *_: object) -> None:  # noqa: A002 -- its name there
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector = Collector(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()


@dataclass
class Seen:
    """The grid, and whom it tells of its requests."""

    asked: NodeProcess
    holder: NodeProcess
    third: NodeProcess
    collector: Collector

    def stream(self, text: str, **headers: str) -> str:
        """The whole stream of an answer."""
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": TOKENS,
            "temperature": 0,
            "stream": True,
        }
        url = f"{self.asked.gateway}/v1/chat/completions"
        answer = httpx.post(url, json=body, headers=headers, timeout=60)
        assert answer.status_code == 200, answer.text
        assert "[DONE]" in answer.text, answer.text
        return answer.text


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    folder = tmp_path_factory.mktemp("seen")
    with collecting() as collector:
        nodes = [_node(folder, name, collector.url) for name in ("asked", "holder", "third")]
        try:
            form_grid(nodes)
            asked, holder, third = nodes
            path = write(folder, tiny_llama())
            given = ("--capability", "text-generation", "--name", MODEL)
            holder.cli("publish", str(path), *given)
            wait_for(
                lambda: offered(asked) == [holder.peer_id],
                timeout_seconds=20,
                what="the offer at the node that is asked",
            )
            yield Seen(asked, holder, third, collector)
        finally:
            stop_all(nodes)


def _node(folder: Path, name: str, collector: str) -> NodeProcess:
    environment = {
        "AIGRID_POOL": "spares = 0",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector,
        "OTEL_SERVICE_NAME": name,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    return NodeProcess(folder / name, "--name", name, environment=environment)


def scraped(node: NodeProcess) -> dict[Sample, float]:
    """`/metrics` as Prometheus' own parser reads it."""
    answer = httpx.get(f"{node.gateway}/metrics", timeout=10)
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def series(name: str, **labels: str) -> Sample:
    return name, frozenset(labels.items())


def test_numbers_of_both_nodes_are_those_of_the_requests_that_were_made(seen: Seen) -> None:
    before = scraped(seen.asked), scraped(seen.holder)
    for number in range(STREAMS):
        seen.stream(f"{number}")
    for _ in range(UNKNOWN):
        body = {"model": CANARY, "messages": [{"role": "user", "content": CANARY}]}
        url = f"{seen.asked.gateway}/v1/chat/completions"
        assert httpx.post(url, json=body, timeout=20).status_code == 404
    endpoint = {"gen_ai_operation_name": "chat", "gen_ai_request_model": MODEL}
    chat = {"route": "/v1/chat/completions", "dialect": "openai"}
    ended = series("aigrid_requests_total", **chat, status="2xx", code="")

    def since(node: NodeProcess) -> dict[Sample, float]:
        was = before[node is seen.holder]
        return {one: value - was.get(one, 0.0) for one, value in scraped(node).items()}

    wait_for(
        lambda: since(seen.asked).get(ended) == STREAMS,
        timeout_seconds=10,
        what="metrics that are no older than a second",
    )
    here, there = (
        since(seen.asked),
        wait_for(
            lambda: one if (one := since(seen.holder))[series("aigrid_served_total")] else None,
            timeout_seconds=10,
            what="the same of the other node",
        ),
    )
    expected = {
        ended: STREAMS,
        series("aigrid_requests_total", **chat, status="4xx", code="model_not_found"): UNKNOWN,
        series("gen_ai_server_request_duration_seconds_count", **endpoint, error_type=""): STREAMS,
        series("gen_ai_server_time_to_first_token_seconds_count", **endpoint): STREAMS,
        series("gen_ai_server_time_per_output_token_seconds_count", **endpoint): STREAMS,
        series("gen_ai_client_token_usage_sum", **endpoint, gen_ai_token_type="output"): (
            STREAMS * TOKENS
        ),
        series("gen_ai_client_token_usage_count", **endpoint, gen_ai_token_type="input"): STREAMS,
        series("aigrid_overhead_seconds_count", **endpoint): STREAMS,
        series("aigrid_attempts_total", **endpoint): STREAMS,
        series("aigrid_served_total"): 0,  # nothing of it was computed here
    }
    assert {one: here.get(one) for one in expected} == expected
    took = here[series("gen_ai_server_request_duration_seconds_sum", **endpoint, error_type="")]
    first = here[series("gen_ai_server_time_to_first_token_seconds_sum", **endpoint)]
    assert 0 < here[series("aigrid_overhead_seconds_sum", **endpoint)] <= took
    assert 0 < first <= took
    assert there[series("aigrid_served_total")] == STREAMS
    now = scraped(seen.holder)
    assert now[series("aigrid_models", state="warm")] == 1
    assert now[series("aigrid_workers")] == 1
    assert now[series("aigrid_peers", state="alive")] == 2
    assert now[series("aigrid_pool_memory_bytes", place="cpu")] > 0
    assert not any(name == "aigrid_attempts_total" for name, _ in now)  # its gateway had none
    assert not any(CANARY in str(one) for one in (*here, *now))


def test_one_trace_goes_from_the_client_through_two_nodes_to_the_engine(seen: Seen) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the extra otel")
    request_id = "request_of_the_trace"
    headers = {"traceparent": f"00-{TRACE}-{SPAN}-01", "x-request-id": request_id}
    seen.stream(f"tell me {CANARY}", **headers)
    wanted = {
        "gateway POST": ("asked", SPAN),
        "auth": ("asked", "gateway POST"),
        "routing": ("asked", "gateway POST"),
        "attempt": ("asked", "gateway POST"),
        "connect": ("asked", "attempt"),
        "serve": ("holder", "attempt"),
        "policy": ("holder", "serve"),
        "pool lease": ("holder", "serve"),
        "worker infer": ("holder", "serve"),
        "infer": ("holder", "worker infer"),
    }
    collector = seen.collector
    wait_for(
        lambda: wanted.keys() <= collector.of(TRACE).keys(),
        timeout_seconds=20,
        what="the spans of both nodes",
    )
    spans = collector.of(TRACE)
    assert spans.keys() == wanted.keys()
    for name, (service, parent) in wanted.items():
        assert spans[name].service == service, name
        assert spans[name].parent == (spans[parent].id if parent in spans else parent), name
    assert spans["gateway POST"].attributes["aigrid.request_id"] == request_id
    assert spans["serve"].attributes["aigrid.request_id"] == request_id
    engine = spans["infer"]
    assert engine.attributes["gen_ai.usage.output_tokens"] == TOKENS
    assert 0 <= engine.attributes["aigrid.queued_ms"] < engine.attributes["aigrid.first_chunk_ms"]
    lasted_ms = (engine.end_ns - engine.start_ns) / 1e6
    assert engine.attributes["aigrid.first_chunk_ms"] <= lasted_ms + 0.01
    # Both ends by the clock of one node, read at different moments.
    assert spans["worker infer"].start_ns - 5e6 <= engine.start_ns
    assert engine.end_ns <= spans["worker infer"].end_ns + 5e6
    assert CANARY.encode() not in collector.said


def test_top_shows_who_computes_while_requests_run(seen: Seen) -> None:
    over = threading.Event()

    def ask() -> None:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}]}
        while not over.is_set():
            stream_chat(seen.asked.gateway, {**body, "max_tokens": 100, "temperature": 0})

    def shown() -> dict[str, Any] | None:
        body = seen.third.cli("top", "--grid")
        by_peer = {one["peer_id"]: one for one in body["nodes"]}
        busy = by_peer[seen.holder.peer_id]["vitals"] or {"running": 0}
        return by_peer if busy["running"] and busy["completion_per_second"] else None

    clients = [threading.Thread(target=ask) for _ in range(3)]
    for client in clients:
        client.start()
    try:
        rows = wait_for(shown, timeout_seconds=20, what="a holder that is busy")
        command = [*AIGRID, "--data-dir", str(seen.third.data_dir), "top", "--grid", "--once"]
        table = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    finally:
        over.set()
        for client in clients:
            client.join()
    assert {rows[node.peer_id]["state"] for node in (seen.asked, seen.holder, seen.third)} == {
        "fresh"
    }
    busy = rows[seen.holder.peer_id]["vitals"]
    assert busy["models"] == [MODEL]
    assert busy["prompt_per_second"] > 0
    assert 0 < busy["first_p50_ms"] <= busy["first_p95_ms"]
    assert 0 < busy["memory"]["cpu"]["used_bytes"] < busy["memory"]["cpu"]["budget_bytes"]
    for idle in (seen.asked, seen.third):  # who passes requests on computes nothing
        told = rows[idle.peer_id]["vitals"]
        assert (told["running"], told["completion_per_second"], told["first_p50_ms"]) == (
            0,
            0,
            None,
        )
        assert told["memory"]["cpu"]["used_bytes"] == 0
    lines = table.stdout.splitlines()
    assert lines[0] == "3 members: 3 fresh"
    (line,) = [line for line in lines if line.startswith(seen.holder.peer_id[-6:])]
    assert MODEL in line
