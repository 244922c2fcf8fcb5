"""The same run under many seeds, some at a time: each in a process of its own."""

import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from scripts.simulation.options import Options, replay_line

ROOT = Path(__file__).resolve().parents[2]
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


class _Processes:
    """Those that run; once it was stopped there are none any more."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._stopped = False

    def run(self, words: Sequence[str]) -> tuple[int, list[str]]:
        """(exit status, lines)."""
        with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            with self._lock:
                self._running.add(process)
                if self._stopped:
                    process.terminate()
            said, _ = process.communicate()
            with self._lock:
                self._running.discard(process)
        return process.returncode, said.splitlines()

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.terminate()


def run_many(options: Options, seeds: int, processes: int, say: Callable[[Ran], object]) -> bool:
    """Run the seed of `options` and those that follow; whether every property held in each.

    `say` hears of them in their order.
    """
    running = _Processes()

    def one(seed: int) -> Ran:
        words = shlex.split(replay_line(replace(options, seed=seed)))[1:]
        status, lines = running.run([sys.executable, *words])
        return told_by(seed, status, lines)

    well = True
    with ThreadPoolExecutor(processes) as pool:
        try:
            for ran in pool.map(one, range(options.seed, options.seed + seeds)):
                well &= ran.well
                say(ran)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            running.stop()
            raise
    return well
