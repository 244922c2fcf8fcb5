"""What `GET /metrics` says, read by Prometheus' own parser."""

from collections.abc import AsyncIterator

import httpx
import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families
from tests.node.gateway.double import (
    MODEL,
    NAME,
    NODE,
    ScriptedMesh,
    chat_bytes,
    connect,
    gateway,
    open_access,
    read_until,
    text,
)
from trio.testing import MockClock

from aigrid.node.mesh.routing.answer import Answer
from aigrid.node.observing.course import Course
from aigrid.node.observing.metrics import OTHER, Metrics, Reading
from aigrid.protocol.errors import Code
from aigrid.protocol.inference import Finish, InferChunk
from aigrid.protocol.limits import LIMITS

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(text: str) -> Samples:
    """(name, labels) -> value, as the parser of Prometheus' client reads them."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def named(text: str, name: str) -> dict[frozenset[tuple[str, str]], float]:
    return {labels: value for (n, labels), value in samples(text).items() if n == name}


async def nothing() -> AsyncIterator[tuple[InferChunk, ...]]:
    yield ()


def course(name: str = NAME, *, code: Code | None = None) -> Course:
    """One that was answered, unless there is a code."""
    made = Course("request_1")
    made.route, made.status, made.code = "/v1/chat/completions", 200, code
    made.operation = "chat"
    answer = Answer("request_1", MODEL, name, NODE, nothing(), 2)
    made.answered(answer)
    if code is None:
        made.ended(answer, Finish("stop", 7, 3), 0.0)
    return made


@pytest.mark.trio
async def test_requests_are_counted_by_what_became_of_them() -> None:
    metrics = Metrics()
    metrics.observe(course())
    metrics.observe(course(code=Code.ENGINE_CRASHED))
    text = metrics.render(()).decode()
    requests = named(text, "aigrid_requests_total")
    labels = {"route": "/v1/chat/completions", "dialect": "openai", "status": "2xx"}
    assert requests == {
        frozenset({**labels, "code": ""}.items()): 1,
        frozenset({**labels, "code": "engine_crashed"}.items()): 1,
    }
    of = {"gen_ai_operation_name": "chat", "gen_ai_request_model": NAME}
    found = samples(text)
    for name, more, value in (
        ("gen_ai_client_token_usage_sum", {"gen_ai_token_type": "input"}, 7),
        ("gen_ai_client_token_usage_sum", {"gen_ai_token_type": "output"}, 3),
        ("gen_ai_server_request_duration_seconds_count", {"error_type": ""}, 1),
        ("gen_ai_server_request_duration_seconds_count", {"error_type": "engine_crashed"}, 1),
        ("gen_ai_server_time_to_first_token_seconds_count", {}, 2),
        ("gen_ai_server_time_per_output_token_seconds_count", {}, 1),
        ("aigrid_overhead_seconds_count", {}, 1),
        ("aigrid_attempts_total", {}, 2),
    ):
        assert found[name, frozenset({**of, **more}.items())] == value, name


@pytest.mark.trio
async def test_no_more_models_are_named_than_the_bound() -> None:
    metrics = Metrics()
    for number in range(LIMITS.metrics_models_max + 9):
        metrics.observe(course(f"org/model-{number}"))
    first = named(metrics.render(()).decode(), "gen_ai_server_time_to_first_token_seconds_count")
    assert len(first) == LIMITS.metrics_models_max + 1
    others = {"gen_ai_operation_name": "chat", "gen_ai_request_model": OTHER}
    assert first[frozenset(others.items())] == 9


def test_readings_are_gauges_or_totals() -> None:
    text = (
        Metrics()
        .render(
            (
                Reading("aigrid_leases", "Now.", {(): 3}),
                Reading("aigrid_denied", "Ever.", {("denied",): 2}, ("code",), total=True),
            )
        )
        .decode()
    )
    assert named(text, "aigrid_leases") == {frozenset(): 3}
    assert named(text, "aigrid_denied_total") == {frozenset({("code", "denied")}): 2}


@pytest.mark.trio
async def test_a_scrape_tells_of_the_requests_before_it() -> None:
    async with gateway(ScriptedMesh()) as (_, address), httpx.AsyncClient() as client:
        body = {"model": NAME, "messages": [{"role": "user", "content": "hi"}]}
        await client.post(f"http://{address}/v1/chat/completions", json=body)
        await client.get(f"http://{address}/wp-admin/{'x' * 50}")
        answer = await client.get(f"http://{address}/metrics")
        again = await client.get(f"http://{address}/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    routes = {
        (dict(labels)["route"], dict(labels)["code"])
        for labels in named(answer.text, "aigrid_requests_total")
    }
    assert routes == {("/v1/chat/completions", ""), ("other", "not_found")}
    assert again.text == answer.text  # rendered once a second


@pytest.mark.trio
async def test_who_has_no_key_may_not_scrape_where_keys_are_needed() -> None:
    access = open_access()
    async with gateway(ScriptedMesh(), access=access, keyless=False) as (_, address):
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"http://{address}/metrics")).status_code == 401


@pytest.mark.trio
async def test_the_time_of_a_token_is_that_of_one_choice(autojump_clock: MockClock) -> None:
    metrics = Metrics()
    made = course(code=Code.ENGINE_CRASHED)
    made.code = None
    made.begin()
    await trio.sleep(4)
    for tokens in (5, 3, 1):
        answer = Answer("request_1", MODEL, NAME, NODE, nothing(), 1)
        made.ended(answer, Finish("stop", 7, tokens), 0.0)
    metrics.observe(made)
    text = metrics.render(()).decode()
    (total,) = named(text, "gen_ai_server_time_per_output_token_seconds_sum").values()
    assert total == pytest.approx(1.0)


@pytest.mark.trio
@pytest.mark.parametrize("begun", [False, True])
async def test_a_request_that_its_client_leaves_was_cancelled(*, begun: bool) -> None:
    never = trio.Event()
    mesh = ScriptedMesh((text("one", "two"), never), before_first=None if begun else never)
    async with gateway(mesh) as (_, address), httpx.AsyncClient() as client:
        stream = await connect(address, chat_bytes(stream=True))
        await (read_until(stream, b"two") if begun else mesh.entered.wait())
        await trio.aclose_forcefully(stream)
        await mesh.left.wait()
        await trio.testing.wait_all_tasks_blocked(0.05)
        found = samples((await client.get(f"http://{address}/metrics")).text)
    of = {"gen_ai_operation_name": "chat", "gen_ai_request_model": NAME}
    route = {"route": "/v1/chat/completions", "dialect": "openai"}
    tokens = "gen_ai_client_token_usage_sum"
    for name, labels, value in (
        (
            "aigrid_requests_total",
            {**route, "status": "2xx" if begun else "4xx", "code": "cancelled"},
            1,
        ),
        (
            "gen_ai_server_request_duration_seconds_count",
            {**of, "error_type": "cancelled"},
            1,
        ),
        (tokens, {**of, "gen_ai_token_type": "output"}, 2 if begun else 0),
        ("aigrid_attempts_total", of, 1),
    ):
        assert found[name, frozenset(labels.items())] == value, name
