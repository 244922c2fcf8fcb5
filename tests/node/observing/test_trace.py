"""Traces through the gateway: the client's is gone on with, if it is one."""

import json
from typing import Any

import httpx
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from tests.node.gateway.double import (
    NAME,
    ScriptedMesh,
    chat_bytes,
    connect,
    gateway,
    read_until,
    text,
)

from aigrid.node.observing.observer import Observer
from aigrid.node.observing.otel import OtelTracer, tracer_of
from aigrid.node.observing.trace import NO_TRACE, NO_TRACER, traceparent_of
from aigrid.protocol.errors import EngineError, RemoteError
from aigrid.protocol.inference import Finish, TextRequest
from aigrid.protocol.messages import Infer, decode_rpc_request, encode

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"
CANARY = "zyxcanary"


def recorded() -> tuple[OtelTracer, InMemorySpanExporter]:
    spans = InMemorySpanExporter()
    return OtelTracer(SimpleSpanProcessor(spans), "12D3KooWme"), spans


def infer(trace: str) -> Infer:
    return Infer("request_1", "m", "n", TextRequest(prompt="x"), bytes(16), b"", None, trace)


def test_only_a_traceparent_is_one() -> None:
    assert traceparent_of({b"traceparent": PARENT.encode()}) == PARENT
    for wrong in (
        "",
        PARENT.upper(),
        PARENT + "-more",
        PARENT + "\n",
        f"01-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-ff",
    ):
        assert traceparent_of({b"traceparent": wrong.encode()}) == "", wrong


def test_a_message_holds_a_traceparent_or_nothing() -> None:
    for right in ("", PARENT):
        assert decode_rpc_request(encode(infer(right))) == infer(right)
    for wrong in (PARENT + "\n", "hello", PARENT[:-1], f"00-{TRACE}-{SPAN}-02"):
        with pytest.raises(RemoteError, match="trace"):
            decode_rpc_request(encode(infer(wrong)))


@given(st.binary(max_size=64))
def test_whatever_a_client_sends_fits_the_message(raw: bytes) -> None:
    said = traceparent_of({b"traceparent": raw})
    assert decode_rpc_request(encode(infer(said))) == infer(said)


def test_without_an_endpoint_nothing_is_traced() -> None:
    assert tracer_of({}, "me") is NO_TRACER
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
    assert tracer_of({**endpoint, "OTEL_SDK_DISABLED": "true"}, "me") is NO_TRACER
    assert NO_TRACER.begin("x", PARENT).child("y") is NO_TRACE
    assert NO_TRACE.parent == ""


def test_a_parent_is_handed_on_and_sampling_with_it() -> None:
    tracer, spans = recorded()
    with tracer.begin("sampled", PARENT) as trace:
        assert trace.parent.startswith(f"00-{TRACE}-")
        assert trace.parent.endswith("-01")
    with tracer.begin("not sampled", PARENT[:-1] + "0") as trace:
        assert trace.parent.endswith("-00")
    assert [span.name for span in spans.get_finished_spans()] == ["sampled"]


@pytest.mark.trio
async def test_a_request_is_a_span_below_the_clients_without_what_was_said() -> None:
    tracer, spans = recorded()
    mesh = ScriptedMesh(script=(EngineError(CANARY), (Finish("stop"),)))
    async with gateway(mesh, observer=Observer(tracer=tracer)) as (_, address):
        async with httpx.AsyncClient() as client:
            body = {"model": NAME, "messages": [{"role": "user", "content": CANARY}]}
            headers = {"traceparent": PARENT, "authorization": f"Bearer {CANARY}"}
            url = f"http://{address}/v1/chat/completions"
            await client.post(url, json=body, headers=headers)
    made: dict[str, Any] = {span.name: span for span in spans.get_finished_spans()}
    assert made.keys() == {"gateway POST", "auth"}
    request = made["gateway POST"]
    assert f"{request.context.trace_id:032x}" == TRACE
    assert f"{request.parent.span_id:016x}" == SPAN
    assert made["auth"].parent.span_id == request.context.span_id
    said = request.attributes
    assert said["http.route"] == "/v1/chat/completions"
    assert said["http.response.status_code"] == 500
    assert said["gen_ai.operation.name"] == "chat"
    assert said["gen_ai.request.model"] == NAME
    assert said["error.type"] == "engine_failed"
    assert request.status.status_code is StatusCode.ERROR
    assert (request.kind, made["auth"].kind) == (SpanKind.SERVER, SpanKind.INTERNAL)
    assert CANARY not in json.dumps([span.to_json() for span in made.values()])


@pytest.mark.trio
async def test_a_stream_that_its_client_leaves_was_cancelled() -> None:
    tracer, spans = recorded()
    mesh = ScriptedMesh((text("Hello"), trio.Event()))
    async with gateway(mesh, observer=Observer(tracer=tracer)) as (_, address):
        stream = await connect(address, chat_bytes(stream=True))
        await read_until(stream, b"Hello")
        await trio.aclose_forcefully(stream)
        await mesh.left.wait()
    (made,) = [span for span in spans.get_finished_spans() if span.kind is SpanKind.SERVER]
    said: Any = made.attributes
    assert said["http.response.status_code"] == 200
    assert said["error.type"] == "cancelled"
    assert said["gen_ai.usage.output_tokens"] == 1
    assert made.status.status_code is StatusCode.ERROR


@pytest.mark.trio
async def test_what_is_cancelled_says_so_and_not_by_whose_exception() -> None:
    tracer, spans = recorded()
    with trio.CancelScope() as scope, tracer.begin("x") as trace, trace.child("y", calls=True):
        scope.cancel()
        await trio.lowlevel.checkpoint()
    inner: Any
    inner, _ = spans.get_finished_spans()
    assert inner.attributes["error.type"] == "cancelled"
    assert inner.kind is SpanKind.CLIENT


def test_spans_name_the_node_unless_the_environment_does(monkeypatch: pytest.MonkeyPatch) -> None:
    def resource() -> Any:
        tracer, spans = recorded()
        with tracer.begin("x"):
            pass
        return spans.get_finished_spans()[0].resource.attributes

    of = resource()
    assert (of["service.name"], of["service.instance.id"]) == ("aigrid-node", "12D3KooWme")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "theirs")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.instance.id=first")
    of = resource()
    assert (of["service.name"], of["service.instance.id"]) == ("theirs", "first")
