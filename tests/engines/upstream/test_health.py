"""A server that stops answering is noticed, and so is its return. Real threads, short pauses."""

import threading
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest
from tests.engines.upstream.servers import Server, text_source

from aigrid.engines.base import CancelToken
from aigrid.engines.upstream import health as health_module
from aigrid.engines.upstream.health import Health
from aigrid.engines.upstream.openai_api import OpenAiEngine
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.inference import TextRequest
from aigrid.protocol.limits import LIMITS

QUICK = replace(
    LIMITS,
    upstream_interval_seconds=0.05,
    upstream_retry_seconds=0.02,
    upstream_retry_max_seconds=0.05,
    upstream_probe_seconds=0.3,
    upstream_silence_seconds=0.3,
)
NEVER = replace(QUICK, upstream_interval_seconds=1e6)


def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread does."""
    ticks = threading.Event()
    for _ in range(3000):
        if condition():
            return
        ticks.wait(0.01)
    pytest.fail("nothing happened within half a minute")


@pytest.mark.parametrize("mode", ["hangs", "empty", "fails", "no json", "garbage", "redirects"])
def test_a_server_whose_models_stay_listed_while_generation_is_dead(server: Server, mode):
    engine = OpenAiEngine(QUICK)
    engine.load(text_source(server), threads=1)
    server.mode = mode
    until(lambda: engine.stats().problem != "")
    server.mode = "good"
    until(lambda: engine.stats().problem == "")


def test_a_model_that_was_replaced_under_its_name_is_a_problem(server: Server):
    engine = OpenAiEngine(QUICK)
    engine.load(text_source(server), threads=1)
    server.digest = "sha256:new"
    until(lambda: "version" in engine.stats().problem)


def test_a_failed_request_leads_to_a_trial_at_once(server: Server):
    engine = OpenAiEngine(NEVER)
    engine.load(text_source(server), threads=1)
    server.mode = "fails"
    with pytest.raises(EngineError):
        list(engine.infer(TextRequest(prompt="hello"), CancelToken()))
    until(lambda: engine.stats().problem != "")


class Trials:
    """Records what was tried, and fails as it is told."""

    def __init__(self) -> None:
        self.seen: list[bool] = []
        self.error: EngineError | None = None

    def __call__(self, real: bool) -> None:
        self.seen.append(real)
        if self.error is not None:
            raise self.error


def test_while_requests_are_answered_the_model_is_not_tried(monkeypatch):
    now, seen = [0.0], []
    monkeypatch.setattr(health_module, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def trial(real: bool) -> None:
        seen.append(real)
        now[0] += 2 * QUICK.upstream_interval_seconds
        if len(seen) < 5:
            health.answered()

    health = Health(trial, limits=QUICK)
    health.start()
    until(lambda: len(seen) >= 6)
    assert seen[:6] == [*[False] * 5, True]


def test_a_request_that_the_server_may_refuse_raises_no_suspicion():
    trials = Trials()
    health = Health(trials, limits=NEVER)
    health.start()
    health.failed(EngineError("too long", Code.CONTEXT_LENGTH_EXCEEDED))
    health.failed(EngineError("full", Code.BUSY))
    assert trials.seen == []
    health.failed(EngineError("gone", Code.UNREACHABLE))
    until(lambda: trials.seen == [True])


def test_a_server_without_room_is_alive_and_surprises_are_problems():
    trials = Trials()
    health = Health(trials, limits=QUICK)
    trials.error = EngineError("full", Code.BUSY)
    health.start()
    until(lambda: len(trials.seen) > 2)
    assert health.problem == ""
    trials.error = EngineError("", Code.UNREACHABLE)
    until(lambda: health.problem == "unreachable")


def test_nobody_is_asked_any_more_once_the_model_is_unloaded(server: Server):
    before = set(threading.enumerate())
    engine = OpenAiEngine(NEVER)
    engine.load(text_source(server), threads=1)
    (asking,) = (t for t in set(threading.enumerate()) - before if t.name == "health")
    engine.unload()
    until(lambda: not asking.is_alive())
