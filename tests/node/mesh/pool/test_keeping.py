"""How long models stay: keep-alive, pinning, crashes. In virtual time."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from tests.node.mesh.pool.world import IDLE_SECONDS, World, running
from trio.testing import MockClock, wait_all_tasks_blocked

from aigrid.engines.base import Estimate
from aigrid.metagraph.local import LocalState
from aigrid.metagraph.store import Store
from aigrid.node.mesh.pool.pinning import Pins
from aigrid.node.mesh.pool.view import ModelUse
from aigrid.protocol.errors import AigridError, Code, EngineError, LocalError, UsageError
from aigrid.protocol.limits import LIMITS


async def use(world: World, model: str, wish: float | None = None, *, asker: str = "") -> None:
    async with world.pool.lease(model, wish, asker=asker):
        pass


async def crash(world: World, model: str, *askers: str) -> None:
    """Crash its worker while these have leases."""
    async with AsyncExitStack() as stack:
        for asker in askers:
            await stack.enter_async_context(world.pool.lease(model, asker=asker))
        world.spawner.spawned[-1].crash()
        await wait_all_tasks_blocked()


async def test_the_latest_wish_holds_within_the_operators_bound(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path, keep_alive_max_seconds=50.0) as world:
        model = await world.add()

        def left() -> float | None:
            found = world.pool.view()[model].expires_in_seconds
            return None if found is None else round(found, 6)

        await use(world, model)
        assert left() == IDLE_SECONDS
        await use(world, model, 40.0)
        assert left() == 40.0
        await use(world, model)  # no wish: as usual
        assert left() == IDLE_SECONDS
        for wish in (1000.0, -1.0):
            await use(world, model, wish)
            assert left() == 50.0
        await use(world, model, 0.0)  # or whoever asks would take it from those who ask next
        assert left() == IDLE_SECONDS


async def test_the_operators_own_wish_holds_against_that_of_others(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path, keep_alive_max_seconds=50.0) as world:
        model = await world.add()
        async with world.pool.lease(model, -1.0, bounded=False):
            pass
        for wish in (0.0, 40.0, None):
            await use(world, model, wish)
            assert world.pool.view()[model].expires_in_seconds is None
        await trio.sleep(10_000)
        assert world.state(model) == "warm"
        async with world.pool.lease(model, 0.0, bounded=False) as worker:
            pass
        await wait_all_tasks_blocked()
        assert worker.died.is_set()
        assert world.state(model) == "on_disk"
        async with world.pool.lease(model, bounded=False):
            pass
        assert world.pool.view()[model].expires_in_seconds == IDLE_SECONDS


async def test_each_model_may_have_its_own_keep_alive_by_name_or_id(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    keep: dict[str, float] = {"parrot": 5.0}
    async with running(tmp_path, keep_alive=keep, keep_alive_seconds=100.0) as world:
        by_id, by_name, neither = [await world.add(delay_ms=n) for n in (1, 2, 3)]
        keep[by_id] = float("inf")
        world.pool._name_of = {by_name: "parrot"}.get  # type: ignore[assignment]
        for model in (by_id, by_name, neither):
            await use(world, model)
        await trio.sleep(6)
        states = [world.state(model) for model in (by_id, by_name, neither)]
        assert states == ["warm", "on_disk", "warm"]
        await trio.sleep(1000)
        assert [world.state(model) for model in (by_id, neither)] == ["warm", "on_disk"]


async def test_the_view_says_how_every_model_stands(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as world:
        model, other = await world.add(memory_bytes=40, slots=2), await world.add()
        async with world.pool.lease(model):
            await trio.sleep(3)
            found = world.pool.view()
            assert found[other] == ModelUse()
            one = found[model]
            assert (one.state, one.workers, one.engine, one.device) == ("warm", 1, "echo", "cpu")
            assert (one.slots, one.leases, one.memory) == (2, 1, {"cpu": 40})
            assert one.expires_in_seconds is None
            assert one.cold_start is not None
            assert (one.cold_start.seconds, one.cold_start.ago_seconds) == (1.0, 3.0)
        assert world.pool.view()[model].expires_in_seconds == IDLE_SECONDS


@asynccontextmanager
async def pinning(
    world: World, directory: Path, *configured: str, names: Mapping[str, str] = {}, **more: Any
) -> AsyncIterator[Pins]:
    store = Store(directory / "records.db")
    pins = Pins(
        world.pool,
        world.models,
        LocalState(store),
        configured=configured,
        name_of=lambda model: names.get(model, ""),
        **more,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(pins.run)
        yield pins
        nursery.cancel_scope.cancel()
    store.close()


async def test_a_pinned_model_is_loaded_and_stays_whoever_needs_memory(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as world:
        model, other = await world.add(memory_bytes=60), await world.add(memory_bytes=50)
        async with pinning(world, tmp_path, "parrot", names={model: "parrot"}):
            await trio.sleep(2)
            assert world.pool.view()[model].pinned
            assert world.pool.view()[model].expires_in_seconds is None
            await trio.sleep(10 * IDLE_SECONDS)
            assert world.state(model) == "warm"
            for _ in range(LIMITS.crashes_max + 1):  # none of which is the model's fault
                with pytest.raises(AigridError) as refused:
                    await use(world, other)
                assert refused.value.code is Code.OUT_OF_MEMORY
            assert world.state(model) == "warm"


async def test_what_pinned_models_leave_no_room_for_is_refused_at_once_until_they_do(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as world:
        pinned, other = await world.add(memory_bytes=60), await world.add(memory_bytes=50)
        async with pinning(world, tmp_path) as pins:
            pins.pin(pinned)
            await trio.sleep(2)
            assert world.pool.problem(other) == ""
            began = trio.current_time()
            with pytest.raises(AigridError, match="pinned"):
                await use(world, other)
            assert trio.current_time() - began < 1
            assert "pinned" in world.pool.problem(other)
            told = len(world.changes)
            pins.unpin(pinned)
            await wait_all_tasks_blocked()
            assert world.pool.problem(other) == ""
            assert len(world.changes) > told  # it may be offered again
            await use(world, other)
            assert world.state(other) == "warm"


async def test_pins_by_command_are_kept_over_a_restart_and_can_be_undone(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as world:
        model = await world.add()
        async with pinning(world, tmp_path) as pins:
            pins.pin(model)
            await trio.sleep(2)
            assert world.state(model) == "warm"
        await world.pool.unload(model)
        async with pinning(world, tmp_path) as pins:
            await trio.sleep(2)
            assert world.pool.view()[model].pinned
            pins.unpin(model)
            await wait_all_tasks_blocked()
            assert not world.pool.view()[model].pinned
            await trio.sleep(IDLE_SECONDS + 1)
            assert world.state(model) == "on_disk"
        async with pinning(world, tmp_path, model) as pins:
            with pytest.raises(UsageError):
                pins.unpin(model)


async def test_a_pinned_model_comes_back_after_a_crash_and_one_that_comes_later_is_noticed(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as world:
        names: dict[str, str] = {}
        async with pinning(world, tmp_path, "late", names=names):
            await trio.sleep(5)
            model = await world.add()
            names[model] = "late"
            await trio.sleep(12)
            assert world.state(model) == "warm"
            world.spawner.spawned[-1].crash()
            await trio.sleep(3)
            assert world.state(model) == "warm"


async def test_a_pinned_model_that_cannot_be_loaded_says_why_and_is_tried_again(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as world:
        model, other = await world.add(), await world.add(delay_ms=1)
        world.spawner.failures = 1
        async with pinning(world, tmp_path, model):
            await trio.sleep(1.5)
            assert "SIGSEGV" in world.pool.view()[model].problem
            assert world.pool.problem(model) == ""  # it is offered all the same
            await use(world, other)
            await trio.sleep(20)
            assert world.state(model) == "warm"
            assert world.pool.view()[model].problem == ""


async def test_a_model_that_keeps_crashing_is_quarantined_and_comes_back(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as world:
        model = await world.add()
        codes = []
        while not world.pool.problem(model):
            world.spawner.failures = 1
            try:
                await use(world, model)
            except AigridError as error:
                codes.append(error.code)
                await trio.sleep(error.retry_after_seconds or 0.0)
        crashes = codes.count(Code.ENGINE_CRASHED)
        assert crashes == LIMITS.crashes_max
        assert codes[1] is Code.ENGINE_CRASHED  # the second at once
        assert codes[2] is Code.BUSY
        world.spawner.failures = 0
        with pytest.raises(AigridError) as refused:
            await use(world, model)
        assert refused.value.code is Code.QUARANTINED
        changes = len(world.changes)
        await trio.sleep(LIMITS.quarantine_seconds + 1)
        assert len(world.changes) > changes  # it is offered again: that is told
        assert world.pool.problem(model) == ""
        await use(world, model)


async def test_a_quarantine_ends_when_somebody_says_so(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as world:
        model = await world.add()
        while not world.pool.problem(model):
            world.spawner.failures = 1
            with pytest.raises(AigridError) as refused:
                await use(world, model)
            await trio.sleep(refused.value.retry_after_seconds or 0.0)
        world.spawner.failures = 0
        world.pool.forgive(model)
        await use(world, model)


async def test_a_client_with_a_poisonous_request_does_not_take_the_model_from_the_others(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as world:
        model, outcomes = await world.add(slots=4), {"poisoner": 0, "others": 0, "failed": 0}

        async def poisoner() -> None:
            while trio.current_time() < 300:
                try:
                    async with world.pool.lease(model, asker="poisoner") as worker:
                        await trio.sleep(0.2)
                        outcomes["poisoner"] += 1
                        next(w for w in world.spawner.spawned if w is worker).crash()
                except AigridError as error:
                    await trio.sleep(error.retry_after_seconds or 0.1)

        async def other(name: str) -> None:
            while trio.current_time() < 300:
                try:
                    async with world.pool.lease(model, asker=name) as worker:
                        await trio.sleep(1)
                        outcomes["failed" if worker.died.is_set() else "others"] += 1
                except AigridError as error:
                    outcomes["failed"] += 1
                    await trio.sleep(error.retry_after_seconds or 0.1)
                await trio.sleep(0.1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(poisoner)
            for number in range(3):
                nursery.start_soon(other, f"other {number}")
        assert outcomes["poisoner"] <= 15
        assert outcomes["others"] > 150, outcomes  # of some 270, if they take turns
        assert outcomes["failed"] < 0.4 * outcomes["others"], outcomes
        assert world.pool.problem(model) == ""


async def test_who_left_before_the_worker_died_is_suspected_too(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as world:
        model = await world.add()
        for _ in range(2):
            await use(world, model, asker="leaver")
            world.spawner.spawned[-1].crash()
            await wait_all_tasks_blocked()
        with pytest.raises(AigridError) as refused:
            await use(world, model, asker="leaver")
        assert refused.value.code is Code.BUSY
        assert refused.value.retry_after_seconds is not None
        await trio.sleep(1)
        await use(world, model, asker="another")


async def test_after_a_crash_among_several_one_asker_at_a_time_runs(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as world:
        model = await world.add(slots=4)
        await crash(world, model, "a", "b")
        together = [0]

        async def ask(asker: str) -> None:
            async with world.pool.lease(model, asker=asker):
                entry = world.pool._entries[model]
                together.append(len({who for one in entry.replicas for who in one.askers}))
                await trio.sleep(1)

        async with trio.open_nursery() as nursery:
            for asker in ("a", "a", "b", "b", "c"):
                nursery.start_soon(ask, asker)
        assert max(together) == 1
        await trio.sleep(LIMITS.crash_alone_seconds)
        async with trio.open_nursery() as nursery:
            for asker in ("a", "b", "c"):
                nursery.start_soon(ask, asker)
        assert max(together) == 3


async def test_a_load_that_nobody_asks_for_excuses_no_crash_and_takes_no_wish_back(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as world:
        model = await world.add()
        await use(world, model, 200.0, asker="somebody")
        await world.pool.warm(model)
        expires = world.pool.view()[model].expires_in_seconds
        assert expires is not None
        assert expires > 190
        for n in range(LIMITS.crashes_max):
            await world.pool.warm(model)
            await crash(world, model, f"asker {n}")
            await trio.sleep(10)
        assert "keeps crashing" in world.pool.problem(model)


async def test_what_does_not_fit_beside_other_pins_is_refused_or_waits_for_room(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as world:
        large, small, huge = [await world.add(memory_bytes=n) for n in (70, 60, 1000)]

        async def charge(model: str) -> dict[str, int]:
            await trio.lowlevel.checkpoint()
            return {"cpu": {large: 70, small: 60, huge: 1000}[model]}

        names = {large: "large", small: "small", huge: "huge"}
        configured = ("nosuch", "large", "huge", "small")
        async with pinning(world, tmp_path, *configured, names=names, charge=charge) as pins:
            await trio.sleep(60)
            assert [world.state(m) for m in (large, small, huge)] == ["warm", "on_disk", "on_disk"]
            assert len(world.spawner.spawned) == 1, "nothing is loaded in vain"
            assert pins.problems.keys() == {"nosuch", "huge", "small"}
            assert "(large)" in pins.problems["small"]
        async with pinning(world, tmp_path, names=names, charge=charge) as pins:
            await pins.check(large)
            pins.pin(large)
            with pytest.raises(LocalError, match="unpin") as refused:
                await pins.check(small)
            assert refused.value.code is Code.OUT_OF_MEMORY
            with pytest.raises(EngineError) as never:
                await pins.check(huge)
            assert never.value.code is Code.OUT_OF_MEMORY
            pins.unpin(large)
            await pins.check(small)


async def test_a_model_that_is_unloaded_while_it_is_used_counts_until_it_is_gone(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as world:
        model = await world.add(memory_bytes=60)
        async with world.pool.lease(model):
            await world.pool.unload(model)
            assert (world.pool.busy(model), world.pool.view()[model].memory) == (1, {"cpu": 60})
            world.models.set_aside(model)
            await world.pool.unload(model)
            assert (world.pool.busy(model), world.pool.reserved()) == (1, {"cpu": 60})
        await trio.sleep(1)
        assert (world.pool.busy(model), world.pool.reserved()) == (0, {})
        assert model not in world.pool._entries


async def test_what_an_engine_says_beforehand_is_enough_to_know_that_it_never_fits(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as world:
        model = await world.add(memory_bytes=1000)
        world.pool.judge(model, Estimate(1000, 1, 1))
        assert "MiB" in world.pool.problem(model)
        with pytest.raises(EngineError) as refused:
            await use(world, model)
        assert refused.value.code is Code.OUT_OF_MEMORY
        assert world.spawner.estimated == 0
