"""Several workers of one model, and models that do not fit together: in virtual time."""

from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from tests.node.mesh.pool.world import World, running
from trio.testing import MockClock

from aigrid.node.mesh.pool.entry import Entry, Replica, Turn
from aigrid.node.mesh.pool.growing import kept_seconds, wants_more, workers_max
from aigrid.protocol.errors import AigridError, Code
from aigrid.protocol.limits import LIMITS


async def hold(world: World, model: str, seconds: float, got: Callable[[], None]) -> None:
    async with world.pool.lease(model):
        got()
        await trio.sleep(seconds)


async def test_when_every_slot_is_taken_and_somebody_waits_another_worker_comes(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path, workers_per_model=3) as world:
        model, at = await world.add(slots=1, memory_bytes=30), []
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(hold, world, model, 100, lambda: at.append(trio.current_time()))
            await trio.sleep(10)
            use = world.pool.view()[model]
            assert (use.workers, use.leases, use.waiting, use.slots) == (3, 3, 0, 3)
            assert use.memory == {"cpu": 90}
            assert world.pool.slots(model) == 3
        # A load, then a while of waiting, and another load.
        assert at[0] == 1.0
        assert max(at) <= 1.0 + 2 * LIMITS.model_grow_seconds + 1.0


async def test_no_more_come_than_are_waited_for_and_than_are_allowed(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path, workers_per_model=2) as world:
        model = await world.add(slots=2, memory_bytes=10)
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(hold, world, model, 5, lambda: None)
        assert len(world.spawner.spawned) == 2


async def test_extra_workers_go_first_then_the_last_one_after_its_keep_alive(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path, workers_per_model=3, keep_alive_seconds=200.0) as world:
        model = await world.add(slots=1, memory_bytes=30)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(hold, world, model, 10, lambda: None)
        assert world.pool.view()[model].workers == 3
        first = world.spawner.spawned[0]
        await trio.sleep(LIMITS.model_extra_idle_seconds + 1)
        assert world.pool.view()[model].workers == 1
        assert not first.died.is_set()
        async with world.pool.lease(model) as worker:
            assert worker is first
        await trio.sleep(199)
        assert world.state(model) == "warm"
        await trio.sleep(2)
        assert world.state(model) == "on_disk"


async def test_leases_go_to_the_least_busy_worker(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path, workers_per_model=2) as world:
        model = await world.add(slots=2, memory_bytes=30)
        got = []

        async def use(seconds: float) -> None:
            async with world.pool.lease(model) as worker:
                got.append(world.spawner.spawned.index(worker))  # type: ignore[arg-type]
                await trio.sleep(seconds)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(use, 20)
            await trio.sleep(5)
            nursery.start_soon(use, 1)
            await trio.sleep(5)
            nursery.start_soon(use, 1)
        assert got == [0, 0, 1, 1, 1]


async def test_an_extra_worker_evicts_nothing_that_is_in_use_or_was_so_lately(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path, workers_per_model=2, keep_alive_seconds=1000.0) as world:
        busy = await world.add(slots=1, memory_bytes=50)
        other = await world.add(slots=2, memory_bytes=40)
        async with world.pool.lease(other):
            pass
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(hold, world, busy, 40, lambda: None)
            await trio.sleep(LIMITS.model_extra_idle_seconds - 2)
            assert [world.state(m) for m in (busy, other)] == ["warm", "warm"]
            assert world.pool.view()[busy].workers == 1
            await trio.sleep(LIMITS.model_grow_pause_seconds + 3)
            assert world.pool.view()[busy].workers == 2  # what nobody has used for long
            assert world.state(other) == "on_disk"


async def test_an_extra_worker_that_crashes_leaves_the_others_and_the_queue(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path, workers_per_model=2) as world:
        model, done = await world.add(slots=1, memory_bytes=30), []
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(hold, world, model, 10, lambda: done.append(1))
            await trio.sleep(5)
            world.spawner.spawned[1].crash()
        assert len(done) == 4
        assert not world.spawner.spawned[0].died.is_set()


async def test_a_model_that_waits_for_memory_in_use_gets_its_turn(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as world:
        hot, other = await world.add(memory_bytes=60, slots=2), await world.add(memory_bytes=50)
        served, refused = dict.fromkeys((hot, other), 0), []

        async def ask_on(model: str) -> None:
            while trio.current_time() < 60:
                try:
                    async with world.pool.lease(model):
                        await trio.sleep(0.7)
                    served[model] += 1
                except AigridError as error:
                    refused.append(error.code)
                    await trio.sleep(error.retry_after_seconds or 1.0)

        async with trio.open_nursery() as nursery:
            for _ in range(3):  # always somebody has a lease of it
                nursery.start_soon(ask_on, hot)
                await trio.sleep(0.3)
            nursery.start_soon(ask_on, other)
        assert min(served.values()) > 10
        assert set(refused) <= {Code.BUSY}


async def test_who_was_asked_to_yield_in_vain_goes_on(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as world:
        held, other = await world.add(memory_bytes=60, slots=2), await world.add(memory_bytes=50)
        async with world.pool.lease(held):
            await trio.sleep(10)
            started = trio.current_time()
            with pytest.raises(AigridError) as refused:
                async with world.pool.lease(other):
                    pass
            assert refused.value.code is Code.BUSY
            assert trio.current_time() - started == LIMITS.model_room_seconds
            with trio.fail_after(0.1):
                async with world.pool.lease(held):
                    pass


async def test_what_can_never_fit_is_not_tried_twice_and_not_offered(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as world:
        huge = await world.add(memory_bytes=101)
        assert world.pool.problem(huge) == ""
        for _ in range(2):
            with pytest.raises(AigridError) as refused:
                async with world.pool.lease(huge):
                    pass
            assert refused.value.code is Code.OUT_OF_MEMORY
        assert "this node has" in world.pool.problem(huge)
        assert world.spawner.estimated == 1


@pytest.mark.parametrize(
    ("configured", "device", "cores", "threads", "accelerators", "most"),
    [
        (0, "cpu", 8, 8, 0, 1),
        (0, "cpu", 8, 2, 0, 4),
        (0, "cpu", 2, 4, 0, 1),
        (0, "cpu", 64, 1, 0, LIMITS.workers_per_model_max),
        (0, "cuda:0", 8, 8, 2, 2),
        (0, "npu:0", 8, 8, 0, 1),
        (3, "cpu", 2, 2, 0, 3),
    ],
)
def test_how_many_workers_of_a_model_make_sense(
    *, configured: int, device: str, cores: int, threads: int, accelerators: int, most: int
) -> None:
    found = workers_max(
        configured,
        device=device,
        cores=cores,
        threads=threads,
        accelerators=accelerators,
        limits=LIMITS,
    )
    assert found == most


def test_a_model_behind_a_server_has_one_worker() -> None:
    entry = Entry("bafymodel", LIMITS)
    entry.replicas.append(Replica(entry))
    entry.waiters.append(Turn(""))
    entry.several = False
    assert not wants_more(entry, 4, 0.0)


def test_a_wish_is_bounded() -> None:
    assert [kept_seconds(wish, 60.0) for wish in (0.0, 5.0, 61.0, -1.0, float("inf"))] == [
        *(0.0, 5.0, 60.0, 60.0, 60.0)
    ]
    assert kept_seconds(float("nan"), 60.0) == 0.0


async def test_who_waits_for_a_slot_does_not_hear_that_no_further_worker_may_come(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path, workers_per_model=2) as world:
        model, at = await world.add(slots=1, memory_bytes=30), []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold, world, model, 100, lambda: None)
            await trio.sleep(2)
            world.spawner.failures = LIMITS.crashes_max
            nursery.start_soon(hold, world, model, 1, lambda: at.append(trio.current_time()))
            await trio.sleep(80)
            assert not world.spawner.failures, "it is quarantined by now"
        assert at == [101.0]
        use = world.pool.view()[model]
        assert (use.leases, use.waiting) == (0, 0)
