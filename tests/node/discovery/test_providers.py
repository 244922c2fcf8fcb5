"""DHT hints: told once, told again when due, never lost between two looks."""

from collections import Counter
from contextlib import asynccontextmanager

import trio

from aigrid.node.discovery.providers import ProviderHints
from aigrid.node.network.transport import PeerAddress
from aigrid.protocol.limits import LIMITS

OWN, ANN, BEN, STRANGER = "own", "ann", "ben", "stranger"


class World:
    """As much of a transport and of peers as hints need."""

    peer_id = OWN

    def __init__(self):
        self.members = frozenset({OWN, ANN, BEN})
        self.links = frozenset({ANN})
        self.living = {ANN}
        self.told: Counter[str] = Counter()
        self.providers: tuple[PeerAddress, ...] = ()
        self.contacted: list[str] = []
        self.keys = frozenset({"grid"})
        self.hints = ProviderHints(self, self, keys=lambda: self.keys)  # type: ignore[arg-type]

    def connected(self):
        return self.links

    async def provide(self, key):
        await trio.sleep(0.5)
        self.told[key] += 1

    async def find_providers(self, key):
        await trio.sleep(0.5)
        return self.providers

    def alive(self, peer_id):
        return peer_id in self.living

    def alive_members(self):
        return frozenset(self.living)

    async def contact(self, peer):
        self.contacted.append(peer.peer_id)
        return peer.peer_id == BEN


@asynccontextmanager
async def running(world):
    async with trio.open_nursery() as nursery:
        await nursery.start(world.hints.run)
        yield
        nursery.cancel_scope.cancel()


async def test_each_key_is_told_once_and_again_when_due(autojump_clock):
    world = World()
    async with running(world):
        world.keys |= {"model"}
        world.hints.poke()
        await trio.sleep(5)
        assert world.told == {"grid": 1, "model": 1}
        await trio.sleep(LIMITS.provide_seconds + 5)
        assert world.told == {"grid": 2, "model": 2}


async def test_what_changes_while_keys_are_told_is_not_missed(autojump_clock):
    world = World()
    async with running(world):
        await trio.sleep(0.25)  # the first is being told
        world.keys |= {"model"}
        world.hints.poke()
        await trio.sleep(5)
        assert world.told == {"grid": 1, "model": 1}


async def test_a_node_that_was_alone_tells_when_somebody_comes(autojump_clock):
    world = World()
    world.links = frozenset()
    async with running(world):
        await trio.sleep(5)
        assert not world.told
        world.links = frozenset({ANN})
        world.hints.poke()
        await trio.sleep(5)
        assert world.told == {"grid": 1}


async def test_a_key_taken_back_and_given_again_is_told_again(autojump_clock):
    world = World()
    async with running(world):
        for keys in (frozenset(), frozenset({"grid"})):
            await trio.sleep(3)
            world.keys = keys
            world.hints.poke()
        await trio.sleep(3)
        assert world.told == {"grid": 2}


async def test_hints_are_followed_to_members_that_are_not_reached_yet(autojump_clock):
    world = World()
    world.providers = tuple(PeerAddress(p, ("/ip4/192.0.2.1/tcp/1",)) for p in (ANN, BEN, STRANGER))
    assert await world.hints.seek("model") == 1
    assert world.contacted == [BEN]


async def test_nobody_is_asked_when_every_member_is_reached(autojump_clock):
    world = World()
    world.living = {ANN, BEN}
    start = trio.current_time()
    assert await world.hints.seek("model") == 0
    assert trio.current_time() == start
