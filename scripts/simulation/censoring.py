"""Members that pass on nothing of one victim: no gossip of it, and no record of it in repair."""

from functools import partial
from typing import Any

from scripts.simulation.scene import Scene
from scripts.simulation.world import SimNode

from aigrid.protocol.kinds import Kind


def arm(scene: Scene) -> None:
    """Choose the victim, and have every attacker keep it quiet."""
    others = [one for one in scene.honest() if one.name not in {scene.founder, *scene.holders}]
    victim = scene.rng("censor").choice(others or scene.honest())
    scene.watch.victim = victim.name
    for one in scene.attackers():
        _keep_quiet(one, victim.node.identity.did, victim.node.identity.peer_id)


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
