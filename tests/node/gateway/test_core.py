"""What the gateway adds to the mesh, without HTTP."""

from dataclasses import replace
from typing import Any

import pytest
import trio
import trio.testing
from tests.node.gateway.double import HELLO, NOW_MS, Batch, ScriptedMesh, text, tokens, view

from aigrid.node.gateway.call import TextCall
from aigrid.node.gateway.core import GatewayCore
from aigrid.node.gateway.http.errors import error_answer
from aigrid.node.gateway.openai.answers import error_body, error_object
from aigrid.node.gateway.step import Step
from aigrid.node.policy.caller import OPERATOR
from aigrid.node.policy.metering import Visit
from aigrid.protocol.errors import CODES, AigridError, Code, InvalidRequestError
from aigrid.protocol.inference import ChatMessage, Finish, Tensor, TensorChunk, TextRequest

ASK = TextRequest(messages=(ChatMessage("user", "hi"),))
CALL = TextCall(("m",), ASK)


def core(mesh: ScriptedMesh) -> GatewayCore:
    return GatewayCore(mesh, status=mesh.status, now_ms=lambda: NOW_MS, token=tokens())


async def steps_of(gateway: GatewayCore) -> list[Step]:
    async with gateway.generate(CALL, request_id="r", visit=Visit(OPERATOR)) as generation:
        return [step async for step in generation]


async def steps(mesh: ScriptedMesh) -> list[Step]:
    return await steps_of(core(mesh))


@pytest.mark.trio
async def test_what_is_ready_together_is_one_step() -> None:
    found = await steps(
        ScriptedMesh((text("a", "b"), text(""), (*text("c"), Finish("stop", 1, 3))))
    )
    assert [step.text for step in found] == ["ab", "c"]
    assert found[-1].finish == Finish("stop", 1, 3)


@pytest.mark.trio
@pytest.mark.parametrize(
    ("script", "code"),
    [
        ((), Code.CONNECTION_LOST),
        ((text("a"),), Code.CONNECTION_LOST),
        ((text("a"), (Finish("stop"), *text("b"))), Code.PROTOCOL_VIOLATION),
        (((Finish("stop"),), text("b")), Code.PROTOCOL_VIOLATION),
        (((Finish("cancelled"),),), Code.CANCELLED),
        (((TensorChunk({"x": Tensor("bool", (0,), b"")}),),), Code.UNSUPPORTED_MODEL),
    ],
)
async def test_an_answer_ends_in_a_finish_or_in_an_error(
    script: tuple[Batch, ...], code: Any
) -> None:
    with pytest.raises(AigridError) as caught:
        await steps(ScriptedMesh(script))
    assert caught.value.code is code


@pytest.mark.trio
@pytest.mark.parametrize("waits_first", [False, True])
async def test_cutting_off_ends_what_waits(
    waits_first: bool, autojump_clock: trio.testing.MockClock
) -> None:
    forever = float("inf")
    mesh = ScriptedMesh((text("a"), forever), before_first=forever if waits_first else None)
    gateway = core(mesh)

    async def ask() -> None:
        with pytest.raises(AigridError) as caught:
            await steps_of(gateway)
        assert caught.value.code is Code.SHUTTING_DOWN

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.sleep(1)
        gateway.refuse_new()
        gateway.cut_off()
        await gateway.drained()
    assert mesh.left.is_set()


@pytest.mark.trio
async def test_new_work_is_refused_once_stopping() -> None:
    mesh = ScriptedMesh(HELLO)
    gateway = core(mesh)
    gateway.refuse_new()
    await gateway.drained()
    with pytest.raises(AigridError) as caught:
        await steps_of(gateway)
    assert caught.value.code is Code.SHUTTING_DOWN
    assert not mesh.asked


KEY = "aigrid-" + "A" * 43  # sent in the wrong field, it would be in logs and receipts


def test_request_ids_are_the_clients_if_well_formed_and_free() -> None:
    gateway = core(ScriptedMesh())
    with gateway.request("abc-DEF_1") as first, gateway.request("abc-DEF_1") as second:
        assert first == "abc-DEF_1"
        assert second.startswith("req_")
    for offered in (None, "", "short", "x" * 65, "with space", "line-feed\n", "ümlaut-id", KEY):
        with gateway.request(offered) as given:
            assert given.startswith("req_")


def test_models_are_found_by_every_name_that_is_unambiguous() -> None:
    views = (view("bafya", "twin"), view("bafyb", "twin"), view("bafyc", "only"))
    gateway = core(ScriptedMesh(views=views))
    assert [entry.listed_id for entry in gateway.models()] == ["bafya", "bafyb", "only"]
    assert gateway.model("only").view.model == "bafyc"
    assert gateway.model("bafyc").listed_id == "bafyc"
    for wanted, code in (("twin", Code.AMBIGUOUS_MODEL), ("nix", Code.MODEL_NOT_FOUND)):
        with pytest.raises(InvalidRequestError) as caught:
            gateway.model(wanted)
        assert caught.value.code is code


def test_a_name_lists_the_model_that_it_means_and_others_by_id() -> None:
    views = (view("bafya", "twin"), replace(view("bafyb", "twin"), meant=False))
    gateway = core(ScriptedMesh(views=views))
    assert [entry.listed_id for entry in gateway.models()] == ["twin", "bafyb"]
    assert gateway.model("twin").view.model == "bafya"
    assert gateway.model("bafyb").view.model == "bafyb"
    alone = core(ScriptedMesh(views=views[1:]))  # what it means is offered by nobody now
    assert [entry.listed_id for entry in alone.models()] == ["bafyb"]


@pytest.mark.parametrize("code", list(Code))
def test_every_code_has_a_complete_error_answer(code: Any) -> None:
    answer = error_answer(AigridError("It happened", code), error_body, retry_after_seconds=0.001)
    assert answer.status == CODES[code].http
    assert ("retry-after" in answer.headers) == (answer.status in {429, 503})
    assert answer.headers.get("retry-after", "1") == "1"
    assert code.value.encode() in answer.body
    if code is not Code.INVALID_REQUEST:
        message = error_object(AigridError("It happened", code))["message"]
        assert message == f"It happened. {CODES[code].next_step}"
