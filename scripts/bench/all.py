"""Every benchmark, one after the other, and one report of what they found: docs/benchmarks.md.

python scripts/bench/all.py --quick
python scripts/bench/all.py --only gossip --only decide
python scripts/bench/all.py --list
"""

import argparse
import contextlib
import json
import math
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.bench.runner import history
from scripts.bench.runner.machine import load_average, machine, now, tree
from scripts.bench.runner.needs import MissingError, Needs
from scripts.bench.runner.page import page
from scripts.bench.runner.programs import PROGRAMS, Program, command
from scripts.bench.runner.report import lines, report, well
from scripts.bench.runner.running import Ran, run
from scripts.plots.png import png

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "build" / "bench"  # which git ignores
QUICK_SECONDS = 115.0  # and a few more to end what is under way
LEAST_SECONDS = 3.0  # with less left a quick run does not begin another benchmark
COLUMNS = 4
TIME_OVER = "the time of a quick run was over"


def main() -> int:
    arguments = parser().parse_args()
    if arguments.list:
        for one in PROGRAMS:
            print(f"{one.name:18}{'full only' if one.quick is None else ''}")
        return 0
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser().error(f"--out {arguments.out} is no folder to write to: {error.strerror}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what there is gets written, too
    chosen = [one for one in PROGRAMS if not arguments.only or one.name in arguments.only]
    about: dict[str, Any] = {
        "date": now(),
        **tree(),
        "quick": arguments.quick,
        "machine": machine(),
        "load_before": load_average(),
    }
    ran: list[Ran] = []
    whole = False
    with Needs(only_here=arguments.quick) as needs, contextlib.suppress(KeyboardInterrupt):
        run_all(chosen, needs.value, ran, quick=arguments.quick)
        whole = True
    found = report(ran, {**about, "load_after": load_average()})
    write(found, arguments.out, arguments.history or arguments.out / "history.jsonl")
    print("\n".join(lines(found)))
    return 0 if whole and well(ran) else 1


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [one.name for one in PROGRAMS]
    made.add_argument("--quick", action="store_true", help="those that can be, for two minutes")
    made.add_argument(
        "--only",
        action="append",
        choices=names,
        metavar="NAME",
        help="this one; may be repeated",
    )
    made.add_argument("--list", action="store_true", help="name them")
    made.add_argument("--out", type=Path, default=OUT, help="folder of the report (build/bench)")
    made.add_argument("--history", type=Path, help="earlier runs (history.jsonl in that folder)")
    return made


def run_all(
    programs: Sequence[Program],
    need: Callable[[str], str],
    ran: list[Ran],
    *,
    quick: bool,
    quick_seconds: float = QUICK_SECONDS,
    runs: Callable[..., Ran] = run,
) -> None:
    """Fills in what came of each, until all had their turn or somebody interrupts."""
    began = time.monotonic()
    without = [one for one in programs if quick and one.quick is None]
    ran += [Ran(one.name, "skipped", "it has no quick run") for one in without]
    chosen = [one for one in programs if one not in without]
    if quick:
        chosen.sort(key=lambda one: one.quick_bound_seconds)
    for number, program in enumerate(chosen):
        left = quick_seconds - (time.monotonic() - began) if quick else math.inf
        progress = Progress(program.name, number + 1, len(chosen), began)
        try:
            one = _turn(program, need, left, progress.tick, runs, quick=quick)
        except MissingError as error:
            one = Ran(program.name, "skipped", str(error))
        except KeyboardInterrupt:  # while it was looked for what it needs
            one = Ran(program.name, "interrupted", "it was interrupted")
        ran.append(one)
        progress.over(one)
        if one.state == "interrupted":
            return


def _turn(
    program: Program,
    need: Callable[[str], str],
    left_seconds: float,
    tick: Callable[[float], None],
    runs: Callable[..., Ran],
    *,
    quick: bool,
) -> Ran:
    """One, within its bound and what is left of the time of all."""
    if left_seconds < LEAST_SECONDS:
        return Ran(program.name, "skipped", TIME_OVER)
    bound = program.quick_bound_seconds if quick else program.bound_seconds
    words = command(program, need, quick=quick)
    shorter = min(bound, left_seconds)
    one = runs(program.name, words, bound_seconds=shorter, judges=program.judges, tick=tick)
    if one.too_long and shorter < bound:
        return replace(one, state="skipped", why=TIME_OVER)  # the others took too long, not this
    return one


class Progress:
    """A line on stderr for each, which counts its seconds where that is a terminal."""

    def __init__(self, name: str, number: int, count: int, began: float) -> None:
        self._head = f"[{number}/{count}] {name}"
        self._began = began
        self._tty = sys.stderr.isatty()

    def tick(self, seconds: float) -> None:
        if self._tty:
            whole = time.monotonic() - self._began
            self._say(f"\r\033[K{self._head} {seconds:.0f} s, {whole:.0f} s in all")

    def over(self, one: Ran) -> None:
        why = f": {one.why}" if one.why else ""
        start = "\r\033[K" if self._tty else ""
        self._say(f"{start}{self._head} {one.state}{why} ({one.wall_seconds:.1f} s)\n")

    def _say(self, said: str) -> None:
        sys.stderr.write(said)
        sys.stderr.flush()


def write(found: dict[str, Any], out: Path, record: Path) -> None:
    """The report as JSON and as a page, the history with it in it, and its plots as a picture."""
    (out / "report.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    history.append(record, found)
    runs = history.read(record)
    (out / "report.html").write_text(page(runs), encoding="utf-8")
    drawn = list(history.drawings(runs).values())
    if drawn:
        (out / "history.png").write_bytes(png(drawn, COLUMNS))


if __name__ == "__main__":
    sys.exit(main())
