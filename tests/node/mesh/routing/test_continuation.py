"""Who is asked to go on with an answer that broke off."""

import random

from tests.metagraph.world import candidate

from aigrid.metagraph.selection import Observation, rank
from aigrid.node.mesh.routing.continuation import others_first


def test_the_one_that_failed_comes_after_those_with_room_and_before_those_without() -> None:
    failed = candidate("a")
    others = [candidate("idle"), candidate("full"), candidate("cold", state="can_fetch")]
    seen = {one.node: Observation() for one in (failed, *others)}
    seen["full"] = Observation(running=others[1].slots)
    for seed in range(10):
        ranking = rank([failed, *others], seen, rng=random.Random(seed))
        order = [one.candidate.node for one in others_first(ranking, failed).kept]
        assert order == ["idle", "a", "full", "cold"]
