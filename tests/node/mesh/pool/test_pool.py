"""The pool, in virtual time: who waits, who is refused, what is unloaded when."""

from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio
from tests.node.mesh.pool.world import IDLE_SECONDS, Boaster, Picky, Placed, World, running
from trio.testing import MockClock, wait_all_tasks_blocked

from aigrid.engines.base import Device, Estimate, ModelSource
from aigrid.engines.echo import EchoEngine
from aigrid.node.workers.inline import InlineSpawner
from aigrid.protocol.errors import AigridError, Code, EngineError
from aigrid.protocol.inference import TextRequest
from aigrid.protocol.limits import LIMITS


async def hold(world: World, model: str, until: trio.Event, got: Callable[[], None]) -> None:
    async with world.pool.lease(model):
        got()
        await until.wait()


async def test_a_lease_loads_and_the_change_is_told(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as world:
        model = await world.add()
        assert world.state(model) == "on_disk"
        started = trio.current_time()
        async with (
            world.pool.lease(model) as worker,
            worker.infer(TextRequest(prompt="a b")) as batches,
        ):
            assert sum([len(batch) async for batch in batches]) == 3
            assert world.pool.busy(model) == 1
        assert trio.current_time() - started == 1.0
        assert [change[model] for change in world.changes] == ["loading", "warm"]
        estimate = world.pool.estimate(model)
        assert estimate is not None
        assert estimate.slots == 8
        assert world.pool.busy(model) == 0


async def test_an_engine_that_refuses_leaves_model_and_memory_to_the_next(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    # Room for one of them: what the first had reserved must be free for the second.
    async with running(tmp_path, engines=("picky", "echo"), memory_bytes=60) as world:
        world.spawner.engines = {"picky": Picky, "echo": EchoEngine}
        model = await world.add(memory_bytes=50)
        async with world.pool.lease(model) as worker:
            assert worker.engine == "echo"
        await world.pool.unload(model)
        async with world.pool.lease(await world.add(memory_bytes=55)) as worker:
            assert worker.engine == "echo"


async def test_all_who_wait_share_one_load(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with running(tmp_path) as world:
        model = await world.add()
        workers = []

        async def lease() -> None:
            async with world.pool.lease(model) as worker:
                workers.append(worker)

        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(lease)
        assert len(workers) == 6
        assert len(world.spawner.spawned) == 1


async def test_a_failed_load_fails_all_who_wait_and_the_next_tries_again(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as world:
        model, failed = await world.add(), []
        world.spawner.failures = 1

        async def lease() -> None:
            try:
                async with world.pool.lease(model):
                    pass
            except EngineError as error:
                failed.append(error)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(lease)
        assert [error.code for error in failed] == [Code.ENGINE_CRASHED] * 3
        assert len({id(error) for error in failed}) == 3  # each may be annotated by its task
        assert world.state(model) == "on_disk"
        await lease()
        assert len(failed) == 3
        assert world.state(model) == "warm"


async def test_who_leaves_does_not_cancel_the_load_for_the_others(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as world:
        model = await world.add()
        with trio.move_on_after(0.5):
            async with world.pool.lease(model):
                pass
        async with world.pool.lease(model):
            assert trio.current_time() == pytest.approx(1.0)
        assert len(world.spawner.spawned) == 1


async def test_a_load_that_nobody_waits_for_any_more_is_unloaded_when_idle(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as world:
        model = await world.add()
        with trio.move_on_after(0.5):
            async with world.pool.lease(model):
                pass
        await trio.sleep(2)
        assert world.state(model) == "warm"
        await trio.sleep(IDLE_SECONDS)
        assert world.state(model) == "on_disk"


async def test_slots_bound_who_runs_and_the_queue_bounds_who_waits(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path, queue_max=2) as world:
        model = await world.add(slots=1)
        release, order = [trio.Event() for _ in range(3)], []
        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(
                    hold, world, model, release[number], lambda n=number: order.append(n)
                )
                await trio.sleep(2)
            assert order == [0]
            with pytest.raises(AigridError) as refused:
                async with world.pool.lease(model):
                    pass
            assert refused.value.code is Code.BUSY
            assert refused.value.retry_after_seconds == LIMITS.retry_after_seconds
            for event in release:
                event.set()
        assert order == [0, 1, 2]


async def test_a_waiter_who_gives_up_leaves_no_slot_behind(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as world:
        model = await world.add(slots=1)
        async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
            await stack.enter_async_context(world.pool.lease(model))
            scope = trio.CancelScope()

            async def wait() -> None:
                with scope:
                    async with world.pool.lease(model):
                        pytest.fail("a slot for somebody who has left")

            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            # In one step: the waiter is cancelled, then the slot becomes free and is his.
            scope.cancel()
            await stack.aclose()
        async with world.pool.lease(model):
            assert world.pool.busy(model) == 1
        assert world.pool.busy(model) == 0


async def test_idle_models_are_unloaded_and_used_ones_are_not(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as world:
        idle, used = await world.add(delay_ms=1), await world.add(delay_ms=2)
        async with world.pool.lease(idle):
            pass
        async with world.pool.lease(used):
            await trio.sleep(IDLE_SECONDS * 3)
            assert world.state(idle) == "on_disk"
            assert world.state(used) == "warm"
            assert world.spawner.spawned[0].died.is_set()
        await trio.sleep(IDLE_SECONDS - 1)
        assert world.state(used) == "warm"
        await trio.sleep(2)
        assert world.state(used) == "on_disk"
        assert world.changes[-1] == {idle: "on_disk", used: "on_disk"}


async def test_a_resident_model_stays_holds_no_slot_and_goes_when_unloaded(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as world:
        model = await world.add(slots=1)
        worker = await world.pool.resident(model)
        assert await world.pool.resident(model) is worker
        async with world.pool.lease(model) as leased:
            assert leased is worker
        await trio.sleep(100 * IDLE_SECONDS)
        assert world.state(model) == "warm"
        await world.pool.unload(model)
        assert worker.died.is_set()
        assert world.state(model) == "on_disk"


async def test_a_resident_model_that_cannot_be_loaded_says_why(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as world:
        model = await world.add()
        world.spawner.failures = 1
        with pytest.raises(EngineError) as failed:
            await world.pool.resident(model)
        assert failed.value.code is Code.ENGINE_CRASHED
        await world.pool.resident(model)


async def test_what_can_never_fit_is_refused_without_evicting_anything(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as world:
        small, huge = await world.add(memory_bytes=60), await world.add(memory_bytes=101)
        async with world.pool.lease(small):
            pass
        with pytest.raises(AigridError) as refused:
            async with world.pool.lease(huge):
                pass
        assert refused.value.code is Code.OUT_OF_MEMORY
        assert world.state(small) == "warm"


async def test_room_is_made_by_evicting_what_was_idle_longest(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as world:
        models = [await world.add(memory_bytes=40, slots=n) for n in (1, 2, 3)]
        for model in (models[0], models[1], models[0]):
            async with world.pool.lease(model):
                await trio.sleep(1)
        async with world.pool.lease(models[2]):
            assert [world.state(m) for m in models] == ["warm", "on_disk", "warm"]


async def with_a_card(world: World) -> None:
    world.spawner.engines = {"placed": Placed}
    world.pool.equip([Device("cuda", "card", 250, 250)])
    assert world.pool.budget.purses == {"cpu": 100, "cuda:0": 200}


async def test_each_device_has_a_budget_and_only_the_one_that_is_short_is_cleared(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path, engines=("placed",)) as world:
        await with_a_card(world)
        on_host = await world.add(memory_bytes=60)
        first, second = [
            await world.add(memory_bytes=n, device="cuda:0", host_bytes=10) for n in (120, 110)
        ]
        async with world.pool.lease(on_host):
            await trio.sleep(1)
        async with world.pool.lease(first):
            assert world.pool.reserved() == {"cpu": 70, "cuda:0": 120}
        async with world.pool.lease(second):  # what was idle longest would free nothing there
            assert [world.state(m) for m in (on_host, first)] == ["warm", "on_disk"]
            assert world.pool.reserved() == {"cpu": 70, "cuda:0": 110}
            other = await world.add(memory_bytes=91)
            with pytest.raises(AigridError) as busy:
                async with world.pool.lease(other):
                    pass
            assert busy.value.code is Code.BUSY
            assert world.state(on_host) == "warm"


async def test_a_model_too_large_for_a_device_goes_where_it_fits(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path, engines=("placed",), memory_bytes=300) as world:
        world.spawner.engines = {"placed": Placed}
        world.pool.equip([Device("cuda", "card", 250, 250)])
        large = await world.add(memory_bytes=201, device="cuda:0")
        async with world.pool.lease(large) as worker:
            assert worker.estimate.device == "cpu"
            assert world.pool.reserved() == {"cpu": 201}


async def test_a_model_that_ends_up_elsewhere_is_charged_there_or_not_kept(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path, engines=("placed",)) as world:
        await with_a_card(world)
        fits = await world.add(memory_bytes=80, device="cuda:0", found="cpu")
        async with world.pool.lease(fits):
            assert world.pool.reserved() == {"cpu": 80}
            large = await world.add(memory_bytes=90, device="cuda:0", found="cpu")
            with pytest.raises(AigridError) as refused:
                async with world.pool.lease(large):
                    pass
            assert refused.value.code is Code.BUSY
            assert world.spawner.spawned[-1].died.is_set()
            assert world.pool.reserved() == {"cpu": 80}


async def test_what_takes_more_than_the_node_has_is_not_kept(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as world:
        world.spawner.engines = {"echo": Boaster}
        with pytest.raises(EngineError) as refused:
            async with world.pool.lease(await world.add(memory_bytes=10)):
                pass
        assert refused.value.code is Code.OUT_OF_MEMORY
        assert world.spawner.spawned[0].died.is_set()
        assert world.pool.reserved() == {}


async def test_unloading_breaks_off_a_load_and_who_waits_for_it_has_it_loaded_anew(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as world:
        model, got = await world.add(memory_bytes=90), []

        async def lease() -> None:
            async with world.pool.lease(model) as worker:
                got.append((trio.current_time(), worker))

        async def stay() -> None:
            worker = await world.pool.resident(model)
            got.append((trio.current_time(), worker))

        with trio.move_on_after(0.25):
            await lease()
        await world.pool.unload(model)
        assert world.pool.reserved() == {}
        assert world.state(model) == "on_disk"
        await trio.sleep(5)
        assert world.spawner.spawned == []
        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lease)
            nursery.start_soon(stay)
            await trio.sleep(0.5)
            await world.pool.unload(model)
        (worker,) = world.spawner.spawned
        assert got == [(started + 1.5, worker)] * 2


async def test_a_load_that_ends_as_it_is_broken_off_leaves_no_worker(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as world:
        model = await world.add(memory_bytes=90)

        class Done(EchoEngine):
            """Loads, and is unloaded in the same moment: nothing waits that could be cancelled."""

            def load(self, source: ModelSource, *, threads: int) -> Estimate:
                world.pool._unloading.drop(replica)  # as `unload` does
                replica.scope.cancel()
                return super().load(source, threads=threads)

        world.spawner.engines = {"echo": Done}
        with trio.move_on_after(0.5):
            async with world.pool.lease(model):
                pass
        (replica,) = world.pool._entries[model].replicas
        await replica.settled.wait()
        assert world.pool.reserved() == {}
        (worker,) = world.spawner.spawned
        assert worker.died.is_set()
        assert world.state(model) == "on_disk"


@pytest.mark.parametrize("how", ["unloaded", "stopped"])
async def test_a_worker_is_not_forgotten_when_making_room_for_it_is_broken_off(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    async with running(tmp_path, engines=("placed",)) as world:
        await with_a_card(world)
        model = await world.add(memory_bytes=80, device="cuda:0", found="cpu")

        async def never(*_: object, patient: bool) -> int:
            await trio.sleep_forever()
            raise AssertionError

        with trio.move_on_after(0.5):
            async with world.pool.lease(model):
                pass
        monkeypatch.setattr(world.pool._loading, "admit", never)
        await trio.sleep(1)
        (worker,) = world.spawner.spawned
        assert not worker.died.is_set()
        if how == "unloaded":
            await world.pool.unload(model)
        elif world.pool._loading.nursery is not None:
            world.pool._loading.nursery.cancel_scope.cancel()
            await wait_all_tasks_blocked()
        assert worker.died.is_set()
        assert world.pool.reserved() == {}


async def test_what_is_leased_is_never_evicted(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with running(tmp_path) as world:
        held, other = await world.add(memory_bytes=60), await world.add(memory_bytes=50)
        async with world.pool.lease(held) as worker:
            with pytest.raises(AigridError) as refused:
                async with world.pool.lease(other):
                    pass
            assert refused.value.code is Code.BUSY
            assert not worker.died.is_set()
        async with world.pool.lease(other):
            assert world.state(held) == "on_disk"


async def test_memory_is_given_back_however_a_worker_goes(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as world:
        model, other = await world.add(memory_bytes=90), await world.add(memory_bytes=91)
        async with world.pool.lease(model):
            world.spawner.spawned[-1].crash()
        world.spawner.failures = 1
        with pytest.raises(EngineError):
            async with world.pool.lease(model):
                pass
        async with world.pool.lease(other):
            pass
        await world.pool.unload(other)
        async with world.pool.lease(model):
            pass
        assert world.pool.reserved() == {"cpu": 90}


async def test_a_worker_that_dies_while_idle_is_noticed(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as world:
        model = await world.add()
        async with world.pool.lease(model):
            pass
        world.spawner.spawned[-1].crash()
        await wait_all_tasks_blocked()
        assert world.state(model) == "on_disk"
        assert world.changes[-1] == {model: "on_disk"}
        async with world.pool.lease(model):
            assert world.state(model) == "warm"


async def test_a_crash_fails_the_request_and_who_waits_gets_a_new_worker(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as world:
        model, got = await world.add(slots=1, delay_ms=100), []

        async def second() -> None:
            async with world.pool.lease(model) as worker:
                got.append(worker)

        async with trio.open_nursery() as nursery:
            async with world.pool.lease(model) as first:
                nursery.start_soon(second)
                async with first.infer(TextRequest(prompt="a b c")) as batches:
                    await anext(batches)
                    world.spawner.spawned[-1].crash()
                    with pytest.raises(EngineError) as failed:
                        await anext(batches)
                assert failed.value.code is Code.ENGINE_CRASHED
        assert got == [world.spawner.spawned[1]]


async def test_unloading_waits_for_the_last_lease(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as world:
        model = await world.add()
        async with world.pool.lease(model) as worker:
            await world.pool.unload(model)
            assert not worker.died.is_set()
            assert world.state(model) == "on_disk"
        await wait_all_tasks_blocked()
        assert worker.died.is_set()


async def test_a_model_that_is_not_here_is_not_found(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as world:
        with pytest.raises(AigridError) as unknown:
            async with world.pool.lease("nothing"):
                pass
        assert unknown.value.code is Code.MODEL_NOT_FOUND


async def test_stopping_kills_what_is_loaded_and_refuses_more(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as world:
        model = await world.add()
        async with world.pool.lease(model):
            pass
    assert world.spawner.spawned[0].died.is_set()
    with pytest.raises(AigridError) as refused:
        async with world.pool.lease(model):
            pass
    assert refused.value.code is Code.SHUTTING_DOWN


async def test_random_use_never_breaks_the_books(tmp_path: Path, autojump_clock: MockClock) -> None:
    import random

    rng = random.Random(5)
    async with running(tmp_path, queue_max=4) as world:
        models = [await world.add(memory_bytes=m, slots=1 + m % 3) for m in (20, 30, 40, 50, 60)]
        outcomes: dict[str, int] = {}

        async def use(model: str, start: float, patience: float, length: float) -> None:
            await trio.sleep(start)
            outcome = "gave up"
            with trio.move_on_after(patience):
                try:
                    async with world.pool.lease(model) as worker:
                        await trio.sleep(length)
                        outcome = "crashed" if worker.died.is_set() else "served"
                except AigridError as error:
                    outcome = str(error.code)
            outcomes[outcome] = outcomes.get(outcome, 0) + 1

        async def crash() -> None:
            for _ in range(20):
                await trio.sleep(rng.uniform(1, 15))
                alive = [w for w in world.spawner.spawned if not w.died.is_set()]
                if alive:
                    rng.choice(alive).crash()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(crash)
            for _ in range(300):
                patience = rng.choice([0.5, 3, 1000])
                start, length = rng.uniform(0, 200), rng.uniform(0, 5)
                nursery.start_soon(use, rng.choice(models), start, patience, length)
        assert sum(outcomes.values()) == 300
        assert outcomes["served"] > 50
        assert set(outcomes) <= {"served", "crashed", "gave up", "busy"}
        await trio.sleep(IDLE_SECONDS + 10)
        assert set(world.pool.states().values()) == {"on_disk"}
        assert world.pool.reserved() == {}
        assert all(worker.died.is_set() for worker in world.spawner.spawned)


def test_the_double_runs_only_engines_that_never_wait() -> None:
    assert set(InlineSpawner().engines) == {"echo"}
    assert InlineSpawner().engines["echo"] is EchoEngine
