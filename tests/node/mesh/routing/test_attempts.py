"""Which candidates are tried, and what the client hears when none is left: whole nodes."""

from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio
from tests.simulation.harness import Simulation, eventually

from aigrid.node.mesh.routing.summoning import nobody_comes
from aigrid.node.policy.caller import OPERATOR
from aigrid.protocol.errors import (
    AigridError,
    Code,
    EngineError,
    InvalidRequestError,
    LocalError,
    PolicyDeniedError,
    RemoteError,
)
from aigrid.protocol.inference import Finish, TextRequest
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.policy import OperatorPolicy

HELLO = TextRequest(prompt="hello there you")


@pytest.fixture
async def sim(tmp_path):
    async with trio.open_nursery() as nursery:
        yield Simulation(8, tmp_path, nursery)
        nursery.cancel_scope.cancel()


async def grid(sim, holders, **options):
    """Node "asker" and some that hold "parrot", met and known; (asker, holders by PeerId).

    Nobody is summoned: what there is to say is said at once.
    """
    asker = (await sim.start("asker")).node
    asker.router._summon = nobody_comes
    for n in range(holders):
        await sim.start(f"h{n}")
        await sim.join(f"h{n}", "asker")
        await sim.publish_echo(f"h{n}", "parrot", **options)
    await eventually(
        lambda: [len(view.nodes) for view in asker.router.models()] == [holders], seconds=30
    )
    nodes = [sim.nodes[f"h{n}"].node for n in range(holders)]
    return asker, {node.identity.peer_id: node for node in nodes}


def refusing(error, calls):
    @asynccontextmanager
    async def infer(model, request, **_more):
        calls.append(model)
        raise error
        yield

    return infer


async def ask(asker, model="parrot", request=HELLO, **more):
    async with asker.router.infer(
        model, request, request_id="request-1", caller=OPERATOR, **more
    ) as answer:
        batches = [batch async for batch in answer.chunks]
    return answer, batches


async def refused(asker, *args, **more):
    with pytest.raises(AigridError) as caught:
        await ask(asker, *args, **more)
    return caught.value


@pytest.mark.parametrize(
    "error",
    [
        LocalError("full", Code.BUSY, retry_after_seconds=3),
        LocalError("stopping", Code.SHUTTING_DOWN),
        EngineError("died", Code.ENGINE_CRASHED),
        EngineError("broken", Code.ENGINE_FAILED),
        EngineError("no room", Code.OUT_OF_MEMORY),
    ],
)
async def test_a_refusal_leads_to_the_next_candidate(sim, autojump_clock, error):
    asker, holders = await grid(sim, 2)
    calls: list[str] = []
    first, _ = await ask(asker)
    bad = first.node  # whoever would be asked first
    holders[bad].serving.infer = refusing(error, calls)
    answers = [(await ask(asker))[0] for _ in range(4)]
    assert {answer.node for answer in answers} == holders.keys() - {bad}
    assert len(calls) == sum(answer.attempts == 2 for answer in answers) >= 1


async def test_nodes_that_speak_of_other_manifests_hold_a_request_up_once(sim, autojump_clock):
    asker, holders = await grid(sim, 4)
    for node in holders.values():
        node.serving.infer = refusing(PolicyDeniedError("another", Code.WRONG_MANIFEST), [])
    started_seconds = trio.current_time()
    assert (await refused(asker)).code is Code.WRONG_MANIFEST
    assert trio.current_time() - started_seconds < 1.5 * LIMITS.offer_seconds


async def test_nodes_that_may_not_serve_do_not_use_up_the_attempts(sim, autojump_clock):
    asker, holders = await grid(sim, LIMITS.attempts_max + 2)
    allowed, *others = holders
    for peer_id in others:
        decider = holders[peer_id].policy.decider
        decider.own = replace(decider.own, operator=OperatorPolicy(serves=frozenset()))
    for _ in range(3):
        assert (await ask(asker))[0].node == allowed
    decider = holders[allowed].policy.decider
    decider.own = replace(decider.own, operator=OperatorPolicy(serves=frozenset()))
    assert (await refused(asker)).code is Code.NOT_SERVED


async def failing(sim, *, right):
    """(asker, who answers, how often others were asked): more fail than are tried."""
    asker, holders = await grid(sim, LIMITS.attempts_max + 2)
    calls: list[str] = []
    peer_ids = list(holders)
    for peer_id in peer_ids[right:]:
        error = EngineError("out of order", Code.ENGINE_FAILED)
        holders[peer_id].serving.infer = refusing(error, calls)
    return asker, peer_ids[:right], calls


async def test_strangers_that_fail_at_once_do_not_use_up_the_attempts(sim, autojump_clock):
    asker, right, calls = await failing(sim, right=1)
    answers = [(await ask(asker))[0] for _ in range(3)]
    assert {answer.node for answer in answers} == {*right}
    assert answers[0].attempts > LIMITS.attempts_max  # or this shows nothing
    assert len(calls) == answers[0].attempts - 1  # once failed they come last


async def test_of_nodes_that_have_answered_before_only_so_many_are_tried(sim, autojump_clock):
    asker, _, calls = await failing(sim, right=0)
    for one in sim.nodes.values():
        asker.peers.seen(one.node.identity.peer_id).began("parrot", 5.0)
    assert (await refused(asker)).code is Code.ENGINE_FAILED
    assert len(calls) == LIMITS.attempts_max


@pytest.mark.parametrize("nearest", [Code.NO_GRANT, Code.EXPIRED, Code.OVER_BUDGET])
async def test_of_denials_the_one_nearest_to_permission_is_told(sim, autojump_clock, nearest):
    asker, _ = await grid(sim, 3)
    codes = iter([Code.NOT_SERVED, nearest, Code.NOT_SERVED])

    async def deny(*_, **_more):
        await trio.lowlevel.checkpoint()
        raise RemoteError("no", next(codes))

    asker.router._attempts.open = deny
    assert (await refused(asker)).code is nearest


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequestError("too long", Code.CONTEXT_LENGTH_EXCEEDED),
        InvalidRequestError("wrong", Code.INVALID_REQUEST),
    ],
)
async def test_what_is_wrong_with_the_request_is_told_at_once(sim, autojump_clock, error):
    asker, holders = await grid(sim, 2)
    calls: list[str] = []
    for node in holders.values():
        node.serving.infer = refusing(error, calls)
    assert (await refused(asker)).code is error.code
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (LocalError("full", Code.BUSY, retry_after_seconds=3), Code.BUSY),
        (EngineError("no room", Code.OUT_OF_MEMORY), Code.OUT_OF_MEMORY),
        (EngineError("broken", Code.ENGINE_FAILED), Code.ENGINE_FAILED),
        (LocalError("stopping", Code.SHUTTING_DOWN), Code.NO_CANDIDATE),
    ],
)
async def test_when_all_refuse_the_client_hears_what_helps_it(sim, autojump_clock, error, told):
    asker, holders = await grid(sim, 2)
    for node in holders.values():
        node.serving.infer = refusing(error, [])
    heard = await refused(asker)
    assert heard.code is told
    if told is Code.BUSY:
        assert heard.retry_after_seconds == 3
    if told is Code.NO_CANDIDATE:
        assert heard.retry_after_seconds == LIMITS.retry_after_seconds


async def test_a_candidate_that_dies_before_its_first_chunk_is_replaced(sim, autojump_clock):
    asker, holders = await grid(sim, 2, delay_ms=2000)
    names = {node.identity.peer_id: name for name, node in sim_nodes(sim)}
    answers = []

    async def ask_once():
        answers.append((await ask(asker))[0])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask_once)
        await eventually(lambda: any(n.serving.running for n in holders.values()), seconds=5)
        (asked,) = [peer for peer, n in holders.items() if n.serving.running]
        sim.kill(names[asked])
    (answer,) = answers
    assert answer.node != asked
    assert answer.attempts == 2


async def test_one_that_dies_after_its_first_chunk_ends_in_an_error(sim, autojump_clock):
    asker, holders = await grid(sim, 1, delay_ms=1000)
    (peer,) = holders
    async with asker.router.infer(
        "parrot", HELLO, request_id="request-1", caller=OPERATOR
    ) as answer:
        sim.kill("h0")
        await anext(answer.chunks)
        with pytest.raises(AigridError) as caught:
            await anext(answer.chunks)
    assert caught.value.code is Code.CONNECTION_LOST
    assert (await refused(asker)).code is Code.NO_CANDIDATE
    assert not asker.peers.alive(peer)


def sim_nodes(sim):
    return [(name, s.node) for name, s in sim.nodes.items()]


async def test_leaving_early_cancels_the_work_at_the_other_node(sim, autojump_clock):
    asker, holders = await grid(sim, 1, delay_ms=1000)
    (holder,) = holders.values()
    request = TextRequest(prompt="word " * 100)
    async with asker.router.infer(
        "parrot", request, request_id="request-1", caller=OPERATOR
    ) as answer:
        await anext(answer.chunks)
        assert holder.serving.running == 1
    await eventually(lambda: holder.serving.running == 0, seconds=3)
    assert holder.serving.served == 0


async def test_a_node_whose_slots_are_taken_asks_another(sim, autojump_clock):
    asker, holders = await grid(sim, 1, delay_ms=1000, slots=1)
    await sim.publish_echo("asker", "parrot", delay_ms=1000, slots=1)
    await trio.sleep(1)
    await ask(asker)  # both warm
    (holder,) = holders
    await sim.ask("h0", "parrot", "hello")
    await trio.sleep(5)
    async with asker.router.infer(
        "parrot", HELLO, request_id="request-1", caller=OPERATOR
    ) as first:
        assert first.node == asker.identity.peer_id
        async with asker.router.infer(
            "parrot", HELLO, request_id="request-2", caller=OPERATOR
        ) as second:
            assert second.node == holder


async def test_an_answer_counts_its_tokens_and_ends_with_finish(sim, autojump_clock):
    asker, holders = await grid(sim, 1)
    answer, batches = await ask(asker)
    (peer,) = holders
    (segment,) = answer.segments
    assert (segment.node, segment.model, segment.tokens) == (peer, answer.model, 3)
    assert isinstance(batches[-1][-1], Finish)
    assert asker.peers.observation(peer).failures_in_row == 0


async def test_names_resolve_to_one_model_or_to_an_error(sim, autojump_clock):
    asker, holders = await grid(sim, 2)
    assert (await refused(asker, "nothing")).code is Code.MODEL_NOT_FOUND
    theirs = asker.router.resolve("parrot")
    own = await sim.publish_echo("asker", "parrot", tag="own")
    await eventually(lambda: len(asker.router.models()) == 2, seconds=5)
    assert (await ask(asker))[0].model == own
    assert (await ask(asker, theirs))[0].model == theirs
    # To others both are published by members: here by two, there by one.
    (first, _) = holders.values()
    assert first.router.resolve("parrot") == theirs


async def test_a_capability_lets_the_node_choose(sim, autojump_clock):
    asker, _ = await grid(sim, 1)
    answer, _ = await ask(asker, "", capability="text-generation")
    assert answer.name == "parrot"
    assert (await refused(asker, "", capability="fill-mask")).code is Code.NO_CANDIDATE


async def test_a_broken_engine_of_our_own_does_not_count_against_a_peer(sim, autojump_clock):
    asker, holders = await grid(sim, 1)
    await sim.publish_echo("asker", "parrot")
    await trio.sleep(1)
    calls: list[str] = []
    await ask(asker)
    await sim.ask("h0", "parrot", "hello")
    await trio.sleep(5)
    asker.serving.infer = refusing(EngineError("died", Code.ENGINE_CRASHED), calls)
    answer, _ = await ask(asker)
    assert (answer.node, answer.attempts, len(calls)) == (*holders, 2, 1)
    assert asker.peers.observation(answer.node).failures_in_row == 0


async def test_while_the_only_holder_is_left_alone_the_client_hears_for_how_long(
    sim, autojump_clock
):
    asker, holders = await grid(sim, 1)
    (node,) = holders.values()
    node.serving.infer = refusing(EngineError("died", Code.ENGINE_CRASHED), [])
    for _ in range(3):
        await refused(asker)
    error = await refused(asker)
    assert error.code is Code.NO_CANDIDATE
    assert LIMITS.retry_after_seconds < error.retry_after_seconds <= 60


async def test_bad_requests_do_not_count_against_the_node_that_refuses_them(sim, autojump_clock):
    asker, holders = await grid(sim, 1)
    (holder,) = holders.values()
    serve, holder.serving.infer = (
        holder.serving.infer,
        refusing(InvalidRequestError("too long", Code.CONTEXT_LENGTH_EXCEEDED), []),
    )
    for _ in range(5):
        assert (await refused(asker)).code is Code.CONTEXT_LENGTH_EXCEEDED
    holder.serving.infer = serve
    answer, _ = await ask(asker)
    assert answer.node in holders


async def test_a_frozen_holder_is_given_up_as_soon_as_it_is_silent(sim, autojump_clock):
    asker, holders = await grid(sim, 2)
    first, _ = await ask(asker)
    sim.network.freeze(first.node)
    began = trio.current_time()
    seen = {(await ask(asker))[0].node for _ in range(4)}
    bound = 1.2 * LIMITS.ping_interval_seconds + LIMITS.ping_timeout_seconds + 1
    assert trio.current_time() - began < bound
    assert seen == set(holders) - {first.node}
