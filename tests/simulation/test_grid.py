"""The real services of many nodes in virtual time: join, publish, find, route, kill, restart."""

import trio
import trio.testing
from tests.simulation.harness import Simulation, eventually

NODES = 20


async def start_grid(sim: Simulation, count: int) -> list[str]:
    names = [f"n{i:02d}" for i in range(count)]
    for name in names:
        await sim.start(name)
    for name in names[1:]:
        await sim.join(name, names[0])
    return names


def everybody_knows_everybody(sim: Simulation) -> bool:
    expected = len(sim.nodes)
    return all(
        len(s.node.grid.members()) == expected and len(s.node.peers.alive_members()) == expected - 1
        for s in sim.nodes.values()
    )


def names_offered(sim: Simulation, name: str) -> set[str]:
    return {view.name for view in sim.nodes[name].node.router.models()}


async def scenario(seed: int, directory, count: int) -> tuple[str, Simulation]:
    async with trio.open_nursery() as nursery:
        sim = Simulation(seed, directory, nursery)
        names = await start_grid(sim, count)
        await eventually(lambda: everybody_knows_everybody(sim), seconds=30)
        sim.note("grid complete")

        holders = names[3], names[7]
        for holder in holders:
            await sim.publish_echo(holder, "parrot")
        await sim.publish_echo(names[5], "lone")
        await eventually(
            lambda: all(names_offered(sim, n) == {"parrot", "lone"} for n in names), seconds=10
        )
        text, first = await sim.ask(names[8], "parrot", "hello grid")
        assert text.strip() == "hello grid"
        by_peer = {s.node.identity.peer_id: name for name, s in sim.nodes.items()}
        assert by_peer[first] in holders

        sim.kill(by_peer[first])
        text, second = await sim.ask(names[8], "parrot", "still here")
        assert (text.strip(), by_peer[second] in holders) == ("still here", True)
        assert second != first
        sim.kill(by_peer[second])
        gone = await eventually(lambda: names_offered(sim, names[8]) == {"lone"}, seconds=2)
        sim.note("offers gone after", gone)

        back = await sim.start(by_peer[first], incarnation=1)
        await eventually(lambda: names_offered(sim, names[8]) == {"lone", "parrot"}, seconds=30)
        text, third = await sim.ask(names[9], "parrot", "back again")
        assert third == back.node.identity.peer_id == first
        nursery.cancel_scope.cancel()
    return sim.trace_hash(), sim


async def test_twenty_nodes_join_find_route_and_survive_a_kill(tmp_path, autojump_clock):
    await scenario(1, tmp_path, NODES)


def run_in_virtual_time(seed: int, directory, count: int) -> str:
    """Outside pytest-trio, so that two runs start from the same scheduler state."""
    directory.mkdir()
    clock = trio.testing.MockClock(autojump_threshold=0)
    # Trio shuffles ready tasks unless told not to; pytest-trio does this for its own tests.
    vars(trio._core._run)["_ALLOW_DETERMINISTIC_SCHEDULING"] = True
    vars(trio._core._run)["_r"].seed(seed)
    return trio.run(scenario, seed, directory, count, clock=clock)[0]


def test_the_same_seed_gives_the_same_trace(tmp_path):
    runs = [run_in_virtual_time(7, tmp_path / str(i), 10) for i in range(2)]
    assert runs[0] == runs[1]
    assert run_in_virtual_time(8, tmp_path / "other", 10) != runs[0]
