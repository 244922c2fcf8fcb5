"""Many nodes in virtual time, under faults and attacks, from one seed: see docs/simulation.md.

python scripts/simulate.py churn --nodes 50 --seed 7
python scripts/simulate.py --list
"""

import argparse
import errno
import json
import logging
import os
import resource
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.folders import make
from scripts.plots.png import png
from scripts.running import JOBS_MAX, commit
from scripts.simulation.databases import ENDING, databases
from scripts.simulation.events.report import events_report
from scripts.simulation.options import (
    SEED_MAX,
    Options,
    flag_of,
    options_of,
    replay_line,
    scenarios,
    settable,
    without_effect,
)
from scripts.simulation.reporting.many_seeds import Ran, run_many
from scripts.simulation.reporting.page import page
from scripts.simulation.reporting.plots import plots
from scripts.simulation.reporting.repeating import repeats
from scripts.simulation.reporting.report import report
from scripts.simulation.reporting.wording import (
    answered,
    both,
    deliveries,
    everywhere,
    unseen,
    verdict,
    well_after,
    wrong,
)
from scripts.simulation.run import simulate

REPORT_FILE, PAGE_FILE = "simulation.json", "simulation.html"
OPEN_FILES_PER_NODE = 4


def main() -> int:
    """Exit status 1: a property did not hold. 2: options that make no run. 130: stopped."""
    status = 130
    if sys.stdout is None:  # it was closed: the verdict is in the status
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    try:
        status = _main()
        sys.stdout.flush()  # here, where it is seen that it cannot be
    except* KeyboardInterrupt:
        print("simulate: interrupted", file=sys.stderr)
    except* BrokenPipeError:  # nobody reads what is said; nor does who flushes it at the end
        _say_no_more()
    except* OSError as errors:
        if not errors.subgroup(_is_full):
            raise
        print("simulate: no room is left where this run writes to", file=sys.stderr)
        _say_no_more()
        status = 2
    return status


def _is_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _say_no_more() -> None:
    """What is still to be flushed at the end goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _main() -> int:
    arguments = parser().parse_args()
    if arguments.list:
        return _list()
    try:
        options = options_given(arguments)
        check_runs(arguments, options)
        if arguments.out:
            make(Path(arguments.out), "--out")
    except ValueError as error:
        print(f"simulate: {error}", file=sys.stderr)
        return 2
    if arguments.repeat or arguments.jobs > 1:
        for number in ENDING:
            signal.signal(number, signal.default_int_handler)  # which ends the processes
    if arguments.repeat:
        return 0 if repeats(options, arguments.repeat) else 1
    if arguments.jobs > 1:
        return 0 if run_many(options, arguments.seeds, arguments.jobs, _tell_briefly) else 1
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL),
        logger_factory=structlog.ReturnLoggerFactory(),  # the usual one wants a standard output
    )
    _allow_files(options.nodes)
    return _one_by_one(options, arguments)


def _list() -> int:
    """A file that makes no scenario hides no other."""
    status = 0
    for name in scenarios():
        try:
            print(f"{name:18} {options_of(name, {}).about}")
        except ValueError as error:
            print(f"simulate: {error}", file=sys.stderr)
            status = 2
    return status


def check_runs(arguments: argparse.Namespace, options: Options) -> None:
    """Whether that many runs can be made so. Raises ValueError."""
    for name in ("seeds", "jobs"):
        if getattr(arguments, name) < 1:
            raise ValueError(f"--{name} is at least 1")
    if arguments.jobs > JOBS_MAX:
        raise ValueError(f"--jobs is at most {JOBS_MAX}")
    if arguments.repeat is not None and arguments.repeat < 2:
        raise ValueError("--repeat is at least 2: one run has nothing to be compared with")
    if arguments.repeat and (arguments.out or arguments.seeds > 1 or arguments.jobs > 1):
        raise ValueError("--repeat goes together with none of --seeds, --jobs, --out")
    if arguments.out and arguments.jobs > 1:
        raise ValueError("--out takes one report at a time, without --jobs")
    if arguments.out == "":
        raise ValueError("--out names no folder")
    last = options.seed + (1 if arguments.repeat else arguments.seeds - 1)
    if last > SEED_MAX:
        raise ValueError(f"the last seed would be more than {SEED_MAX}")


def _one_by_one(options: Options, arguments: argparse.Namespace) -> int:
    """Every seed; in `out` stays the report of the first that failed, else of the last."""
    well, written = True, True
    for seed in range(options.seed, options.seed + arguments.seeds):
        one = replace(options, seed=seed)
        found = _found(one)
        if arguments.seeds > 1:
            _tell_briefly(Ran(seed, found["trace_hash"], found["well"], ()))
        else:
            _tell(found)
        if not found["well"]:
            for broken in found["violations"]:
                print(f"FAILED {broken['name']} at {broken['at_seconds']:.2f} s: {broken['what']}")
            print(f"replay: {replay_line(one)}", flush=True)
        if arguments.out and well:
            written &= _write(found, Path(arguments.out))
        well &= found["well"]
    if not well:
        return 1
    return 0 if written else 2


def _write(found: dict[str, Any], folder: Path) -> bool:
    """Whether that went well."""
    try:
        (folder / REPORT_FILE).write_text(json.dumps(found, indent=1), encoding="utf-8")
        (folder / PAGE_FILE).write_text(page(found), encoding="utf-8")
        for name, drawing in plots(found).items():
            (folder / f"{name}.png").write_bytes(png([drawing]))
    except OSError as error:
        print(f"simulate: the report is not written: {error}", file=sys.stderr)
        return False
    print(f"report {folder / PAGE_FILE}", flush=True)
    return True


def _tell_briefly(ran: Ran) -> None:
    for line in (
        f"seed {ran.seed} {ran.trace_hash[:16]} {'well' if ran.well else ''}",
        *ran.failures,
    ):
        print(line, flush=True)


def options_given(arguments: argparse.Namespace) -> Options:
    """Of the scenario, with the flags on top. Raises ValueError."""
    every = {name: getattr(arguments, name) for name in settable()}
    said = {name: value for name, value in every.items() if value is not None}
    options = options_of(arguments.scenario, said)
    if why := without_effect(options, said):
        raise ValueError(why)
    return options


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="simulate", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    made.add_argument("scenario", nargs="?", default="", help="see --list; none: no faults")
    made.add_argument("--list", action="store_true", help="name the scenarios")
    made.add_argument("--out", help=f"folder for {REPORT_FILE}, {PAGE_FILE}, plots as PNG")
    made.add_argument(
        "--repeat",
        type=int,
        help="so many times in processes of other hash seeds, and once with another seed: compared",
    )
    made.add_argument(
        "--seeds", type=int, default=1, help="so many runs, of this seed and the next"
    )
    made.add_argument("--jobs", type=int, default=1, help="so many of these at once")
    for name, (default, doc) in settable().items():
        flag, told = flag_of(name), f"{doc} ({default})".replace("%", "%%")
        if isinstance(default, bool):
            how: dict[str, Any] = {"action": argparse.BooleanOptionalAction}
        else:
            how = {"type": type(default), "metavar": "X"}
        made.add_argument(flag, default=None, help=told, **how)
    return made


def how_far(phase: str, share: float, options: Options) -> str:
    """In virtual seconds, where it is known how many there will be at most."""
    known = {"faults and load": options.duration_seconds, "settling": options.settle_seconds}
    if phase not in known:
        return f"{share:.0%}"
    return f"{share * known[phase]:.0f} of {known[phase]:.0f} virtual s"


def _found(options: Options) -> dict[str, Any]:
    """Run it; the report."""
    console = Console(stderr=True)
    said = TextColumn("{task.fields[said]:>24}")
    columns = TextColumn("{task.description:16}"), BarColumn(), said, TimeElapsedColumn()
    with (
        databases(options.nodes) as folder,
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar,
    ):
        task = bar.add_task("starting", total=1.0, said="")

        def progress(phase: str, share: float) -> None:
            said = how_far(phase, share, options)
            bar.update(task, description=phase, completed=share, said=said)

        if options.mode == "events":
            return events_report(options, commit(), progress)
        return report(simulate(options, folder, progress), commit())


def _tell(found: dict[str, Any]) -> None:
    under, after = found["requests"]["under_faults"], found["requests"]["afterwards"]
    spread, cost = found["propagation"], found["cost"]
    print(found["model"])
    print(f"trace {found['trace_hash']}")
    print(f"answered under faults: {answered(under)}, afterwards: {answered(after)}", end="; ")
    print(f"wrong {wrong(under)}, {wrong(after)}")
    print(f"a record to everybody, of those that did: p50, p99 {both(spread['everywhere'])}")
    print(f"records that reached everybody: {everywhere(spread)}")
    print(f"deliveries of records: {deliveries(spread)}")
    print(well_after(found))
    print(f"{cost['cpu_seconds']} CPU-s for {cost['virtual_seconds']} virtual s", end=", ")
    print(f"{cost['messages_per_cpu_second']} messages per CPU-s")
    print(verdict(found))
    if why := unseen(found):
        print(why)


def _allow_files(nodes: int) -> None:
    """Each node has a database."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 256 + OPEN_FILES_PER_NODE * nodes
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


if __name__ == "__main__":
    sys.exit(main())
