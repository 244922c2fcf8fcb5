"""A grid that is up already: every node starts on what joining would have left there."""

import trio
from scripts.simulation import deterministic
from scripts.simulation.ready import put, stored
from tests.simulation.harness import Simulation, eventually

from aigrid.protocol.kinds import Kind

NAMES = [f"n{number:04d}" for number in range(12)]


async def _started(directory) -> None:
    async with trio.open_nursery() as nursery:
        sim = Simulation(3, directory, nursery)
        founder = await sim.start(NAMES[0])
        database = stored(founder, sim, NAMES[1:])
        learned: list[Kind] = []
        sim.learned.append(lambda _name, record: learned.append(record.kind))
        for name in NAMES[1:]:
            put(database, sim, name)
            await sim.start(name)
        nodes = [one.node for one in sim.nodes.values()]
        await eventually(lambda: all(node.peers.alive_members() for node in nodes), seconds=10)
        await trio.sleep(20)
        assert {len(node.grid.members()) for node in nodes} == {len(NAMES)}
        assert {node.grid.did for node in nodes} == {founder.node.grid.did}
        assert [node for node in nodes if node.grid.authority] == [founder.node]
        assert len({node.graph.items(node.now_ms()).fingerprint(0, 24) for node in nodes}) == 1
        address = founder.node.transport.listen_addresses
        met = [node.known.address_of(founder.node.identity.peer_id) for node in nodes[1:]]
        assert {one and one.addresses for one in met} == {address}
        # Nobody had to say anew what it is, and records are held once, not by each node.
        assert Kind.NODE not in learned
        assert Kind.MEMBERSHIP not in learned
        of_founder = founder.node.identity.did
        assert len({id(node.grid.membership_by_did(of_founder)) for node in nodes[1:]}) == 1
        nursery.cancel_scope.cancel()


def test_all_start_on_what_joining_would_have_left(tmp_path):
    with deterministic.cheap_nodes():
        deterministic.run(3, _started, tmp_path)


def test_addresses_of_thousands_of_names_differ():
    names = [f"n{number:04d}" for number in range(5_000)]
    assert len(set(map(Simulation.address_of, names))) == len(names)
