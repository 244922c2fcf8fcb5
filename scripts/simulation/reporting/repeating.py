"""Whether the same seed is the same run: in new processes, under other values of PYTHONHASHSEED."""

import os
import shlex
import signal
import subprocess
import sys
from dataclasses import replace

from scripts.running import Running
from scripts.simulation.options import Options, replay_line
from scripts.simulation.reporting.many_seeds import ROOT, Ran, told_by


def run_once(options: Options, hash_seed: int) -> Ran:
    """In a process of its own, which ends with this one; what that says on stderr stays there."""
    running = Running(signal.SIGTERM)
    with running.started(
        [sys.executable, *shlex.split(replay_line(options))[1:]],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed)},
        stdout=subprocess.PIPE,
    ) as process:
        try:
            said, _ = process.communicate()
        except KeyboardInterrupt:
            running.stop()
            raise
    return told_by(options.seed, process.returncode, said.splitlines())


def repeats(options: Options, times: int) -> bool:
    """Run it so often, and with the next seed.

    Returns:
        Whether the first agree, that one differs, and each run was well.
    """
    other = replace(options, seed=options.seed + 1)
    runs = []
    for run, hash_seed in (*((options, n) for n in range(1, times + 1)), (other, 1)):
        runs.append(run_once(run, hash_seed))
        print(f"seed {run.seed} PYTHONHASHSEED {hash_seed} {runs[-1].trace_hash}", flush=True)
        for line in runs[-1].failures:
            print(line, flush=True)
    *same, last = (ran.trace_hash for ran in runs)
    if not all((*same, last)):
        print("FAILED a run told of nothing, so nothing can be compared")
        return False
    alike = len(set(same)) == 1 and last != same[0]
    well = all(ran.well for ran in runs)
    print("it repeats" if alike else "FAILED it does not repeat", flush=True)
    if alike and not well:
        print("FAILED it repeats, and is not well", flush=True)
    return alike and well
