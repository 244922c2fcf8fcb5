"""Several answers to one request at once, without HTTP."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio
from tests.node.gateway.double import NOW_MS, Batch, ScriptedMesh, text, tokens
from trio.testing import MockClock

from aigrid.node.gateway.call import TextCall
from aigrid.node.gateway.choices import Choices, numbered, requests_of
from aigrid.node.gateway.core import GatewayCore
from aigrid.node.gateway.step import Step
from aigrid.node.mesh.routing.answer import Answer, Segment
from aigrid.node.policy.caller import OPERATOR
from aigrid.node.policy.metering import Visit
from aigrid.protocol.errors import AigridError, Code, EngineError
from aigrid.protocol.inference import ChatMessage, Finish, InferRequest, TextRequest

pytestmark = pytest.mark.trio
ASK = TextRequest(messages=(ChatMessage("user", "hi"),), seed=2**63 - 2)
CALL = TextCall(("m", "n"), ASK, choices=3)


@dataclass
class Scripts(ScriptedMesh):
    """Answers each choice with its own of `scripts`."""

    scripts: tuple[tuple[Batch, ...], ...] = ()

    @asynccontextmanager
    async def _infer(
        self, model: str, request: InferRequest, request_id: str, ended: list[Segment]
    ) -> AsyncIterator[Answer]:
        number = int(request_id.rpartition("-")[2]) if request_id != "request-1" else 0
        own = ScriptedMesh(self.scripts[number], asked=self.asked, ended=self.ended)
        async with own._infer(model, request, request_id, ended) as answer:
            yield answer


def script(*batches: Batch, seconds: float = 1.0) -> tuple[Batch, ...]:
    return tuple(part for batch in batches for part in (seconds, batch))


def choices_of(mesh: ScriptedMesh, visit: Visit | None = None) -> Choices:
    core = GatewayCore(mesh, status=mesh.status, now_ms=lambda: NOW_MS, token=tokens())
    made = core.generate(CALL, request_id="request-1", visit=visit or Visit(OPERATOR))
    assert isinstance(made, Choices)
    return made


async def texts(choices: Choices) -> list[str]:
    async with choices:
        return [step.text async for step in choices]


async def test_they_run_at_once_and_come_as_they_are_ready(autojump_clock: MockClock) -> None:
    visit = Visit(OPERATOR)
    mesh = Scripts(
        scripts=(
            script(text("a", "b"), text("c"), (Finish("stop", 5, 3),), seconds=2.0),
            script(text("x"), (Finish("length", 5, 1),), seconds=1.5),
            script(text("y"), (Finish("stop", 5, 1),), seconds=10.0),
        )
    )
    async with choices_of(mesh, visit) as choices:
        steps = [step async for step in choices]
    assert trio.current_time() == 20.0
    assert [(step.choice, step.text) for step in steps[:4]] == [
        (1, "x"),
        (0, "ab"),
        (1, ""),
        (0, "c"),
    ]
    ends = {step.choice: step.ended for step in steps if step.ended is not None}
    assert ends == {0: Finish("stop", 5, 3), 1: Finish("length", 5, 1), 2: Finish("stop", 5, 1)}
    assert [step.finish for step in steps if step.finish] == [Finish("stop", 5, 5)]
    assert steps[-1] == Step("", (), Finish("stop", 5, 5))
    asked = sorted(mesh.asked, key=lambda one: one[2])
    assert [
        (id_, request.seed) for _, request, id_ in asked if isinstance(request, TextRequest)
    ] == [
        ("request-1", 2**63 - 2),
        ("request-1-1", 2**63 - 1),
        ("request-1-2", 0),
    ]
    assert mesh.preferred[0][0] == ("n",)
    assert len(choices.segments) == 3
    assert visit.spent == 20


async def test_one_that_fails_ends_them_all(autojump_clock: MockClock) -> None:
    mesh = Scripts(
        scripts=(
            script(text("a"), (Finish("stop", 5, 1),), seconds=0.6),
            script(text("b"), EngineError("broken", Code.ENGINE_FAILED)),
            script(text("c"), float("inf")),
        )
    )
    choices = choices_of(mesh)
    with pytest.raises(AigridError) as caught:
        await texts(choices)
    assert caught.value.code is Code.ENGINE_FAILED
    assert sorted(mesh.ended) == ["EngineError", "cancelled", "clean"]
    assert [segment.tokens for segment in choices.segments] == [1, 1]


async def test_nobody_who_answers_is_an_error_at_once(autojump_clock: MockClock) -> None:
    mesh = ScriptedMesh(before_first=EngineError("broken", Code.ENGINE_FAILED))
    with pytest.raises(AigridError) as caught:
        async with choices_of(mesh):
            pass
    assert caught.value.code is Code.ENGINE_FAILED


async def test_leaving_cancels_them_all(autojump_clock: MockClock) -> None:
    mesh = ScriptedMesh((text("a"), float("inf")))
    async with choices_of(mesh) as choices:
        await anext(choices)
    assert mesh.ended == ["cancelled"] * 3
    with trio.move_on_after(5) as scope:
        async with choices_of(ScriptedMesh((text("a"), float("inf")))) as choices:
            async for _ in choices:
                pass
    assert scope.cancelled_caught


async def test_one_choice_is_one_request_as_it_is() -> None:
    await trio.lowlevel.checkpoint()
    assert list(requests_of(TextCall(("m",), ASK))) == [ASK]
    unseeded = TextRequest(prompt="x")
    assert list(requests_of(TextCall(("m",), unseeded, choices=2))) == [unseeded] * 2
    other = TextRequest(prompt="y", seed=1)
    several = TextCall(("m",), unseeded, others=(other,), choices=2)
    assert [(one.prompt, one.seed) for one in requests_of(several)] == [
        *(("x", None), ("x", None)),
        *(("y", 1), ("y", 2)),
    ]
    assert several.count == 4
    assert numbered("x" * 64, 0) == "x" * 64
    assert len(numbered("x" * 64, 15)) <= 64
