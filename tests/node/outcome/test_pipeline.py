"""Pipelines run as their graph has it: what can runs at once, and a step that fails ends it."""

from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from aigrid.node.outcome.asking import Outcome, Reply, Target
from aigrid.node.outcome.modes import Pipeline, Step, mode_of
from aigrid.node.outcome.pipeline import StepFailedError, run
from aigrid.node.outcome.steps import Graph
from aigrid.protocol.errors import EngineError, InvalidRequestError

pytestmark = pytest.mark.trio


def graph(*steps: dict[str, Any], output: str | None = None) -> Graph:
    said = {"name": "pipeline", "steps": steps, "output": output}
    mode = mode_of(msgspec.json.encode(said))
    assert isinstance(mode, Pipeline)
    return Graph(Step("first", "translation"), mode, b'"hi"')


def step(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "capability": "text-classification", **more}


async def shouted(one: Step, value: Any) -> Outcome:
    await trio.sleep(1)
    said = f"{one.name}({value})"
    return Outcome(Reply(Target("n", "m"), msgspec.json.encode(said), said))


async def test_outputs_go_into_what_waits_for_them(autojump_clock: MockClock) -> None:
    outcomes = await run(graph(step("then")), shouted)
    assert outcomes["then"].reply.value == "then(first(hi))"
    assert trio.current_time() == pytest.approx(2)


async def test_what_waits_for_nothing_runs_at_once(autojump_clock: MockClock) -> None:
    made = graph(
        step("a", input={"$from": "input"}),
        step("b", input={"$from": "input"}),
        step("both", input=[{"$from": "a"}, {"$from": "b"}]),
    )
    outcomes = await run(made, shouted)
    assert outcomes["both"].reply.value == "both(['a(hi)', 'b(hi)'])"
    assert trio.current_time() == pytest.approx(2)


async def test_a_step_that_fails_is_named_and_ends_the_others(autojump_clock: MockClock) -> None:
    cancelled = []

    async def failing(one: Step, value: Any) -> Outcome:
        if one.name == "bad":
            raise EngineError("it is broken")
        if one.name == "slow":
            try:
                await trio.sleep(99)
            except trio.Cancelled:
                cancelled.append(one.name)
                raise
        return await shouted(one, value)

    made = graph(step("bad"), step("slow", input="x"))
    with pytest.raises(StepFailedError) as failed:
        await run(made, failing)
    assert (failed.value.step, list(failed.value.done)) == ("bad", ["first"])
    assert isinstance(failed.value.error, EngineError)
    assert cancelled == ["slow"]


async def test_a_pointer_into_nothing_fails_its_step(autojump_clock: MockClock) -> None:
    made = graph(step("then", input={"$from": "first", "path": "/0/label"}))
    with pytest.raises(StepFailedError) as failed:
        await run(made, shouted)
    assert failed.value.step == "then"
    assert isinstance(failed.value.error, InvalidRequestError)
