"""Requests in line: who may hope waits, who may not hears so at once, and all are served in turn."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from tests.simulation.harness import Simulation, eventually
from tests.simulation.heavy import content, heavy_grid, publish_heavy
from trio.testing import MockClock

from aigrid.node.mesh.placement import summoner
from aigrid.node.mesh.routing.summoning import Place, Unmet
from aigrid.node.settings.placement import PlacementConfig
from aigrid.protocol.errors import AigridError, Code
from aigrid.protocol.limits import LIMITS

WORDS = "one two three four five"
NOTHING = PlacementConfig("nothing")


@pytest.fixture
async def sim(tmp_path: Path):
    async with trio.open_nursery() as nursery:
        yield Simulation(3, tmp_path, nursery)
        nursery.cancel_scope.cancel()


async def pair(sim: Simulation, **options: Any) -> str:
    """A holder of "parrot" and an asker, neither of whom hosts anything else; the model's id."""
    for name in ("holder", "asker"):
        await sim.start(name, placement=NOTHING)
    await sim.join("asker", "holder")
    model = await sim.publish_echo("holder", "parrot", **options)
    await eventually(sim.nodes["asker"].node.router.models, seconds=30)
    return model


def here() -> Place:
    return Place(trio.current_time())


async def test_what_nobody_has_any_more_is_not_waited_for(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    await heavy_grid(sim, "holder", "asker")
    await publish_heavy(sim, "holder", {"weights.bin": content(100)})
    await eventually(sim.nodes["asker"].node.router.models, seconds=30)
    sim.kill("holder")
    await trio.sleep(10)
    began = trio.current_time()
    with pytest.raises(AigridError) as caught:
        await sim.ask("asker", "parrot", WORDS)
    assert caught.value.code is Code.NO_CANDIDATE
    assert trio.current_time() - began < 5


async def test_all_who_wait_for_one_slot_are_served_and_nobody_is_refused(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    await pair(sim, slots=1, delay_ms=100)
    answers = []

    async def client() -> None:
        answers.append(await sim.ask("asker", "parrot", WORDS))

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(client)
    assert len(answers) == 50
    assert sim.nodes["asker"].node.placement.summon.waiting == 0


async def test_they_wait_in_line_and_leave_it_when_they_give_up(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    model = await pair(sim)
    summon = sim.nodes["asker"].node.placement.summon
    sim.kill("holder")
    await trio.sleep(10)  # until it is known to be gone: before, they may go on and try it
    demands = sim.nodes["asker"].node.placement.demands
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            deadline = trio.current_time() + 600
            unmet = Unmet(model, "", "parrot", "nobody offers")
            nursery.start_soon(lambda: summon(unmet, here(), deadline=deadline))  # noqa: B023
        await trio.sleep(1)
        assert (summon.waiting, demands.counts()) == (5, {model: 5})
        nursery.cancel_scope.cancel()
    assert (summon.waiting, demands.counts()) == (0, {})


async def test_without_a_sign_of_anybody_hope_ends_before_the_deadline(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    model = await pair(sim)
    summon = sim.nodes["asker"].node.placement.summon
    sim.kill("holder")
    await trio.sleep(5)
    began = trio.current_time()
    unmet = Unmet(model, "", "parrot", "nobody offers")
    assert not await summon(unmet, here(), deadline=began + 3600)
    assert trio.current_time() - began == pytest.approx(LIMITS.summon_hope_seconds, abs=1)
    began = trio.current_time()
    assert not await summon(unmet, here(), deadline=began + 2)
    assert trio.current_time() - began == pytest.approx(2, abs=0.1)
    assert not await summon(unmet, here(), deadline=began - 1)


async def test_a_capability_waits_for_a_model_that_has_it(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    model = await pair(sim)
    node = sim.nodes["asker"].node
    sim.kill("holder")
    await trio.sleep(5)
    deadline = trio.current_time() + 3
    async with trio.open_nursery() as nursery:
        unmet = Unmet("", "text-generation", "", "nobody offers")
        nursery.start_soon(lambda: node.placement.summon(unmet, here(), deadline=deadline))
        await trio.sleep(1)
        assert node.placement.demands.counts() == {model: 1}
    other = Unmet("", "image-classification", "", "nobody offers")
    assert not await node.placement.summon(other, here(), deadline=trio.current_time() + 100)


async def test_the_line_has_an_end(
    sim: Simulation, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = await pair(sim)
    monkeypatch.setattr(summoner, "LIMITS", replace(LIMITS, summon_waiting_max=2))
    summon = sim.nodes["asker"].node.placement.summon
    sim.kill("holder")
    await trio.sleep(5)
    unmet = Unmet(model, "", "parrot", "busy")
    began = trio.current_time()
    said: list[tuple[float, bool]] = []

    async def wait() -> None:
        again = await summon(unmet, here(), deadline=began + 1)
        said.append((trio.current_time() - began, again))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(wait)
    assert said[0][0] < 0.1
    assert [again for _, again in said] == [False] * 3


async def test_a_line_that_nobody_stands_in_is_forgotten(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    model = await pair(sim)
    summon = sim.nodes["asker"].node.placement.summon
    unmet = Unmet(model, "", "parrot", "busy")
    place = here()
    assert await summon(unmet, place, deadline=trio.current_time() + 5)
    summon.left(place)
    assert not summon._lines, "or it is looked at four times a second for ever"
