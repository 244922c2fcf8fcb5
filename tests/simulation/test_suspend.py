"""Nodes that were held up for two hours: everything answers again, and nothing has to be done."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from tests.simulation.harness import Simulation, eventually
from tests.simulation.test_policy import ask as ask_policy
from tests.simulation.test_policy import grant, publish
from trio.testing import MockClock

from aigrid.protocol.errors import AigridError
from aigrid.protocol.limits import HOUR, LIMITS

SUSPENDED_SECONDS = 2 * HOUR
BACK_SECONDS = 20.0


@asynccontextmanager
async def grid(directory: Path, *names: str) -> AsyncIterator[Simulation]:
    """The first founds it; all know and reach each other."""
    async with trio.open_nursery() as nursery:
        sim = Simulation(37, directory, nursery)
        for name in names:
            await sim.start(name)
            if name != names[0]:
                await sim.join(name, names[0])
        await eventually(
            lambda: all(
                len(one.node.peers.alive_members()) == len(names) - 1 for one in sim.nodes.values()
            ),
            seconds=30,
        )
        yield sim
        nursery.cancel_scope.cancel()


async def answers(sim: Simulation, name: str, model: str) -> bool:
    try:
        text, _ = await sim.ask(name, model, "hello")
    except AigridError:
        return False
    return text == "hello"


async def until_answered(sim: Simulation, name: str, model: str) -> float:
    """Seconds until a request is answered."""
    began = trio.current_time()
    with trio.fail_after(BACK_SECONDS):
        while not await answers(sim, name, model):  # noqa: ASYNC110 - virtual time costs nothing
            await trio.sleep(0.5)
    return trio.current_time() - began


async def test_after_all_nodes_slept_everything_answers_again(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with grid(tmp_path, "owner", "gateway", "laptop") as sim:
        await sim.publish_echo("owner", "parrot")
        await sim.publish_echo("laptop", "finch")
        await trio.sleep(5)
        sim.skip_seconds(SUSPENDED_SECONDS)
        for name in sim.nodes:
            for model in ("parrot", "finch"):
                await until_answered(sim, name, model)


async def test_after_one_node_was_cut_off_for_hours_it_serves_and_asks_again(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with grid(tmp_path, "owner", "gateway", "laptop") as sim:
        await sim.publish_echo("owner", "parrot")
        await sim.publish_echo("laptop", "finch")
        await trio.sleep(5)
        laptop = sim.nodes["laptop"].node
        sim.network.freeze(laptop.identity.peer_id)
        gone = await eventually(
            lambda: not sim.nodes["gateway"].node.peers.alive(laptop.identity.peer_id), seconds=5
        )
        assert gone <= 1.2 * LIMITS.ping_interval_seconds + LIMITS.ping_timeout_seconds + 0.1
        for _ in range(SUSPENDED_SECONDS // 240):
            sim.skip_seconds(235)
            await trio.sleep(5)
        assert not await answers(sim, "gateway", "finch")
        assert await answers(sim, "gateway", "parrot")
        sim.network.thaw(laptop.identity.peer_id)
        await until_answered(sim, "gateway", "finch")
        await until_answered(sim, "laptop", "parrot")


@pytest.mark.parametrize("everybody", [True, False])
async def test_a_grant_is_good_again_after_a_suspend(
    tmp_path: Path, autojump_clock: MockClock, *, everybody: bool
) -> None:
    """Its status list is older than the holder accepts; a fresh one comes by itself."""
    async with grid(tmp_path, "owner", "gateway", "laptop") as sim:
        await publish(sim, "owner")
        await grant(sim, "gateway")
        assert await ask_policy(sim, "gateway") == ""
        gateway = sim.nodes["gateway"].node.identity.peer_id
        if everybody:
            sim.skip_seconds(SUSPENDED_SECONDS)
        else:
            sim.network.freeze(gateway)
            for _ in range(SUSPENDED_SECONDS // 240):
                sim.skip_seconds(235)
                await trio.sleep(5)
            sim.network.thaw(gateway)
        began = trio.current_time()
        with trio.fail_after(BACK_SECONDS):
            while await ask_policy(sim, "gateway"):  # noqa: ASYNC110 - virtual time costs nothing
                await trio.sleep(0.5)
        assert trio.current_time() - began < BACK_SECONDS
        assert await ask_policy(sim, "laptop") == "no_grant"
