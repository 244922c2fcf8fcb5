"""What is told of a request over two nodes: its overhead, and one trace."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from tests.simulation.harness import Simulation, eventually
from tests.simulation.test_continuation import ask, world
from trio.testing import MockClock

from aigrid.node.gateway.call import TextCall
from aigrid.node.gateway.core import GatewayCore
from aigrid.node.mesh import serving
from aigrid.node.observing.course import Course
from aigrid.node.observing.observer import Observer
from aigrid.node.observing.otel import OtelTracer
from aigrid.node.observing.trace import NO_TRACER, Tracer
from aigrid.node.observing_setup import readings_of
from aigrid.node.policy.caller import OPERATOR
from aigrid.node.policy.metering import Visit
from aigrid.node.workers import inline
from aigrid.protocol.errors import AigridError, Code
from aigrid.protocol.inference import ChatMessage, TextRequest
from aigrid.protocol.messages import Receipted

pytestmark = pytest.mark.trio
PROMPT = "one two three four five zyxcanaryprompt"
WORDS = len(PROMPT.split())
DELAY_SECONDS = 0.2
LOAD_SECONDS = 0.1  # of an inline worker
HOP_SECONDS = 0.05  # at most, one way
PARENT = f"00-{'ab' * 16}-{'cd' * 8}-01"


@dataclass
class Two:
    """Nodes "asker", which has "near", and "holder", which has "far"."""

    sim: Simulation
    spans: dict[str, InMemorySpanExporter] = field(default_factory=dict)

    def tracer(self, name: str) -> Tracer:
        self.spans[name] = InMemorySpanExporter()
        return OtelTracer(SimpleSpanProcessor(self.spans[name]), name)

    async def ask(self, model: str, *, tracer: Tracer = NO_TRACER, text: str = PROMPT) -> Course:
        """As the gateway's boundary has it done."""
        node = self.sim.nodes["asker"].node
        core = GatewayCore(node.router, status=dict, now_ms=node.now_ms, token=node.new_request_id)
        observer = Observer(tracer=tracer, readings=lambda: readings_of(node, core, {}))
        call = TextCall((model,), TextRequest(messages=(ChatMessage("user", text),)))
        with core.request(None) as request_id:
            course = core.course(request_id)
            observer.begins(course, "POST", {b"traceparent": PARENT.encode()})
            with course.trace:
                try:
                    generation = core.generate(call, request_id=request_id, visit=Visit(OPERATOR))
                    async with generation:
                        async for _ in generation:
                            pass
                except AigridError as error:
                    course.code = error.code
                observer.ends(course)
        return course


@asynccontextmanager
async def two(directory: Path, *traced: str) -> AsyncIterator[Two]:
    async with trio.open_nursery() as nursery:
        made = Two(Simulation(5, directory, nursery))
        sim = made.sim
        for name in ("asker", "holder"):
            await sim.start(name, tracer=made.tracer(name) if name in traced else NO_TRACER)
        await sim.join("holder", "asker")
        for name, model in (("asker", "near"), ("holder", "far")):
            await sim.publish_echo(name, model, delay_ms=DELAY_SECONDS * 1000)
        models = sim.nodes["asker"].node.router.models
        await eventually(lambda: len(models()) == 2, seconds=60)
        yield made
        nursery.cancel_scope.cancel()


async def test_what_an_engine_takes_is_no_overhead_here_or_there(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with two(tmp_path) as made:
        near, far = await made.ask("near"), await made.ask("far")
        again = await made.ask("far")
    assert near.engine_seconds == pytest.approx(LOAD_SECONDS + WORDS * DELAY_SECONDS, rel=0.2)
    assert near.overhead_ms == 0  # in virtual time nothing else takes any
    assert far.engine_seconds == pytest.approx(near.engine_seconds, abs=1e-2)
    assert again.engine_seconds == pytest.approx(near.engine_seconds - LOAD_SECONDS, abs=1e-2)
    # What is between the nodes is the grid's, not the engine's.
    for course in (far, again):
        assert 0 < course.overhead_ms <= 8 * HOP_SECONDS * 1000
        told = course.engine_seconds + course.overhead_ms / 1000
        assert told == pytest.approx(course.seconds, abs=1e-3)


@pytest.mark.parametrize("told_ms", [None, 0.0, 1e12])
async def test_what_a_node_says_of_its_engine_is_held_to_what_was_waited(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, told_ms: float
) -> None:
    said = partial(lambda receipt, _answer: Receipted(receipt.raw, told_ms))
    monkeypatch.setattr(serving, "_receipted_of", said)
    async with two(tmp_path) as made:
        began = trio.current_time()
        course = await made.ask("far")
        took = trio.current_time() - began
    assert 0 <= course.engine_seconds <= took
    assert course.overhead_ms == pytest.approx((took - course.engine_seconds) * 1000, abs=0.1)
    if told_ms == 0:
        assert course.engine_seconds == 0  # it makes the grid look slow, and nobody else


async def test_one_trace_crosses_both_nodes(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with two(tmp_path, "asker", "holder") as made:
        tracer = made.sim.nodes["asker"].node.tracer
        await made.ask("far", tracer=tracer)
        here = made.spans["asker"].get_finished_spans()
        there = made.spans["holder"].get_finished_spans()
    spans: dict[str, Any] = {span.name: span for span in (*here, *there)}
    assert {span.name for span in here} == {"gateway POST", "routing", "attempt", "connect"}
    names = {"serve", "policy", "pool lease", "worker infer", "infer"}
    assert {span.name for span in there} == names
    assert {span.context.trace_id for span in spans.values()} == {int("ab" * 16, 16)}
    assert f"{spans['gateway POST'].parent.span_id:016x}" == "cd" * 8
    for child, parent in (
        ("routing", "gateway POST"),
        ("attempt", "gateway POST"),
        ("serve", "attempt"),
        ("connect", "attempt"),
        ("policy", "serve"),
        ("pool lease", "serve"),
        ("worker infer", "serve"),
        ("infer", "worker infer"),
    ):
        assert spans[child].parent.span_id == spans[parent].context.span_id, child
    assert spans["infer"].attributes == {
        "aigrid.queued_ms": 0.0,
        "aigrid.first_chunk_ms": pytest.approx(DELAY_SECONDS * 1000),
        "gen_ai.usage.input_tokens": WORDS,
        "gen_ai.usage.output_tokens": WORDS,
    }
    kinds = {name: span.kind for name, span in spans.items() if span.kind is not SpanKind.INTERNAL}
    server, client = SpanKind.SERVER, SpanKind.CLIENT
    assert kinds == {"gateway POST": server, "attempt": client, "serve": server}
    lasted_ns = lasted(spans["infer"])
    assert lasted_ns == pytest.approx(WORDS * DELAY_SECONDS * 1e9)
    assert not any(holds_canary(span) for span in spans.values())


def lasted(span: ReadableSpan) -> int:
    """In nanoseconds."""
    assert span.start_time is not None
    assert span.end_time is not None
    return span.end_time - span.start_time


async def test_a_worker_that_boasts_of_its_time_is_held_to_what_was_waited(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inline._Answer, "_ms", lambda _: 1e12)
    async with two(tmp_path, "holder") as made:
        await made.ask("far")
        spans = {span.name: span for span in made.spans["holder"].get_finished_spans()}
    lasted_ns = lasted(spans["infer"])
    assert lasted_ns <= (WORDS + 1) * DELAY_SECONDS * 1e9


async def test_who_has_not_turned_it_on_traces_nothing(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with two(tmp_path, "asker") as made:
        course = await made.ask("far", tracer=made.sim.nodes["asker"].node.tracer)
        assert course.finished
        assert "holder" not in made.spans
        assert made.spans["asker"].get_finished_spans()


async def test_a_span_of_what_failed_has_its_code_and_nothing_of_what_was_said(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with two(tmp_path, "asker") as made:
        tracer = made.sim.nodes["asker"].node.tracer
        course = await made.ask("zyxcanaryprompt", tracer=tracer)
        spans = made.spans["asker"].get_finished_spans()
    assert course.code is Code.MODEL_NOT_FOUND
    routing: Any
    (routing,) = [span for span in spans if span.name == "routing"]
    assert routing.attributes["error.type"] == "model_not_found"
    assert not any(holds_canary(span) for span in spans)


async def test_the_numbers_of_a_node_are_read(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with two(tmp_path) as made:
        await made.ask("near")
        node = made.sim.nodes["asker"].node
        core = GatewayCore(node.router, status=dict, now_ms=node.now_ms, token=node.new_request_id)
        values = {one.name: one.values for one in readings_of(node, core, {"evicted": 2})}
    assert values["aigrid_served"] == {(): 1}
    assert values["aigrid_tasks"][()] > 10
    assert values["aigrid_cold_starts"] == {(): 1}
    assert values["aigrid_models"] == {("warm",): 1, ("loading",): 0, ("on_disk",): 0}
    assert values["aigrid_peers"] == {("alive",): 1, ("not_alive",): 0}
    assert values["aigrid_gateway_guards"] == {("evicted",): 2}
    assert values["aigrid_pool_budget_bytes"] == {("cpu",): 1 << 30}


def holds_canary(span: ReadableSpan) -> bool:
    return "zyxcanary" in span.to_json()


@pytest.mark.parametrize("holder", ["asker", "a"])
@pytest.mark.parametrize("code", [Code.INVALID_REQUEST, Code.ENGINE_FAILED])
async def test_what_is_wrong_with_a_request_is_no_failure_of_the_engine(
    tmp_path: Path, autojump_clock: MockClock, holder: str, code: Code
) -> None:
    async with world(tmp_path, holder) as made:
        made.break_off(*[2] * 9, code=code)
        with pytest.raises(AigridError):
            await ask(made.asker)
        serving = made.sim.nodes[holder].node.serving
        assert serving.served == 0
        assert set(serving.failed) == ({code} if code is Code.ENGINE_FAILED else set())
