"""DHT hints: told once, told again when due, never lost between two looks."""

from collections import Counter
from contextlib import asynccontextmanager

import trio

from aigrid.metagraph.capabilities import default_taxonomy
from aigrid.metagraph.concepts import LiveConcepts
from aigrid.node.discovery.providers import ProviderHints, capability_key, hint_keys, model_key
from aigrid.node.network.transport import PeerAddress
from aigrid.protocol.identity import Identity
from aigrid.protocol.kinds import CapabilityBody, ModelBody, Seed
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.model import MODEL_URN, ModelDescription, model_id

OWN, ANN, STRANGER = "own", "ann", "stranger"
OWN_DID = Identity(bytes(32)).did


class World:
    """As much of a transport as hints need."""

    peer_id = OWN

    def __init__(self):
        self.links = frozenset({ANN})
        self.told: Counter[str] = Counter()
        self.order: list[tuple[str, float]] = []  # and when it began
        self.provide_seconds = 0.5
        self.providers: tuple[PeerAddress, ...] = ()
        self.keys = frozenset({"grid"})
        self.hints = ProviderHints(self, keys=lambda: self.keys)  # type: ignore[arg-type]

    def connected(self):
        return self.links

    async def provide(self, key):
        began = trio.current_time()
        await trio.sleep(self.provide_seconds)
        self.told[key] += 1
        self.order.append((key, began))

    async def find_providers(self, key):
        await trio.sleep(0.5)
        return self.providers


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


MANY = frozenset(f"key {number:03}" for number in range(LIMITS.provide_keys_max - 1))


async def test_what_is_new_is_told_before_the_rest_where_telling_takes_long(autojump_clock):
    """With dead peers each key takes as long as it may."""
    world = World()
    world.keys, world.provide_seconds = MANY, LIMITS.dht_call_seconds
    async with running(world):
        await trio.sleep(20)
        world.keys |= {"model"}
        world.hints.poke()
        await trio.sleep(20)
        assert world.told["model"] == 1
        world.keys -= {"key 200"}
        world.hints.poke()
        await trio.sleep(len(MANY) * LIMITS.dht_call_seconds)
        assert world.order.index(("model", 24.0)) == 3
    assert "key 200" not in world.told
    assert {world.told[key] for key in MANY - {"key 200"}} <= {1, 2}
    assert [key for key, _ in world.order[: len(MANY)]] == [
        *sorted(MANY - {"key 200"})[:3],
        "model",
        *sorted(MANY - {"key 200"})[3:],
    ]


async def test_no_key_waits_longer_than_telling_all_takes(autojump_clock):
    world = World()
    world.keys, world.provide_seconds = MANY, LIMITS.dht_call_seconds
    round_seconds = len(MANY) * LIMITS.dht_call_seconds
    assert round_seconds > LIMITS.provide_seconds
    async with running(world):
        await trio.sleep(3 * round_seconds + 10)
    assert set(world.told.values()) <= {3, 4}
    for key in MANY:
        first, second, *_ = [at for told, at in world.order if told == key]
        assert second - first == round_seconds


async def test_a_round_begins_when_it_is_due_however_long_the_last_took(autojump_clock):
    world = World()
    world.keys, world.provide_seconds = frozenset({"a", "b"}), LIMITS.provide_seconds / 4
    async with running(world):
        await trio.sleep(1.9 * LIMITS.provide_seconds)
    started = [(key, at / LIMITS.provide_seconds) for key, at in world.order]
    assert started == [("a", 0), ("b", 0.25), ("a", 1), ("b", 1.25)]


async def test_what_a_node_left_alone_could_not_tell_is_told_when_somebody_comes(autojump_clock):
    world = World()
    world.keys = frozenset({"a", "b"})
    async with running(world):
        await trio.sleep(0.25)
        world.links = frozenset()
        await trio.sleep(5)
        assert world.told == {"a": 1}
        world.links = frozenset({ANN})
        world.hints.poke()
        await trio.sleep(5)
        assert world.told == {"a": 1, "b": 1}


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


async def test_whoever_is_named_is_passed_on_but_this_node(autojump_clock):
    world = World()
    world.providers = tuple(PeerAddress(p, ("/ip4/192.0.2.1/tcp/1",)) for p in (ANN, OWN, STRANGER))
    assert [peer.peer_id for peer in await world.hints.providers("model")] == [ANN, STRANGER]


async def test_nobody_is_asked_by_a_node_that_is_alone(autojump_clock):
    world = World()
    world.links = frozenset()
    start = trio.current_time()
    assert await world.hints.providers("model") == []
    assert trio.current_time() == start


def model(n, name, *capabilities):
    description = ModelDescription(format="echo", task="t", files=(), options={"n": n})
    return ModelBody(
        id=MODEL_URN + model_id(description),
        name=name,
        capabilities=capabilities,
        model=description,
    )


def test_a_model_is_hinted_at_by_id_by_name_and_by_all_that_is_broader():
    concepts = LiveConcepts(default_taxonomy())
    ours, theirs = f"{OWN_DID}#letters", f"{OWN_DID}#love-letters"
    label = {"en": "x"}
    concepts.put(CapabilityBody(id=ours, broader=("text-generation",), labels=label), 100)
    concepts.put(CapabilityBody(id=theirs, broader=(ours,), labels=label), 50)
    body = model(1, "echo", theirs)
    always = {
        "aigrid/grid/G",
        model_key("G", body.id.removeprefix(MODEL_URN)),
        model_key("G", "echo"),
    }
    named = {capability_key("G", name) for name in (theirs, ours, "text-generation", "text")}
    assert hint_keys("G", [body], concepts, 10) >= always | named
    assert hint_keys("G", [body], concepts, 60) == always | {capability_key("G", theirs)}


def test_keys_are_bounded_and_the_grids_own_is_among_them():
    concepts = LiveConcepts(default_taxonomy())
    bodies = [model(n, f"m{n}", *(f"c{n}-{i}" for i in range(16))) for n in range(64)]
    keys = hint_keys("G", bodies, concepts, 0)
    assert len(keys) == LIMITS.provide_keys_max
    assert "aigrid/grid/G" in keys
    assert {model_key("G", body.id.removeprefix(MODEL_URN)) for body in bodies} <= keys


def test_what_is_merely_given_is_hinted_at_by_id():
    concepts, body = LiveConcepts(default_taxonomy()), model(1, "echo", "text-generation")
    seed = Seed(body.id.removeprefix(MODEL_URN), "bagaaiera")
    assert hint_keys("G", [], concepts, 0, [seed]) == {"aigrid/grid/G", model_key("G", seed.model)}
