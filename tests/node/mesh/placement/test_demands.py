"""A node's Demand: what it says, how often, and that it goes when nobody waits any more."""

from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import pytest
import trio
from tests.metagraph.world import ANN
from tests.node.mesh.shelf.shelf import echo_model

from aigrid.metagraph.graph import Metagraph
from aigrid.metagraph.index import Index
from aigrid.metagraph.store import Store
from aigrid.node.mesh.placement.demands import Demands
from aigrid.protocol.kinds import DemandBody, Kind, ModelBody
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.model import MODEL_URN, model_id
from aigrid.protocol.record import Record

START_MS = 1_800_000_000_000


def now_ms() -> int:
    return START_MS + round(trio.current_time() * 1000)


class World:
    """One node's Demands, and every record of it."""

    def __init__(self, path: Path) -> None:
        self.graph = Metagraph(
            Store(path / "records.db"),
            Index(),
            grid=ANN.did,
            own_did=ANN.did,
            open_to_strangers=False,
            now_ms=now_ms(),
        )
        self.said: list[tuple[float, Record]] = []
        self.queue: dict[str, int] = {}
        self.audience = True
        self.changes = 0
        self.manifests = {}
        for number in range(LIMITS.demands_max + 4):
            description = echo_model(tag=str(number))
            body = ModelBody(
                MODEL_URN + model_id(description), f"m{number}", ("text-generation",), description
            )
            record = self.graph.issue(Kind.MODEL, body, ANN, now_ms=now_ms(), ttl_ms=86_400_000)
            self.manifests[model_id(description)] = record
        self.models = sorted(self.manifests)
        self.graph.listeners.append(lambda record: self.said.append((trio.current_time(), record)))
        self.demands = Demands(
            self.graph,
            ANN,
            queued=lambda: self.queue,
            manifest_of=self.manifests.get,
            audience=lambda: self.audience,
            changed=self._changed,
            now_ms=now_ms,
        )

    def _changed(self) -> None:
        self.changes += 1

    def waiting(self, number: int):
        model = self.models[number]
        return self.demands.waiting(model, self.manifests[model].content_id)

    def last(self) -> dict[str, int]:
        """What was said last, by model; {} for a withdrawal."""
        body = self.said[-1][1].body
        return {w.model: w.waiting for w in body.wanted} if isinstance(body, DemandBody) else {}


@pytest.fixture
async def world(tmp_path: Path):
    made = World(tmp_path)
    async with trio.open_nursery() as nursery:
        await nursery.start(made.demands.run)
        yield made
        nursery.cancel_scope.cancel()


async def test_the_first_that_waits_is_said_at_once_and_withdrawn_when_it_has_gone(
    world, autojump_clock
) -> None:
    await trio.sleep(10)
    with world.waiting(0):
        await trio.sleep(0.01)
        assert [at for at, _ in world.said] == [10]
        assert world.last() == {world.models[0]: 1}
        await trio.sleep(5)
    assert len(world.said) == 1
    await trio.sleep(LIMITS.demand_linger_seconds + LIMITS.demand_interval_seconds)
    assert len(world.said) == 2
    assert world.last() == {}
    assert world.demands.counts() == {}
    assert world.changes == 2


async def test_however_many_come_and_go_there_is_one_record_a_second_at_most(
    world, autojump_clock
) -> None:
    with ExitStack() as stack:
        for number in range(400):
            stack.enter_context(world.waiting(number % 3))
            await trio.sleep(0.02)
    times = [at for at, _ in world.said]
    assert all(b - a >= LIMITS.demand_interval_seconds - 1e-6 for a, b in pairwise(times))
    assert len(times) <= 8
    assert sum(world.last().values()) >= 200


async def test_who_comes_back_within_a_moment_costs_no_record(world, autojump_clock) -> None:
    for _ in range(20):
        with world.waiting(0):
            await trio.sleep(0.5)
        await trio.sleep(LIMITS.demand_linger_seconds / 2)
    assert len(world.said) == 1


async def test_a_number_that_changes_a_little_is_said_later(world, autojump_clock) -> None:
    with ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(world.waiting(0))
        await trio.sleep(2)
        stack.enter_context(world.waiting(0))
        await trio.sleep(LIMITS.demand_refresh_seconds / 2)
        assert world.last() == {world.models[0]: 10}
        await trio.sleep(LIMITS.demand_refresh_seconds)
        assert world.last() == {world.models[0]: 11}


async def test_of_too_many_models_the_most_wanted_are_named(world, autojump_clock) -> None:
    with ExitStack() as stack:
        for number, _ in enumerate(world.models):
            for _ in range(2 if number < 4 else 1):
                stack.enter_context(world.waiting(number))
        await trio.sleep(3)
        said = world.last()
    assert len(said) == LIMITS.demands_max
    assert {world.models[n] for n in range(4)} <= said.keys()


async def test_it_is_renewed_before_it_ends(world, autojump_clock) -> None:
    with world.waiting(0):
        await trio.sleep(LIMITS.demand_ttl_seconds * 3)
    ends = [record.valid_until_ms for _, record in world.said]
    begins = [record.valid_from_ms for _, record in world.said]
    assert 5 <= len(ends) <= 7
    assert all(begin < end for begin, end in zip(begins[1:], ends, strict=False))


async def test_with_nobody_there_nothing_is_said(world, autojump_clock) -> None:
    world.audience = False
    with world.waiting(0):
        await trio.sleep(5)
        assert world.said == []
        world.audience = True
        await trio.sleep(LIMITS.demand_interval_seconds * 1.5)
        assert len(world.said) == 1


async def test_a_queue_that_lasts_is_said_and_a_moments_is_not(world, autojump_clock) -> None:
    model = world.models[0]
    world.queue = {model: 3}
    await trio.sleep(LIMITS.demand_interval_seconds * 1.5)
    world.queue = {}
    await trio.sleep(3)
    assert world.said == []
    world.queue = {model: 3, "unknown": 9}
    await trio.sleep(LIMITS.demand_interval_seconds * 2.5)
    assert world.last() == {model: 3}
    with world.waiting(0):
        assert world.demands.counts() == {model: 4}


async def test_what_was_said_before_a_restart_is_withdrawn(tmp_path, autojump_clock) -> None:
    world = World(tmp_path)
    async with trio.open_nursery() as nursery:
        await nursery.start(world.demands.run)
        with world.waiting(0):
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
    again = Demands(
        world.graph,
        ANN,
        queued=dict,
        manifest_of=world.manifests.get,
        audience=lambda: True,
        changed=lambda: None,
        now_ms=now_ms,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(again.run)
        assert world.last() == {}
        nursery.cancel_scope.cancel()
