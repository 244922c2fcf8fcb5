"""Whether the same seed is the same run: in new processes, under other values of PYTHONHASHSEED."""

import os
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from scripts.simulation.options import Options, replay_line

ROOT = Path(__file__).resolve().parents[2]
TRACE = "trace "


def trace_of(options: Options, hash_seed: int) -> str:
    """The hash of the trace; "" where the process told of none."""
    ended = subprocess.run(
        [sys.executable, *shlex.split(replay_line(options))[1:]],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed)},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = ended.stdout.splitlines()
    return next((line[len(TRACE) :] for line in lines if line.startswith(TRACE)), "")


def repeats(options: Options, times: int) -> bool:
    """Run it so often, and with the next seed; whether the first agree, and that one differs."""
    traces = []
    for hash_seed in range(1, times + 1):
        traces.append(trace_of(options, hash_seed))
        print(f"seed {options.seed} PYTHONHASHSEED {hash_seed} {traces[-1]}", flush=True)
    other = trace_of(replace(options, seed=options.seed + 1), 1)
    print(f"seed {options.seed + 1} PYTHONHASHSEED 1 {other}")
    well = len(set(traces)) == 1 and "" not in traces and other not in {"", traces[0]}
    print("it repeats" if well else "FAILED it does not repeat", flush=True)
    return well
