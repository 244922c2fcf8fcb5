"""The same run under many seeds, some at a time: each in a process of its own."""

import shlex
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from scripts.running import Running
from scripts.simulation.options import Options, replay_line

ROOT = Path(__file__).resolve().parents[3]
TRACE = "trace "
TOLD = ("FAILED", "replay: ")


class Ran(NamedTuple):
    """What a process said of its run. `trace_hash` is "" where it told of none."""

    seed: int
    trace_hash: str
    well: bool
    failures: tuple[str, ...]


def told_by(seed: int, status: int, lines: Sequence[str]) -> Ran:
    """What a process that has ended with this status said on these lines."""
    trace = next((line[len(TRACE) :] for line in lines if line.startswith(TRACE)), "")
    failures = tuple(line for line in lines if line.startswith(TOLD))
    well = status == 0 and bool(trace)
    if not well and not failures:
        failures = (f"FAILED seed {seed}: the process ended with {status} and told of nothing",)
    return Ran(seed, trace, well, failures)


def run_many(options: Options, seeds: int, processes: int, say: Callable[[Ran], object]) -> bool:
    """Run the seed of `options` and those that follow; whether every property held in each.

    `say` hears of them in their order.
    """
    running = Running(signal.SIGTERM)

    def one(seed: int) -> Ran:
        words = shlex.split(replay_line(replace(options, seed=seed)))[1:]
        how = {"cwd": ROOT, "stdout": subprocess.PIPE}
        with running.started([sys.executable, *words], **how) as process:
            said, _ = process.communicate()
        return told_by(seed, process.returncode, said.splitlines())

    well = True
    with ThreadPoolExecutor(processes) as pool:
        try:
            for ran in _in_order(pool, one, range(options.seed, options.seed + seeds), processes):
                well &= ran.well
                say(ran)
        except (KeyboardInterrupt, OSError):  # or nobody hears what is said any more
            pool.shutdown(wait=False, cancel_futures=True)
            running.stop()
            raise
    return well


def _in_order(
    pool: Executor, one: Callable[[int], Ran], seeds: Iterable[int], processes: int
) -> Iterator[Ran]:
    """As `pool.map`, which would take in all of a hundred million at once."""
    waiting: deque[Future[Ran]] = deque()
    for seed in seeds:
        waiting.append(pool.submit(one, seed))
        if len(waiting) >= 2 * processes:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
