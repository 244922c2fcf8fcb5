"""Members that mean ill. They hold valid memberships, and keep to the wire format.

What each does is `arm`ed once the grid is up, and goes on while there is load:

    cheat    answers with a cheaper model
    liar     says that a model is warm, shows signs of life for ever, and never answers
    sybil    offers the capability, and fails at every request
    flood    issues as many records as it can
    replay   sends again what is no longer so, and forges: see `replaying`
    censor   passes on nothing of one victim: see `censoring`
    poison   gives other files than a model has: see `poisoning`
    others   are attacks on GossipSub and the DHT: see `on_the_wire`
    squat    offers another model under the name of an honest one, and answers nonsense
"""

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio
from scripts.simulation.attacks import censoring, poisoning, replaying
from scripts.simulation.checks.properties import Watch
from scripts.simulation.doubles import Cheat, Failing, Parrot
from scripts.simulation.options import ON_THE_WIRE
from scripts.simulation.scene import Scene
from scripts.simulation.workload import CAPABILITY
from scripts.simulation.world import SimNode

from aigrid.engines.base import Engine
from aigrid.node.app import Node
from aigrid.node.discovery.batches import batches
from aigrid.protocol.identity import Identity
from aigrid.protocol.inference import TextChunk
from aigrid.protocol.kinds import CapabilityBody, Kind
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.messages import RECORDS_TOPIC, Records, encode
from aigrid.protocol.record import sign

FLOOD_SECONDS = 0.5
RECORD_MS = 600_000
KNOWN_SECONDS = 5.0
MISLEADING = frozenset({"cheat", "liar", "sybil"})  # of no effect on whom nobody asks
LARGE = LIMITS.record_unit_bytes // 4  # words of four bytes: such a record counts as two


def engine_of(kind: str) -> Callable[[], Engine]:
    """What such a node computes with."""
    return {"cheat": Cheat, "sybil": Failing, "squat": Cheat}.get(kind, Parrot)


def identities(scene: Scene) -> dict[str, Identity]:
    """Those that attackers chose, by their names; the others have whatever comes."""
    if scene.options.kind != "eclipse" or not scene.bad:
        return {}
    from scripts.simulation.attacks import on_the_wire

    grid = on_the_wire.grid_of(scene.options.seed, scene.founder)
    names = {f"n{number:04d}" for number in range(scene.options.nodes)}.difference(scene.bad)
    others = [scene.sim.identity_of(name) for name in sorted(names.union(on_the_wire.SEEKERS))]
    chosen = on_the_wire.ground(scene.rng("ground"), grid, scene.models, len(scene.bad), others)
    return dict(zip(scene.bad, chosen, strict=True))


async def arm(scene: Scene) -> Callable[[], Awaitable[None]]:
    """Have attackers offer what they say that they serve, and make them what they are.

    Cheats, liars and those who replay offer the very models of the others. What is returned goes on
    with the attack until it is cancelled.
    """
    kind = scene.options.kind
    if kind in ON_THE_WIRE and scene.bad:
        from scripts.simulation.attacks import on_the_wire  # a second of imports

        return await on_the_wire.arm(scene)
    if kind == "poison":
        return await poisoning.arm(scene)
    if kind == "squat":  # the others are no newcomers any more: they know whose names these are
        await trio.sleep(LIMITS.name_settle_seconds)
    for one in scene.attackers():
        if kind in {"cheat", "liar", "replay"}:
            for name in scene.models:
                await scene.offer(one.name, name)
        elif kind == "sybil":
            await scene.offer(one.name, f"sybil-{one.name}")
        elif kind == "squat":
            await _squat(scene, one)
        if kind == "liar":
            _stall(one.node)
        if kind in MISLEADING:
            scene.watch.attacked.add("misled")
            _count_asked(scene.watch, one.node)
        elif kind == "flood":
            scene.watch.attacked.add("rated")
            scene.watch.flooders[one.name] = one.node.identity.did
    if kind == "censor" and scene.bad:
        return censoring.arm(scene)
    if kind == "replay" and scene.bad:
        return replaying.arm(scene)
    if kind == "squat" and scene.bad:
        scene.watch.attacked.add("named")
        return partial(_look_for_names, scene)
    return partial(_flood, scene) if kind == "flood" else trio.sleep_forever


async def _flood(scene: Scene) -> None:
    async with trio.open_nursery() as nursery:
        for one in scene.attackers():
            rng = scene.rng(f"{one.name}/flood")
            nursery.start_soon(flood, one, scene.options.flood_rate, rng)


async def _squat(scene: Scene, one: SimNode) -> None:
    """The same name, another model: its description differs, and so does its id."""
    for name in scene.models:
        model = await scene.sim.publish_echo(
            one.name, name, capability=CAPABILITY, tag=f"{name} of {one.name}"
        )
        async with one.node.pool.lease(model):
            pass


async def _look_for_names(scene: Scene) -> None:
    """Under `named`, how many honest nodes know an attacker's model by an honest one's name."""
    await trio.sleep(KNOWN_SECONDS)
    bad = {one.node.identity.did for one in scene.attackers()}
    for one in scene.honest():
        offered = one.node.graph.index.models(scene.sim.now_ms())
        scene.watch.checks["named"] += any(
            bad.intersection(manifest.issuer for manifest in summary.manifests)
            and not set(summary.names).isdisjoint(scene.models)
            for summary in offered
        )
    await trio.sleep_forever()


def _count_asked(watch: Watch, node: Node) -> None:
    """Under `misled`, how often somebody came to it with a request."""
    infer = node.serving.infer

    def counted(*words: Any, **more: Any) -> Any:
        watch.checks["misled"] += 1
        return infer(*words, **more)

    vars(node.serving)["infer"] = counted


def _stall(node: Node) -> None:
    """It says that it is warm, shows signs of life for ever, and never answers."""

    @asynccontextmanager
    async def infer(*_: Any, **_more: Any) -> AsyncIterator[Any]:
        async def signs() -> AsyncIterator[tuple[TextChunk, ...]]:
            while True:
                yield (TextChunk(""),)
                await trio.sleep(1)

        class Answer:
            receipt = None

            def __aiter__(self) -> AsyncIterator[tuple[TextChunk, ...]]:
                return signs()

        yield Answer()

    vars(node.serving)["infer"] = infer


async def flood(one: SimNode, rate: float, rng: random.Random) -> None:
    """Publish so many records a second, until cancelled.

    One half is large, each under a key of its own, to fill the room that a member may have; the
    other is small and replaces itself, which takes no room and is to be stopped all the same.
    """
    node, number = one.node, 0
    while True:
        await trio.sleep(FLOOD_SECONDS * rng.uniform(0.8, 1.2))
        now_ms, raws = node.now_ms(), []
        for again in range(max(1, round(rate * FLOOD_SECONDS / 2))):
            number += 1
            for name, text in ((f"spam{number}", "spam" * LARGE), (f"again{again}", f"{number}")):
                body = CapabilityBody(
                    id=f"{node.identity.did}#{name}",
                    broader=(CAPABILITY,),
                    labels={"en": name},
                    input_schema={"description": text},
                )
                record = sign(
                    Kind.CAPABILITY,
                    body,
                    node.identity,
                    valid_from_ms=now_ms,
                    valid_until_ms=now_ms + RECORD_MS,
                )
                raws.append(record.raw)
        for batch in batches(raws):
            await node.transport.publish(RECORDS_TOPIC, encode(Records(batch)))
