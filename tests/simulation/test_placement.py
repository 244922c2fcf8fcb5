"""Placement among whole nodes in virtual time: few act, replicas come and go, nobody is lied to.

The models have no files, so that bringing one costs nothing but its load.
"""

from collections import Counter
from pathlib import Path

import pytest
import trio
from tests.simulation.harness import Simulation, eventually
from tests.simulation.heavy import content, heavy_grid, knows, publish_heavy
from tests.simulation.test_grid import everybody_knows_everybody
from trio.testing import MockClock

from aigrid.metagraph.branches import topics_of
from aigrid.node.mesh.placement.decisions import Host, ranking, turn_seconds
from aigrid.node.mesh.routing.waiting import Waiting
from aigrid.node.settings.placement import PlacementConfig
from aigrid.protocol.errors import AigridError, Code
from aigrid.protocol.identity import Identity
from aigrid.protocol.inference import TextRequest
from aigrid.protocol.kinds import DemandBody, Kind, Offer, WantedModel
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.messages import Records, encode
from aigrid.protocol.record import build

PUBLISHER = "n01"
WORDS = "one two three four five six seven eight nine ten"


@pytest.fixture
async def sim(tmp_path: Path):
    async with trio.open_nursery() as nursery:
        yield Simulation(5, tmp_path, nursery)
        nursery.cancel_scope.cancel()


async def grid(
    sim: Simulation, count: int, *, host: str = "trusted", loads: int = 500
) -> list[str]:
    """Nodes that trust the publisher; all know each other."""
    names = [f"n{i:02d}" for i in range(count)]
    for name in names:
        await sim.start(
            name,
            trusted_publishers=[sim.identity_of(PUBLISHER).did],
            placement=PlacementConfig(host=host, loads_per_day=loads),
        )
    for name in names[1:]:
        await sim.join(name, names[0])
    await eventually(lambda: everybody_knows_everybody(sim), seconds=60)
    return names


def warm(sim: Simulation, model: str) -> list[str]:
    return [n for n, s in sim.nodes.items() if s.node.pool.states().get(model) == "warm"]


def loads(sim: Simulation) -> Counter[str]:
    """How many workers each node has ever started."""
    spawners = {name: vars(s.node)["_world"].spawner for name, s in sim.nodes.items()}
    return Counter({name: len(spawner.spawned) for name, spawner in spawners.items()})


def name_of(sim: Simulation, peer_id: str) -> str:
    return next(n for n, s in sim.nodes.items() if s.node.identity.peer_id == peer_id)


async def test_a_model_that_nobody_offers_comes_to_one_node_and_only_one(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    await grid(sim, 12)
    model = await sim.publish_echo(PUBLISHER, "parrot")
    await trio.sleep(5)
    sim.kill(PUBLISHER)
    await trio.sleep(1)
    answer, served_by = await sim.ask("n05", "parrot", WORDS)
    assert answer.strip() == WORDS
    assert name_of(sim, served_by) != PUBLISHER
    await trio.sleep(60)
    assert loads(sim).total() == 1
    assert warm(sim, model) == [name_of(sim, served_by)]


async def test_requests_that_wait_bring_more_replicas_which_retire_in_order(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    await grid(sim, 12)
    model = await sim.publish_echo(PUBLISHER, "parrot", delay_ms=200, slots=2)
    await trio.sleep(5)
    most, answers = 0, []

    async def client() -> None:
        answers.extend([await sim.ask("n05", "parrot", WORDS) for _ in range(6)])

    async with trio.open_nursery() as nursery:
        for _ in range(24):
            nursery.start_soon(client)
        while len(answers) < 24 * 6:
            await trio.sleep(0.5)
            most = max(most, len(warm(sim, model)))
    assert all(text.strip() == WORDS for text, _ in answers)
    assert 3 <= most <= 12  # 24 clients, of whom two fit at each
    assert loads(sim).total() <= most + 1
    await eventually(lambda: len(warm(sim, model)) == 1, seconds=180)
    await trio.sleep(30)
    assert len(warm(sim, model)) == 1


async def test_a_replica_that_dies_is_replaced_while_requests_go_on(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    await grid(sim, 8)
    await sim.start("asker", placement=PlacementConfig(host="nothing"))
    await sim.join("asker", "n00")
    model = await sim.publish_echo(PUBLISHER, "parrot")
    await trio.sleep(5)
    sim.kill(PUBLISHER)
    hosts, asked = [], []
    for _ in range(4):
        began = trio.current_time()
        answer, served_by = await sim.ask("asker", "parrot", WORDS)
        asked.append(trio.current_time() - began)
        assert answer.strip() == WORDS
        hosts.append(name_of(sim, served_by))
        sim.kill(hosts[-1])
    assert len(set(hosts)) == 4
    assert max(asked) < 5
    assert warm(sim, model) == []


async def test_what_is_on_no_list_comes_to_nobody_and_the_request_ends_in_time(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    await grid(sim, 4, host="nothing")
    model = await sim.publish_echo(PUBLISHER, "parrot")
    await trio.sleep(5)
    sim.kill(PUBLISHER)
    began, ended = trio.current_time(), trio.Event()

    async def ask() -> None:
        with pytest.raises(AigridError) as caught:
            await sim.ask("n02", "parrot", WORDS)
        assert caught.value.code is Code.NO_CANDIDATE
        ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.sleep(5)
        said = sim.nodes["n03"].node.placement.view()[model]
        assert "of 3, 1 replica wanted, 0 live; it is not on this node's list" in said
        await ended.wait()
    assert trio.current_time() - began <= LIMITS.summon_hope_seconds + 1
    assert loads(sim).total() == 0
    await trio.sleep(LIMITS.demand_linger_seconds + 3)
    assert not any(s.node.placement.view() for s in sim.nodes.values())


async def test_by_default_a_member_that_nobody_named_has_its_models_nowhere_else(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    await grid(sim, 4)
    await sim.publish_echo("n02", "cuckoo")  # n01 alone is trusted
    await trio.sleep(5)
    sim.kill("n02")
    with pytest.raises(AigridError):
        await sim.ask("n03", "cuckoo", WORDS)
    assert loads(sim).total() == 0


def wanting(model: str, manifest: str, count: int = 10**6) -> tuple[WantedModel, ...]:
    return (WantedModel(model, manifest, count),)


async def test_a_thousand_demands_of_strangers_and_forgers_bring_nothing(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    """Passed on by a member, which is not to blame for what others sign."""
    await grid(sim, 6)
    model = await sim.publish_echo(PUBLISHER, "parrot")
    await trio.sleep(5)
    manifest = sim.nodes["n02"].node.graph.manifests_of(model, sim.now_ms())[0].content_id
    sim.kill(PUBLISHER)
    messenger, victim = sim.nodes["n03"].node, sim.nodes["n04"].node
    raws = []
    for number in range(1000):
        stranger = Identity(number.to_bytes(32, "big"))
        body = DemandBody(id=stranger.did, wanted=wanting(model, manifest))
        ends_ms = sim.now_ms() + 300_000
        raw = build(
            Kind.DEMAND, body, stranger, valid_from_ms=sim.now_ms(), valid_until_ms=ends_ms
        ).raw
        if number % 2:  # in the name of a member
            raw = raw.replace(stranger.did.encode(), victim.identity.did.encode())
        raws.append(raw)
    for start in range(0, len(raws), 40):
        batch = encode(Records(tuple(raws[start : start + 40])))
        for topic in topics_of(frozenset()):
            await messenger.transport.publish(topic, batch)
        await trio.sleep(1)
    await trio.sleep(60)
    assert sum(victim.graph.refused.values()) >= 500
    assert loads(sim).total() == 0
    assert all(not s.node.placement.view() for s in sim.nodes.values())


async def test_a_member_that_wants_everything_is_bounded_by_budgets(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    names = await grid(sim, 6, loads=4)
    models = [await sim.publish_echo(PUBLISHER, f"parrot{n}") for n in range(40)]
    await trio.sleep(5)
    sim.kill(PUBLISHER)
    liar = sim.nodes["n03"].node
    found = {m: liar.graph.manifests_of(m, sim.now_ms())[0].content_id for m in models}
    for turn in range(120):
        some = sorted(models[(turn * 5 + n) % 40] for n in range(16))
        wanted = tuple(WantedModel(m, found[m], 10**6) for m in some)
        body = DemandBody(id=liar.identity.did, wanted=wanted)
        now_ms = sim.now_ms()
        liar.graph.issue(Kind.DEMAND, body, liar.identity, now_ms=now_ms, ttl_ms=300_000)
        await trio.sleep(2)
    spent = loads(sim)
    share = int(4 * LIMITS.placement_one_share)
    assert all(spent[name] <= share for name in names if name not in {PUBLISHER, "n03"})
    assert spent.total() > 0
    # Others' requests are served all the same.
    last = next(m for m in reversed(models) if not warm(sim, m))
    answer, _ = await sim.ask("n05", last, WORDS)
    assert answer.strip() == WORDS


async def test_members_that_want_many_models_of_their_own_crowd_out_nobody_elses(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    await grid(sim, 6)
    model = await sim.publish_echo(PUBLISHER, "parrot")
    junk = [await sim.publish_echo("n02", f"junk{n}") for n in range(32)]
    await trio.sleep(5)
    sim.kill(PUBLISHER)
    for name, some in (("n02", junk[:16]), ("n03", junk[16:])):
        liar = sim.nodes[name].node
        found = {m: liar.graph.manifests_of(m, sim.now_ms())[0].content_id for m in some}
        wanted = tuple(WantedModel(m, found[m], 10**6) for m in sorted(some))
        body = DemandBody(id=liar.identity.did, wanted=wanted)
        liar.graph.issue(Kind.DEMAND, body, liar.identity, now_ms=sim.now_ms(), ttl_ms=300_000)
        vars(liar.placement.placing._bringable)["problem"] = lambda *_args, **_more: (
            "it brings nothing"
        )
    await trio.sleep(5)
    asker = sim.nodes["n05"].node
    (manifest,) = asker.graph.manifests_of(model, sim.now_ms())
    with asker.placement.demands.waiting(model, manifest.content_id):
        await eventually(lambda: warm(sim, model), seconds=20)


async def test_when_the_first_ranked_cannot_the_next_does_after_its_turn(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    names = await grid(sim, 8)
    model = await sim.publish_echo(PUBLISHER, "parrot")
    await trio.sleep(5)
    sim.kill(PUBLISHER)
    asker = sim.nodes["n05"].node
    able = [Host(s.node.identity.did) for s in sim.nodes.values()]
    by_did = {sim.identity_of(name).did: name for name in names}
    ranked = [by_did[did] for did in ranking(model, able)]
    broken = [name for name in ranked if name != "n05"][:3]
    for name in broken:
        vars(sim.nodes[name].node)["_world"].spawner.engines = {}
    began = trio.current_time()
    answer, served_by = await sim.ask("n05", "parrot", WORDS)
    assert answer.strip() == WORDS
    assert name_of(sim, served_by) not in broken
    assert trio.current_time() - began < turn_seconds(4, 1) + 5
    assert asker.placement.demands.counts() == {}


@pytest.mark.parametrize("takes_back", [False, True])
async def test_a_member_that_only_says_it_loads_holds_nobody_up_for_ever(
    sim: Simulation, autojump_clock: MockClock, *, takes_back: bool
) -> None:
    await grid(sim, 6)
    model = await sim.publish_echo(PUBLISHER, "parrot")
    await trio.sleep(5)
    sim.kill(PUBLISHER)
    liar, asker = sim.nodes["n03"].node, sim.nodes["n05"].node
    (manifest,) = liar.graph.manifests_of(model, sim.now_ms())
    lie = Offer(model, manifest.content_id, "loading", slots=0)
    scope = trio.CancelScope()

    def say(*offers: Offer) -> None:
        liar.announcer._offers = lambda: offers
        liar.announcer.poke()

    async def lying() -> None:
        with scope:
            say(lie)
            while takes_back:  # now and then, so that it looks new
                await trio.sleep(20)
                say()
                await trio.sleep(0.2)
                say(lie)

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lying)
        await trio.sleep(1)
        wanted = asker.placement.demands.waiting(model, manifest.content_id)
        with wanted:
            await eventually(lambda: warm(sim, model), seconds=400)
        scope.cancel()
    assert warm(sim, model) != ["n03"]
    assert trio.current_time() - began < LIMITS.placement_coming_seconds + 30


async def test_a_replica_retires_although_nobody_has_had_to_wait_for_it(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    a, b = await heavy_grid(sim, "a", "b", placement=PlacementConfig(host="members"))
    model = await publish_heavy(sim, "a", {"weights.bin": content(100)})
    await b.weights.fetch(model, await knows(b, model))
    for name in ("a", "b"):
        await sim.ask(name, model, WORDS)
    assert {node.pool.states()[model] for node in (a, b)} == {"warm"}
    await trio.sleep(LIMITS.replica_idle_seconds + 20)
    assert {node.pool.states()[model] for node in (a, b)} == {"warm", "on_disk"}


async def test_a_replica_stays_as_long_as_its_operator_has_said(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    a, b = await heavy_grid(sim, "a", "b")
    model = await publish_heavy(sim, "a", {"weights.bin": content(100)})
    await b.weights.fetch(model, await knows(b, model))
    for node in (a, b):
        request = TextRequest(prompt=WORDS)
        async with node.router.infer(
            model, request, request_id=node.new_request_id(), waiting=Waiting(1000.0)
        ) as answer:
            assert [batch async for batch in answer.chunks]
    await trio.sleep(900)
    assert {node.pool.states()[model] for node in (a, b)} == {"warm"}
    await trio.sleep(200)
    assert {node.pool.states()[model] for node in (a, b)} == {"on_disk"}
