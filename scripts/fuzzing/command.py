"""Fuzzes every decoder of what comes from outside, as long as it is told to.

    python -m scripts.fuzz --seconds 5
    python -m scripts.fuzz --target records --executions 1000000 --seed 7
    python -m scripts.fuzz --target records --seed 7 --index 1234
    python -m scripts.fuzz --long --jobs 2

Inputs are mutations of valid seeds, made with their structure in mind; each follows from the
target, the seed and its index, so that the line that is printed with a finding repeats it. Found is
any error that the decoder does not announce, an execution that takes too long or too much memory,
and the death of the process. Inputs that did it are kept. Exit status 1: something was found.

The long run is a million executions of each target. It keeps a journal beside the inputs, goes on
where it was stopped, after it has executed anew what it had found (what is fixed by then no longer
counts), and ends with `report.json`: for each target what was executed, and how often
an input was taken or refused, by the kind of refusal. `--coverage` says which lines of our code
the executions of a target come to.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from scripts.folders import make
from scripts.fuzzing import long
from scripts.fuzzing.asked import between
from scripts.fuzzing.run import HEADING, Finding, Job, Run, WorkerError, words_of
from scripts.running import JOBS_MAX

FOREVER = 1 << 60
SECONDS_LEAST, SECONDS_MOST = 0.001, 1e9
COVERED_EXECUTIONS = 2000
KEEP = Path(".fuzz")
WITH: Mapping[str, tuple[str, ...]] = {  # what does something beside an option that says what to do
    "list": (),
    "index": ("target", "seed"),
    "coverage": ("target", "seed", "executions"),
    "long": ("target", "seed", "executions", "jobs", "keep"),
}


def repeat(name: str, seed: int, index: int) -> int:
    """One execution, here, with its whole traceback."""
    from scripts.fuzzing.table import target_of
    from scripts.fuzzing.target import input_of

    target = target_of(name)
    data = input_of(target, target.inputs(), seed, index)
    print(f"{len(data)} bytes: {data[:2000]!r}")
    began = time.thread_time()
    refusal = target.refusal(data)
    said = f"refused: {type(refusal).__name__}: {refusal}" if refusal else "taken"
    print(said, end="")
    print(f", {1000 * (time.thread_time() - began):.1f} ms")
    return 0


def known(name: str) -> bool:
    """Whether there is a target of that name."""
    from scripts.fuzzing.table import target_of

    try:
        return bool(target_of(name))
    except KeyError:
        return False


def keep(findings: Sequence[Finding], folder: Path, seed: int) -> None:
    """Store the inputs, one file for each finding."""
    for finding in findings:
        folder.mkdir(parents=True, exist_ok=True)
        long.store(finding, folder, seed)


def _keep(finding: Finding, folder: Path, seed: int, *, silent: bool) -> None:
    """Store one; where a run that is otherwise silent cannot, it says it."""
    try:
        keep([finding], folder, seed)
    except OSError:
        if silent:
            print(words_of(finding, seed), file=sys.stderr)
        raise


def show_coverage(names: Sequence[str], seed: int, executions: int) -> int:
    """Tables of what each target reaches, and of what nobody reaches though somebody comes near."""
    from scripts.fuzzing import coverage
    from scripts.fuzzing.table import target_of

    reached = {}
    print(coverage.HEADING)
    for name in names:
        reached[name] = coverage.measure(target_of(name), seed, executions)
        print(coverage.line_of(name, reached[name]), flush=True)
    whole = coverage.together(reached)
    print(coverage.line_of("all of them", whole), "\n\nnot reached by any:")
    for function, lines in whole.gaps():
        print(f"{function}: {', '.join(map(str, lines))}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 1: something was found. 2: options that make no run, or what cannot be written.

    130: nobody reads what is said.
    """
    given = _given(arguments)
    if given.index is not None:  # whatever is raised there is what was found
        return repeat(given.target[0], given.seed or 0, given.index)
    return _told(given)


def _told(given: argparse.Namespace) -> int:
    try:
        status = _go(given)
        print(end="", flush=True)
    except BrokenPipeError:
        status = 130
    except (OSError, ValueError, WorkerError) as error:
        print(f"fuzz: {error}", file=sys.stderr)
        status = 2
    else:
        return status
    with suppress(OSError, AttributeError):  # nor does who flushes at the end what was not taken
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


def _given(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Options that make a run, None where they were not given; ends with 2 and a sentence else."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", action="append", metavar="NAME", help="all of them if none")
    whole = partial(between, int)
    seconds_of = between(float, SECONDS_LEAST, SECONDS_MOST)
    parser.add_argument("--seconds", type=seconds_of, help="for each target")
    parser.add_argument("--executions", type=whole(1, FOREVER), help="of each target")
    parser.add_argument("--seed", type=int, help="0 if none")
    parser.add_argument(
        "--index", type=whole(0, FOREVER), help="repeat this execution of the target alone"
    )
    parser.add_argument("--jobs", type=whole(1, JOBS_MAX), help="processes at once, 1 if not said")
    parser.add_argument("--keep", type=Path, help=f"where inputs are stored, {KEEP} if not said")
    for flag, about in (
        ("--long", "a million of each, in pieces"),
        ("--coverage", "which lines are reached"),
        ("--json", "the tallies as JSON"),
        ("--list", "the names of all targets"),
    ):
        parser.add_argument(flag, action="store_const", const=True, help=about)
    given = parser.parse_args(arguments)
    if wrong := refused_together(vars(given)):
        parser.error(wrong)
    if unknown := [name for name in given.target or () if not known(name)]:
        parser.error(f"there is no target {unknown[0]}: see --list")
    return given


def refused_together(given: Mapping[str, Any]) -> str:
    """What is wrong with options of which one would be ignored; "" if all count."""
    said = [name for name, value in given.items() if value is not None]
    mode = next((name for name in WITH if name in said), None)
    if mode is None:
        return ""
    if more := [name for name in said if name not in (mode, *WITH[mode])]:
        return f"--{mode} does not go together with --{more[0]}"
    if mode == "index" and len(given["target"] or ()) != 1:
        return "--index needs one --target, whose execution it is"
    return ""


def _go(given: argparse.Namespace) -> int:
    from scripts.fuzzing.table import targets

    names, seed, keep_in = given.target or list(targets()), given.seed or 0, given.keep or KEEP
    if given.list:
        print("\n".join(targets()))
        return 0
    if given.coverage:
        return show_coverage(names, seed, given.executions or COVERED_EXECUTIONS)
    make(keep_in, "--keep")
    say: Callable[[str], object] = str if given.json else partial(print, flush=True)
    say(HEADING)
    run = Run((), seed, given.jobs or 1, say=say)
    if given.long:
        done = long.run_long(run, keep_in, names, given.executions or long.EXECUTIONS)
        return 1 if done.of(names) else 0
    seconds = given.seconds or (SECONDS_MOST if given.executions else 10.0)
    jobs = [Job(n, 0, given.executions or FOREVER, seconds) for n in names]
    found = partial(_keep, folder=keep_in, seed=seed, silent=given.json)
    run = replace(run, jobs=jobs, found=found)
    run.go()
    if given.json:
        print(json.dumps({name: vars(tally) for name, tally in run.tallies.items()}))
    return 1 if run.findings else 0
