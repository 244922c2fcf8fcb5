"""What a choice costs: `rank` over 10, 1,000 and 10,000 candidates, beside sorting a bare list.

    python scripts/bench/selection.py --rounds 20

Prints one JSON object: for each number of candidates the median CPU milliseconds of each way to
choose, over turns in which all of them run one after the other, and the same as multiples of
`sort`: of a list of as many tuples of one number and two strings. `tiers` has no weights;
`balanced` has, with an evaluation of every model by somebody else; `constrained` has source, target
and licence as well; `explained` is `balanced` with the explanation of every candidate.
"""

import argparse
import json
import platform
import random
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import process_time

import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.bench.reporting import tell
from tests.metagraph.world import DESCRIPTIONS, NOW, candidate, model_body

from aigrid.metagraph.evidence import Claim, Claims, Evidence
from aigrid.metagraph.selection import (
    DEFAULT_STRATEGY,
    STRATEGIES,
    Filters,
    Observation,
    Outcomes,
    Ranking,
    Stated,
    Strategy,
    explain,
    rank,
)

SIZES = (10, 1_000, 10_000)
MODELS = [f"model-{n}" for n in range(50)]
BODY = msgspec.structs.replace(model_body(), model=DESCRIPTIONS[0], license="Apache-2.0")
FACTS = Stated("did:issuer", BODY, serves=({"source": ("en",), "target": ("de", "fr")},))
WANTED = Filters(capability="translation", source="en", target="fr", license="apache-2.0")
STATES = ("warm", "warm", "on_disk", "can_fetch")


def ways(count: int) -> dict[str, Callable[[], object]]:
    """Each a choice among as many candidates, the same ones."""
    rng = random.Random(count)
    candidates = [
        candidate(f"node-{n}", model=rng.choice(MODELS), state=rng.choice(STATES))
        for n in range(count)
    ]
    observations = {
        one.node: Observation(
            running=rng.randrange(4),
            ttft_ms=rng.uniform(1, 900),
            outcomes={one.model: Outcomes(rng.uniform(0, 99), rng.uniform(0, 9))},
        )
        for one in candidates[::2]
    }
    claims = Claims()
    for model in MODELS:
        value = rng.random()
        claims.put(model, Claim(f"e-{model}", "did:judge", "text", {}, value, 200, NOW + 1))
    evidence = Evidence(claims, NOW, trust=lambda _: 0.5)
    bare = [(rng.random(), one.node, one.record) for one in candidates]
    balanced = STRATEGIES["balanced"]

    def choose(strategy: Strategy = balanced, wanted: Filters | None = None) -> Ranking:
        return rank(
            candidates,
            observations,
            rng=random.Random(1),
            now_ms=NOW,
            strategy=strategy,
            constraints=wanted,
            facts=lambda _: FACTS,
            evidence=evidence,
        )

    return {
        "sort": lambda: sorted(bare),
        "tiers": lambda: choose(DEFAULT_STRATEGY),
        "balanced": choose,
        "constrained": lambda: choose(wanted=WANTED),
        "explained": lambda: explain(choose()),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    found = {}
    for count in SIZES:
        made = ways(count)
        took: dict[str, list[float]] = {name: [] for name in made}
        for _ in range(rounds):
            for name, way in made.items():
                began = process_time()
                way()
                took[name].append((process_time() - began) * 1000)
        for name in (way for way in took if way != "sort"):
            beside = "sorting a bare list"
            told = f"{name}, {count} candidates"
            tell(told, took[name], "ms", beside=(beside, took["sort"]))
        medians = {name: median(times) for name, times in took.items()}
        found[count] = {
            "ms": {name: round(ms, 3) for name, ms in medians.items()},
            "times_sort": {name: round(ms / medians["sort"], 1) for name, ms in medians.items()},
        }
    print(json.dumps({"rounds": rounds, "python": platform.python_version(), "found": found}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
