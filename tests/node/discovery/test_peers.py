"""Who is alive, over whole nodes in virtual time: slow, silent and strange peers."""

import itertools
from dataclasses import replace

import msgspec
import pytest
import trio
from tests.simulation.harness import Simulation, eventually

from aigrid.node.discovery import grid as grid_module
from aigrid.node.discovery import peers as peers_module
from aigrid.node.network.transport import PeerAddress
from aigrid.protocol.errors import Code, RemoteError
from aigrid.protocol.identity import Identity, peer_id_of_did
from aigrid.protocol.kinds import Kind
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.messages import Records, encode


@pytest.fixture
async def sim(tmp_path):
    async with trio.open_nursery() as nursery:
        yield Simulation(5, tmp_path, nursery)
        nursery.cancel_scope.cancel()


async def grid(sim, *names):
    """Nodes of one grid that know each other."""
    nodes = [(await sim.start(name)).node for name in names]
    for name in names[1:]:
        await sim.join(name, names[0])
    await eventually(
        lambda: all(len(n.peers.alive_members()) == len(names) - 1 for n in nodes), seconds=20
    )
    return nodes


async def never_ending(peer_id, message, send):
    while True:
        await send(encode(Records(())))
        await trio.sleep(LIMITS.rpc_timeout_seconds / 2)


async def test_a_peer_whose_sync_never_ends_holds_up_no_pings(sim, autojump_clock):
    a, b, c = await grid(sim, "a", "b", "c")
    b.sync.serve = never_ending
    a.peers._states[b.identity.peer_id].alive = False  # the next ping revives it, and syncs
    await eventually(lambda: a.peers.alive(b.identity.peer_id), seconds=5)
    sim.network.freeze(c.identity.peer_id)
    silent_seconds = await eventually(
        lambda: not a.peers.alive(c.identity.peer_id), seconds=2 * LIMITS.rpc_timeout_seconds
    )
    ping_seconds = 1.2 * LIMITS.ping_interval_seconds + 2 * LIMITS.ping_timeout_seconds
    assert silent_seconds <= ping_seconds + 0.1


async def test_a_frozen_peer_does_not_slow_the_pings_of_another(sim, autojump_clock):
    a, b, c = await grid(sim, "a", "b", "c")
    sim.network.freeze(b.identity.peer_id)
    await eventually(lambda: not a.peers.alive(b.identity.peer_id), seconds=10)
    seen = []
    for _ in range(10):
        state = a.peers._states[c.identity.peer_id]
        before = state.seen_seconds
        await eventually(lambda: state.seen_seconds != before, seconds=10)  # noqa: B023
        seen.append(state.seen_seconds)
    gaps = [later - earlier for earlier, later in itertools.pairwise(seen)]
    assert max(gaps) <= 1.2 * LIMITS.ping_interval_seconds + 0.5


async def test_a_frozen_peer_that_thaws_is_alive_again(sim, autojump_clock):
    a, b = await grid(sim, "a", "b")
    sim.network.freeze(b.identity.peer_id)
    await eventually(lambda: not a.peers.alive(b.identity.peer_id), seconds=10)
    sim.network.thaw(b.identity.peer_id)
    await eventually(lambda: a.peers.alive(b.identity.peer_id), seconds=10)


async def test_a_sync_that_never_ends_is_left(sim, autojump_clock):
    a, b = await grid(sim, "a", "b")
    b.sync.serve = never_ending
    start = trio.current_time()
    assert await a.sync.sync(b.identity.peer_id, push=False) == 0
    assert trio.current_time() - start <= LIMITS.sync_seconds


async def test_strangers_that_come_and_go_leave_nothing_behind(sim, autojump_clock):
    a, b = await grid(sim, "a", "b")
    at = PeerAddress(a.identity.peer_id, a.transport.listen_addresses)
    for n in range(5):
        stranger = (await sim.start(f"s{n}")).node
        stranger.transport.allow_dial(at.peer_id)
        await stranger.transport.connect(at)
        await trio.sleep(1)
        sim.kill(f"s{n}")
        await trio.sleep(1)
    assert a.peers._states.keys() == {b.identity.peer_id}


async def test_hearsay_of_where_somebody_is_leaves_nothing_behind(sim, autojump_clock):
    """A hint may name anybody, and a member at a place where it is not."""
    a, b = await grid(sim, "a", "b")
    nowhere = ("/ip4/127.0.0.9/tcp/1",)
    await a.transport.disconnect(b.identity.peer_id)
    await eventually(lambda: not a.peers.alive(b.identity.peer_id), seconds=1)
    before = a.peers._states[b.identity.peer_id].redial_seconds
    for n in range(5):
        assert not await a.peers.contact(PeerAddress(Identity(bytes([n]) * 32).peer_id, nowhere))
    sim.kill("b")
    assert not await a.peers.contact(PeerAddress(b.identity.peer_id, nowhere))
    assert a.peers._states.keys() == {b.identity.peer_id}
    assert a.peers._states[b.identity.peer_id].redial_seconds == before


async def test_whoever_asks_while_a_peer_is_contacted_waits_for_that(sim, autojump_clock):
    a, b = await grid(sim, "a", "b")
    at = PeerAddress(b.identity.peer_id, b.transport.listen_addresses)
    await a.transport.disconnect(b.identity.peer_id)
    await eventually(lambda: not a.peers.alive(b.identity.peer_id), seconds=1)
    found = []

    async def contact():
        found.append(await a.peers.contact(at))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(contact)
    assert found == [True] * 3


async def test_a_node_back_after_a_restart_tells_the_dht_what_it_has(sim, autojump_clock):
    await grid(sim, "a", "b")
    await sim.publish_echo("b", "parrot")
    sim.kill("b")
    b = (await sim.start("b", incarnation=1)).node
    told = []

    async def provide(key):
        told.append(key)

    b.transport.provide = provide
    await eventually(b.peers.alive_members, seconds=20)
    await eventually(lambda: len(told) == 5, seconds=5)  # grid, model twice, capability twice


async def test_the_clock_of_the_others_is_compared(sim, autojump_clock):
    a, *_ = await grid(sim, "a", "b", "c")
    a.peers._now_ms = lambda: sim.now_ms() + 5000
    await eventually(lambda: 4900 <= a.peers.clock_ahead_ms() <= 5100, seconds=10)


async def test_what_is_awaited_of_a_silent_peer_is_given_up(sim, autojump_clock):
    a, b = await grid(sim, "a", "b")
    peer, began = b.identity.peer_id, trio.current_time()
    with pytest.raises(RemoteError) as caught, a.peers.while_alive(peer, silence_seconds=0.5):
        await trio.sleep_forever()
    assert caught.value.code is Code.TIMEOUT
    assert trio.current_time() - began == pytest.approx(0.5)
    sim.network.freeze(peer)
    began = trio.current_time()
    with pytest.raises(RemoteError), a.peers.while_alive(peer):
        await trio.sleep_forever()
    assert trio.current_time() - began <= 5
    began = trio.current_time()
    with a.peers.while_alive(peer):
        await trio.lowlevel.checkpoint()  # what has come is taken
    with pytest.raises(RemoteError), a.peers.while_alive(peer):
        await trio.sleep_forever()
    assert trio.current_time() - began < 0.1


async def test_a_peer_that_was_dialled_in_vain_is_not_taken_to_be_there(sim, autojump_clock):
    _, b = await grid(sim, "a", "b")
    model = await sim.publish_echo("b", "parrot")
    await eventually(sim.nodes["a"].node.router.models, seconds=30)
    sim.kill("b")
    sim.kill("a")
    a = (await sim.start("a", incarnation=1)).node
    assert a.peers.observation(b.identity.peer_id).alive, "it was never met, and may be there"
    await trio.sleep(20)
    assert a.graph.index.offers_of_model(model, a.now_ms()), "its offer is still valid"
    assert not a.peers.observation(b.identity.peer_id).alive


async def test_who_was_lost_is_sought_though_there_are_connections_enough(
    sim, autojump_clock, monkeypatch
):
    a, b, _ = await grid(sim, "a", "b", "c")
    await trio.sleep(5)
    for regained in (0, 1):
        changed = replace(LIMITS, connections_wanted=1, connections_regained=regained)
        monkeypatch.setattr(peers_module, "LIMITS", changed)
        await a.transport.disconnect(b.identity.peer_id)
        await trio.sleep(20)
        assert a.peers.alive(b.identity.peer_id) is bool(regained)


async def test_with_nothing_new_the_gate_is_not_gone_through(sim, autojump_clock, monkeypatch):
    a, b, _ = await grid(sim, "a", "b", "c")
    await trio.sleep(3)
    spelled = []

    def spell(did):
        spelled.append(did)
        return peer_id_of_did(did)

    monkeypatch.setattr(grid_module, "peer_id_of_did", spell)
    members = a.transport.members, a.grid.members()
    await trio.sleep(20)
    assert (a.transport.members, a.grid.members()) == members
    assert a.transport.members is members[0]
    assert a.grid.members() is members[1]
    assert spelled == []
    a.grid.remove(b.identity.did)
    await trio.sleep(3)
    assert spelled
    assert b.identity.peer_id not in a.transport.members


async def test_who_has_connections_enough_looks_for_nobody(sim, autojump_clock, monkeypatch):
    a, *_ = await grid(sim, "a", "b", "c")
    looked = []
    known = a.peers._known_addresses

    def look():
        looked.append(True)
        return known()

    monkeypatch.setattr(a.peers, "_known_addresses", look)
    await trio.sleep(5)
    assert looked
    monkeypatch.setattr(peers_module, "LIMITS", replace(LIMITS, connections_wanted=2))
    looked.clear()
    await trio.sleep(5)
    assert not looked


async def test_who_says_that_it_is_elsewhere_is_soon_dialled_there(sim, autojump_clock):
    a, b = await grid(sim, "a", "b")
    peer_id = b.identity.peer_id
    sim.kill("b")
    await trio.sleep(300)
    state = a.peers._states[peer_id]
    far = 5 * LIMITS.redial_seconds
    await eventually(lambda: state.dial_after_seconds - trio.current_time() > far, seconds=90)
    record = a.graph.store.newest((b.identity.did, Kind.NODE.value, b.identity.did))
    a._on_record(record)
    assert state.dial_after_seconds - trio.current_time() > 2 * LIMITS.redial_seconds
    there = ("/ip4/127.0.0.9/tcp/1",)
    a._on_record(replace(record, body=msgspec.structs.replace(record.body, addresses=there)))
    assert state.dial_after_seconds - trio.current_time() <= LIMITS.redial_seconds
    assert a.known.address_of(peer_id).addresses == there
    await eventually(lambda: state.dial_after_seconds - trio.current_time() > far, seconds=90)
    there = ("/ip4/127.0.0.9/tcp/2",)  # again, before it was reached anywhere: no lever
    a._on_record(replace(record, body=msgspec.structs.replace(record.body, addresses=there)))
    assert state.dial_after_seconds - trio.current_time() > 2 * LIMITS.redial_seconds
