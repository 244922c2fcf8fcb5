"""A member that lies about serving costs little, and a dying worker nothing: whole nodes."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from tests.simulation.harness import SimNode, Simulation, eventually
from trio.testing import MockClock

from aigrid.node.app import Node
from aigrid.node.settings.placement import PlacementConfig
from aigrid.node.workers.inline import InlineSpawner
from aigrid.protocol.errors import AigridError, Code, LocalError
from aigrid.protocol.inference import TextChunk, TextRequest
from aigrid.protocol.limits import LIMITS

WORDS = "one two three"


@pytest.fixture
async def sim(tmp_path: Path) -> AsyncIterator[Simulation]:
    async with trio.open_nursery() as nursery:
        yield Simulation(17, tmp_path, nursery)
        nursery.cancel_scope.cancel()


def spawner_of(node: Node) -> InlineSpawner:
    spawner = node._world.spawner
    assert isinstance(spawner, InlineSpawner)
    return spawner


async def grid(sim: Simulation, *holders: str, **options: Any) -> tuple[Node, str]:
    """Node "asker", and some that hold "parrot", which is warm there."""
    trusted = [sim.identity_of("liar").did]
    await sim.start("asker", placement=PlacementConfig(host="nothing"), trusted_publishers=trusted)
    model = ""
    for name in holders:
        await sim.start(name, trusted_publishers=trusted)
        await sim.join(name, "asker")
        model = await sim.publish_echo(name, "parrot", **options)
        async with sim.nodes[name].node.pool.lease(model):
            pass
    asker = sim.nodes["asker"].node
    await eventually(
        lambda: [len(view.nodes) for view in asker.router.models()] == [len(holders)], seconds=30
    )
    await trio.sleep(2)
    return asker, model


def dying(sim: Simulation, name: str, times: int, died: list[Any] | None = None) -> list[Any]:
    """So many of the node's next workers die half a second after a request has reached them.

    `died` are those that have, of several nodes where it is given.
    """
    node, died = sim.nodes[name].node, list[Any]() if died is None else died

    async def watch() -> None:
        while len(died) < times:
            await trio.sleep(0.05)
            spawned = spawner_of(node).spawned
            worker = next((w for w in spawned if w not in died and w._running), None)
            if worker is not None:
                await trio.sleep(0.5)
                died.append(worker)
                worker.crash()

    sim._nursery.start_soon(watch)
    return died


@pytest.mark.parametrize("at", ["asker", "holder"])
async def test_a_worker_that_dies_before_it_has_begun_is_replaced_unseen(
    sim: Simulation, autojump_clock: MockClock, at: str
) -> None:
    if at == "asker":
        await sim.start("asker")
        model = await sim.publish_echo("asker", "parrot", delay_ms=1000)
        async with sim.nodes["asker"].node.pool.lease(model):
            pass
    else:
        await grid(sim, "holder", delay_ms=1000)
    died = dying(sim, at, 1)
    text, served_by = await sim.ask("asker", "parrot", WORDS)
    assert text.strip() == WORDS
    assert served_by == sim.nodes[at].node.identity.peer_id
    assert len(died) == 1
    assert len(spawner_of(sim.nodes[at].node).spawned) == 2


async def test_a_request_that_kills_its_workers_is_tried_again_once(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    names = ("holder", "other", "third")
    await grid(sim, *names, delay_ms=1000)
    died = [dying(sim, name, 9) for name in names]
    with pytest.raises(AigridError) as caught:
        await sim.ask("asker", "parrot", WORDS)
    assert caught.value.code is Code.ENGINE_CRASHED
    assert sum(map(len, died)) == 1 + LIMITS.worker_deaths_max


async def test_with_another_warm_node_a_worker_that_dies_costs_no_load(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    await grid(sim, "holder", "other", delay_ms=1000)
    died: list[Any] = []
    for name in ("holder", "other"):
        dying(sim, name, 1, died)
    text, _ = await sim.ask("asker", "parrot", WORDS)
    assert text.strip() == WORDS
    assert len(died) == 1
    assert [len(spawner_of(sim.nodes[name].node).spawned) for name in ("holder", "other")] == [1, 1]


def stalling(node: Node, calls: list[float], *words: str) -> None:
    """It says that it is warm, and shows signs of life for ever, with these words or with none."""

    @asynccontextmanager
    async def infer(
        _message: Any, _peer: str, *, tell: Callable[[str], Any], **_more: Any
    ) -> AsyncIterator[Any]:
        calls.append(trio.current_time())

        async def signs() -> AsyncIterator[tuple[TextChunk, ...]]:
            while True:
                yield (TextChunk(""),)
                await trio.sleep(1)

        for n in range(10_000 if words else 0):
            await tell(words[n % len(words)])
            await trio.sleep(1)

        class Answer:
            receipt = None

            def __aiter__(self) -> AsyncIterator[tuple[TextChunk, ...]]:
                return signs()

        yield Answer()

    node.serving.infer = infer  # type: ignore[assignment, method-assign]


@pytest.mark.parametrize(
    "words", [(), ("loading: 5 %", "loading: 4 %"), ("starting",), ("loading: 0 %",)]
)
async def test_signs_of_life_without_an_answer_cost_seconds_and_then_nothing(
    sim: Simulation, autojump_clock: MockClock, words: tuple[str, ...]
) -> None:
    asker, model = await grid(sim, "liar", "honest")
    liar = sim.nodes["liar"].node
    calls: list[float] = []
    stalling(liar, calls, *words)
    took, answers = [], []
    for _ in range(20):
        began = trio.current_time()
        answers.append(await sim.ask("asker", "parrot", WORDS))
        took.append(trio.current_time() - began)
    assert all(text.strip() == WORDS for text, _ in answers)
    assert len(calls) == 1
    assert max(took) < 3 * LIMITS.begin_min_seconds
    assert sum(seconds > 2 for seconds in took) == 1
    assert model in asker.peers.observation(liar.identity.peer_id).stalled
    # After each pause it may try once, and the pauses grow.
    for _ in range(30):
        await trio.sleep(60)
        assert (await sim.ask("asker", "parrot", WORDS))[0].strip() == WORDS
    assert len(calls) <= 6


async def test_a_node_with_no_slot_free_is_left_for_another_and_is_no_liar(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    asker, _ = await grid(sim, "liar", "honest")
    liar = sim.nodes["liar"].node
    calls: list[float] = []
    stalling(liar, calls, "in line for a free slot")
    for _ in range(8):
        assert (await sim.ask("asker", "parrot", WORDS))[0].strip() == WORDS
    assert calls
    seen = asker.peers.observation(liar.identity.peer_id)
    assert not seen.stalled
    assert not seen.failures_in_row


async def test_a_load_whose_figures_rise_may_go_on(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    asker, model = await grid(sim, "honest", "other")
    for name in ("honest", "other"):
        node = sim.nodes[name].node
        await node.pool.unload(model)
        spawner_of(node).start_seconds, spawner_of(node).start_words = 200.0, 19
    await trio.sleep(5)
    async with asker.router.infer(
        "parrot", TextRequest(prompt=WORDS), request_id="request-1", patience_seconds=600
    ) as answer:
        assert answer.attempts == 1


@pytest.mark.parametrize("retry", [None, 0.001])
async def test_beside_one_who_says_it_is_free_and_refuses_another_appears(
    sim: Simulation, autojump_clock: MockClock, retry: float | None
) -> None:
    _, model = await grid(sim, "liar", slots=64)
    for name in ("able", "capable"):
        started: SimNode = await sim.start(name, trusted_publishers=[sim.identity_of("liar").did])
        await sim.join(started.name, "asker")
    await trio.sleep(10)
    calls: list[float] = []

    @asynccontextmanager
    async def infer(*_: Any, **_more: Any) -> AsyncIterator[Any]:
        calls.append(trio.current_time())
        raise LocalError("full", Code.BUSY, retry_after_seconds=retry)
        yield

    sim.nodes["liar"].node.serving.infer = infer  # type: ignore[method-assign]
    began = trio.current_time()
    text, served_by = await sim.ask("asker", "parrot", WORDS)
    assert text.strip() == WORDS
    assert served_by != sim.nodes["liar"].node.identity.peer_id
    assert trio.current_time() - began < LIMITS.patience_seconds
    assert len(calls) < 12
    await trio.sleep(60)
    warm = [n for n, s in sim.nodes.items() if s.node.pool.states().get(model) == "warm"]
    assert len(warm) == 2


async def test_who_is_cut_off_before_it_hears_of_its_removal_hears_it_when_it_comes_back(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    a, m = [(await sim.start(name)).node for name in ("a", "m")]
    await sim.join("m", "a")
    await trio.sleep(5)
    pair = a.identity.peer_id, m.identity.peer_id
    sim.network.partition(*pair)
    a.grid.remove(m.identity.did)
    await trio.sleep(30)
    assert m.grid.own_membership() is not None
    sim.network.heal(*pair)
    await eventually(lambda: m.grid.own_membership() is None, seconds=120)
    trouble = m.router.own_trouble()
    assert trouble is not None
    assert "this node is not a member" in trouble.message
