"""What the bench of convergence publishes, where a node would refuse it."""

import random

from scripts.bench.convergence_mix import Publisher
from tests.metagraph.world import OWN


def test_no_model_is_served_under_a_capability_that_was_withdrawn(tmp_path):
    served, withdrawn = 0, 0
    for seed in range(300):
        rng, publisher, gone = random.Random(seed), Publisher("n", OWN, tmp_path), set[str]()
        for number in range(25):
            _, (method, params) = publisher.next(rng, number)
            if method == "capability_withdraw":
                gone.add(params["name"])
            elif method == "publish":
                assert params["capability"].partition("#")[2] not in gone
                served += "#" in params["capability"]
        withdrawn += len(gone)
    assert served
    assert withdrawn
