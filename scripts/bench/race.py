"""What `race` makes of a slow tail, beside `fallback`: real nodes in virtual time.

    python scripts/bench/race.py [--requests 500] [--slow 0.05] [--times 20]

Three nodes hold a model each. Of the answers of every node a share takes some times as long as the
others. Both modes are asked for as often, in turn. Printed are the percentiles of how long whole
answers took, and how many nodes were asked for one. Nothing is real time: the figures are exact,
and the same on every machine.
"""

import argparse
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import structlog
import trio
from scripts.bench.reporting import tell
from tests.simulation.test_liars import spawner_of
from tests.simulation.test_outcomes import HOLDERS, grid
from trio.testing import MockClock

WORDS = " ".join(["word"] * 20)
_USUAL_MS = 10.0  # of a word


def unsteady(sim: Any, rng: random.Random, slow: float, times: float) -> None:
    """Whether the next answer of a node is slow is drawn each time that one begins."""
    for name in HOLDERS:
        for worker in spawner_of(sim.nodes[name].node).spawned:
            usual = worker.infer

            def infer(*given: Any, worker: Any = worker, usual: Any = usual, **more: Any) -> Any:
                is_slow = rng.random() < slow
                worker.chunk_seconds = _USUAL_MS / 1000 * (times if is_slow else 1)
                return usual(*given, **more)

            worker.infer = infer  # type: ignore[method-assign]


async def measured(options: argparse.Namespace, directory: Path) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {"fallback": [], "race": []}
    usual = _USUAL_MS
    async with grid(directory, first=usual, second=usual, third=usual) as (sim, asker):
        for _ in range(5):
            await asker.ask(WORDS, mode={"name": "vote", "of": 3})  # so that all are loaded
        unsteady(sim, random.Random(options.seed), options.slow, options.times)
        for _ in range(options.requests):
            for mode, took in found.items():
                began = trio.current_time()
                answer = await asker.ask(WORDS, mode=mode)
                took.append((trio.current_time() - began, answer["aigrid"].get("asked", 1)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=500, help="of each mode")
    parser.add_argument("--slow", type=float, default=0.05, help="share of answers")
    parser.add_argument("--times", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    with tempfile.TemporaryDirectory() as folder:
        found = trio.run(measured, options, Path(folder), clock=MockClock(autojump_threshold=0))
    tails, asked_for = dict[str, float](), dict[str, float]()
    for mode, told in found.items():
        took = sorted(seconds for seconds, _ in told)
        p50, p95, p99 = (took[min(len(took) - 1, int(p * len(took)))] for p in (0.5, 0.95, 0.99))
        asked = sum(count for _, count in told) / len(told)
        tails[mode] = p99
        asked_for[mode] = asked
        print(f"{mode:9} p50 {p50:.3f}  p95 {p95:.3f}  p99 {p99:.3f} s, {asked:.3f} asked for one")
    for name, of, unit in (("p99", tails, "virtual s"), ("nodes asked", asked_for, "nodes")):
        tell(f"race, {name}", [of["race"]], unit, beside=("fallback", [of["fallback"]]))
    print(f"p99 of race / p99 of fallback: {tails['race'] / tails['fallback']:.2f}")


if __name__ == "__main__":
    main()
