"""What nodes keep of the segments of answers, however these end: whole nodes in virtual time."""

from dataclasses import replace

import pytest
import trio
from tests.simulation.harness import Simulation, eventually

from aigrid.node.mesh.routing.answer import Segment
from aigrid.node.policy.receipt_queries import Filters, newest, problem_of
from aigrid.protocol.errors import AigridError, Code
from aigrid.protocol.inference import TextRequest
from aigrid.protocol.policy import OperatorPolicy
from aigrid.protocol.receipt import request_hash, seeded

HELLO = TextRequest(prompt="hello there you")


@pytest.fixture
async def sim(tmp_path):
    async with trio.open_nursery() as nursery:
        yield Simulation(9, tmp_path, nursery)
        nursery.cancel_scope.cancel()


async def grid(sim, **options):
    """A node that asks, and one that holds "parrot"."""
    asker = (await sim.start("asker")).node
    holder = (await sim.start("holder")).node
    await sim.join("holder", "asker")
    await sim.publish_echo("holder", "parrot", **options)
    await eventually(asker.router.models, seconds=30)
    return asker, holder


async def kept(node):
    return (await newest(node.policy.receipts.database, Filters(), limit=10))[0]


async def ask(node, request=HELLO, **more):
    async with node.router.infer("parrot", request, request_id="request-1", **more) as answer:
        async for _ in answer.chunks:
            pass
    return answer.segments


async def test_an_answer_names_the_receipt_that_both_ends_keep(sim, autojump_clock):
    asker, holder = await grid(sim)
    (segment,) = await ask(asker)
    (asked,), (served,) = await kept(asker), await kept(holder)
    assert (segment.receipt, segment.receipted) == (asked.id, True)
    assert (asked.id, asked.raw, asked.salt) == (served.id, served.raw, served.salt)
    assert (asked.role, served.role, served.actor) == ("asked", "served", asker.identity.did)
    assert problem_of(asked) is None
    assert request_hash(asked.salt, seeded(HELLO, asked.salt)).encode() in (asked.raw or b"")
    assert (asked.completion_tokens, asked.request_id) == (3, "request-1")


async def test_a_node_that_asks_itself_keeps_both_ends(sim, autojump_clock):
    _, holder = await grid(sim)
    (segment,) = await ask(holder)
    rows = await kept(holder)
    assert {(row.id, row.role, row.state) for row in rows} == {
        (segment.receipt, "asked", "receipted"),
        (segment.receipt, "served", "receipted"),
    }


async def test_a_segment_whose_server_died_is_unreceipted(sim, autojump_clock):
    asker, _ = await grid(sim, delay_ms=1000)
    async with asker.router.infer("parrot", HELLO, request_id="request-1") as answer:
        await anext(answer.chunks)
        sim.kill("holder")
        with pytest.raises(AigridError):
            await anext(answer.chunks)
    (row,) = await kept(asker)
    assert (row.state, row.code, row.completion_tokens) == ("unreceipted", "connection_lost", 1)
    assert row.ended_ms >= row.began_ms


async def test_a_segment_that_was_left_is_kept_at_both_ends(sim, autojump_clock):
    asker, holder = await grid(sim, delay_ms=1000)
    async with asker.router.infer("parrot", HELLO, request_id="request-1") as answer:
        await anext(answer.chunks)
    (row,) = await kept(asker)
    assert (row.state, row.code, row.completion_tokens) == ("unreceipted", "cancelled", 1)
    await eventually(lambda: not holder.serving.running, seconds=3)
    (served,) = await kept(holder)
    assert b'"reason":"cancelled"' in (served.raw or b"")


async def test_receipts_outlive_a_node(sim, autojump_clock):
    asker, _ = await grid(sim)
    (segment,) = await ask(asker)
    sim.kill("asker")
    again = (await sim.start("asker", incarnation=1, with_authority=True)).node
    (row,) = await kept(again)
    assert (row.id, row.state) == (segment.receipt, "receipted")


async def test_hanging_up_early_is_charged_for_the_prompt_too(sim, autojump_clock):
    """Nobody has counted it then; the receipt says what was counted."""
    asker, holder = await grid(sim, delay_ms=1000)
    did = asker.identity.did
    holder.policy.decider.own = replace(
        holder.policy.decider.own, operator=OperatorPolicy(tokens_per_day=1000)
    )
    request = TextRequest(prompt="word " * 800)
    async with asker.router.infer("parrot", request, request_id="request-1") as answer:
        await anext(answer.chunks)
    await eventually(lambda: not holder.serving.running, seconds=3)
    assert holder.policy.budgets.used(f"holder {did}")[1] >= 1000
    with pytest.raises(AigridError) as caught:
        await ask(asker)
    assert caught.value.code is Code.OVER_BUDGET
    (served,) = await kept(holder)
    assert b'"promptTokens":0' in (served.raw or b"")


async def test_a_segment_that_failed_before_its_first_chunk_is_kept_at_both_ends(
    sim, autojump_clock
):
    asker, holder = await grid(sim)
    with pytest.raises(AigridError):  # words alone
        await ask(asker, TextRequest(token_ids=(1, 2, 3)))
    (asked,), (served,) = await kept(asker), await kept(holder)
    assert (asked.id, asked.state) == (served.id, "receipted")
    assert b'"reason":"failed"' in (asked.raw or b"")


async def test_a_failure_of_ones_own_is_kept_as_such_at_both_ends(sim, autojump_clock):
    _, holder = await grid(sim)
    with pytest.raises(AigridError):  # words alone
        await ask(holder, TextRequest(token_ids=(1, 2, 3)))
    asked, served = sorted(await kept(holder), key=lambda row: row.role)
    assert (asked.id, asked.state) == (served.id, "receipted")
    assert b'"reason":"failed"' in (served.raw or b"")


async def test_a_request_that_was_left_before_its_first_chunk_is_kept_at_both_ends(
    sim, autojump_clock
):
    asker, holder = await grid(sim, delay_ms=5000)
    with trio.move_on_after(2):
        await ask(asker)
    (row,) = await kept(asker)
    assert (row.state, row.code, row.completion_tokens) == ("unreceipted", "cancelled", 0)
    await eventually(lambda: not holder.serving.running, seconds=3)
    (served,) = await kept(holder)
    assert (served.request_id, served.state) == (row.request_id, "receipted")


@pytest.mark.parametrize(("silent", "code"), [(False, "connection_lost"), (True, "timeout")])
async def test_a_node_that_is_gone_before_its_first_chunk_is_kept_as_that(
    sim, autojump_clock, *, silent, code
):
    asker, holder = await grid(sim, delay_ms=600_000)
    async with trio.open_nursery() as nursery:

        async def go():
            await trio.sleep(1)
            if silent:
                sim.network.freeze(holder.identity.peer_id)
            else:
                sim.kill("holder")

        nursery.start_soon(go)
        ended: list[Segment] = []
        with pytest.raises(AigridError):
            await ask(asker, ended=ended)
    (row,) = await kept(asker)
    assert (row.state, row.code, row.completion_tokens) == ("unreceipted", code, 0)
    assert [segment.receipt for segment in ended] == [row.id]


async def test_a_refusal_is_no_segment(sim, autojump_clock):
    asker, holder = await grid(sim)
    holder.policy.decider.own = replace(
        holder.policy.decider.own, operator=OperatorPolicy(serves=frozenset())
    )
    with pytest.raises(AigridError):
        await ask(asker)
    assert await kept(asker) == await kept(holder) == []
