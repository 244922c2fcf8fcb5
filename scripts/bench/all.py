"""Every benchmark, one after the other, and one report of what they found: docs/benchmarks.md.

python scripts/bench/all.py --quick
python scripts/bench/all.py --only gossip --only decide
python scripts/bench/all.py --list
"""

import argparse
import contextlib
import json
import signal
import sys
import time
from collections.abc import Callable, Sequence
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
QUICK_SECONDS = 120.0
LEAST_SECONDS = 3.0  # with less left a quick run does not begin another benchmark
COLUMNS = 4


def main() -> int:
    arguments = parser().parse_args()
    if arguments.list:
        for one in PROGRAMS:
            print(f"{one.name:18}{'full only' if one.quick is None else ''}")
        return 0
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
    for number, program in enumerate(programs):
        left = quick_seconds - (time.monotonic() - began)
        why = left_out(program, left) if quick else ""
        progress = Progress(program.name, number + 1, len(programs), began)
        try:
            if why:
                ran.append(Ran(program.name, "skipped", why))
            else:
                words = command(program, need, quick=quick)
                bound = program.bound_seconds
                bound = min(program.quick_bound_seconds, left) if quick else bound
                judges, tick = program.judges, progress.tick
                ran.append(runs(program.name, words, bound_seconds=bound, judges=judges, tick=tick))
        except MissingError as error:
            ran.append(Ran(program.name, "skipped", str(error)))
        except KeyboardInterrupt:  # while it was looked for what it needs
            ran.append(Ran(program.name, "interrupted", "it was interrupted"))
        progress.over(ran[-1])
        if ran[-1].state == "interrupted":
            return


def left_out(program: Program, left_seconds: float) -> str:
    """Why a quick run does without it, if it does."""
    if program.quick is None:
        return "it has no quick run"
    if left_seconds < LEAST_SECONDS:
        return "the time of a quick run was over"
    return ""


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
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    history.append(record, found)
    runs = history.read(record)
    (out / "report.html").write_text(page(runs), encoding="utf-8")
    drawn = list(history.drawings(runs).values())
    if drawn:
        (out / "history.png").write_bytes(png(drawn, COLUMNS))


if __name__ == "__main__":
    sys.exit(main())
