"""Members that pass on nothing of one victim: no gossip of it, and no record of it in repair."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import trio
from scripts.simulation.scene import Scene
from scripts.simulation.workload import CAPABILITY, RECORD_MS
from scripts.simulation.world import SimNode

from aigrid.node.app import Node
from aigrid.protocol.kinds import CapabilityBody, Kind

SPOKEN, SPEAKS_SECONDS = 8, 1.0


def arm(scene: Scene) -> Callable[[], Awaitable[None]]:
    """Choose the victim, and have every attacker keep it quiet; what is returned has it speak."""
    others = [one for one in scene.honest() if one.name not in {scene.founder, *scene.holders}]
    victim = scene.rng("censor").choice(others or scene.honest())
    scene.watch.victim, scene.watch.victim_since = victim.name, trio.current_time()
    for one in scene.attackers():
        _keep_quiet(one, victim.node.identity.did, victim.node.identity.peer_id)
    return partial(_speak, victim.node)


async def _speak(node: Node) -> None:
    """Issue records, each under a key of its own."""
    for number in range(SPOKEN):
        body = CapabilityBody(
            id=f"{node.identity.did}#quiet-{number}",
            broader=(CAPABILITY,),
            labels={"en": f"quiet {number}"},
        )
        node.graph.issue(
            Kind.CAPABILITY, body, node.identity, now_ms=node.now_ms(), ttl_ms=RECORD_MS
        )
        await trio.sleep(SPEAKS_SECONDS)
    await trio.sleep_forever()


def _keep_quiet(one: SimNode, did: str, peer_id: str) -> None:
    gossip, graph = vars(one.node.transport)["_gossip"], one.node.graph
    forward = gossip._forward  # noqa: SLF001 - what a censor would change
    may_say = graph.memberships.may_say

    def pass_on(topic: str, data: bytes, message_id: Any) -> None:
        if message_id[0] != peer_id:
            forward(topic, data, message_id)

    def not_of_it(now_ms: int, kind: Kind, issuer: str) -> bool:
        return issuer != did and may_say(kind, issuer, now_ms)

    gossip._forward = pass_on  # noqa: SLF001
    vars(graph)["_may_say_at"] = lambda now_ms: partial(not_of_it, now_ms)
