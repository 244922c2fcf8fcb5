"""What it ran on, in general terms: neither the machine's name nor any path goes into a report."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]


def machine() -> dict[str, Any]:
    """The kernel by its name and the first two numbers of its release."""
    release = ".".join(platform.release().split("-")[0].split(".")[:2])
    return {
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_gib": round(_memory_bytes() / 2**30, 1),
        "processor": platform.machine(),
        "system": f"{platform.system()} {release}",
        "python": platform.python_version(),
    }


def tree() -> dict[str, Any]:
    """The commit, and whether the working tree has anything that is not in it."""
    return {
        "commit": _git("rev-parse", "--short=12", "HEAD") or "unknown",
        "dirty": bool(_git("status", "--porcelain")),
    }


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def load_average() -> float:
    """Of the last minute: above the number of cores, times mean little."""
    return round(os.getloadavg()[0], 2)


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _git(*words: str) -> str:
    try:
        done = subprocess.run(
            ["git", *words], cwd=ROOT, capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip()
