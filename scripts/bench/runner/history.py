"""What earlier runs found: a file with the report of each as a line of JSON."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.bench.runner.report import main_numbers
from scripts.plots.charts import series
from scripts.plots.drawing import Drawing

RUNS_MAX = 200  # of which the newest count


@dataclass
class Series:
    """One figure over the runs, oldest first: its median and between what it lay."""

    middles: list[float] = field(default_factory=list)
    lows: list[float] = field(default_factory=list)
    highs: list[float] = field(default_factory=list)


def append(path: Path, report: dict[str, Any]) -> None:
    """On a line of its own, also where the last writer was cut off in the middle of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torn = path.exists() and not path.read_bytes().endswith(b"\n") and path.stat().st_size > 0
    with path.open("a", encoding="utf-8") as file:
        file.write(("\n" if torn else "") + json.dumps(report) + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    """Oldest first. A line that is no report is left out."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            report = json.loads(line)
        except ValueError:
            continue
        if isinstance(report, dict) and "benchmarks" in report:
            found.append(report)
    return found[-RUNS_MAX:]


def over_time(runs: Sequence[dict[str, Any]]) -> dict[tuple[str, str], Series]:
    """By benchmark and figure, of the runs that are comparable to the last.

    A quick run is no full one, and another number of cores or another processor is another
    machine. Figures stand in the order of the last run that has them.
    """
    if not runs:
        return {}
    last = _kind(runs[-1])
    found: dict[tuple[str, str], Series] = {}
    for run in runs:
        if _kind(run) != last:
            continue
        for name, one in run["benchmarks"].items():
            for figure in one["figures"]:
                middle, low, high = main_numbers(figure)
                key = name, f"{figure['name']} / {figure['beside']}".removesuffix(" / ")
                of = found.setdefault(key, Series())
                of.middles.append(middle)
                of.lows.append(low)
                of.highs.append(high)
    return found


def drawings(runs: Sequence[dict[str, Any]]) -> dict[tuple[str, str], Drawing]:
    """A small plot of each figure."""
    return {
        key: series(f"{key[0]}: {key[1]}", of.middles, of.lows, of.highs)
        for key, of in over_time(runs).items()
    }


def _kind(run: dict[str, Any]) -> tuple[Any, ...]:
    machine = run["machine"]
    return run["quick"], machine["cores"], machine["processor"]
