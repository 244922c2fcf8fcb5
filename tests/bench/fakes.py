"""Tiny programs that stand for benchmarks, and a report's heading."""

import sys
from pathlib import Path
from typing import Any

from scripts.bench.runner.running import run
from tests.patience import PATIENCE_SECONDS

ROOT = Path(__file__).resolve().parents[2]
BENCH = ROOT / "scripts" / "bench"
TELLS = "from scripts.bench.reporting import at_most, tell; tell('a', [2], 'ms', beside=('b', [1]), aim=at_most(3));"
ABOUT: dict[str, Any] = {
    "date": "2026-01-02T03:04:05Z",
    "commit": "abc",
    "dirty": True,
    "quick": True,
    "machine": {
        "cores": 2,
        "memory_gib": 4.0,
        "processor": "x",
        "system": "Linux 6.1",
        "python": "3.11.2",
    },
    "load_before": 0.1,
    "load_after": 0.2,
}


def python(code, bound_seconds=PATIENCE_SECONDS, **options):
    words = [sys.executable, "-c", f"import sys; sys.path.insert(0, '.'); {code}"]
    return run("fake", words, bound_seconds=bound_seconds, **options)
