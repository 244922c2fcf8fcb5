"""One benchmark as a process of its own: bounded in time, ended with all that it started."""

import contextlib
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from scripts.bench.reporting import FILE_VARIABLE
from scripts.bench.runner.figures import Figure, read
from scripts.nodes import die_with_parent

State = Literal["ran", "failed", "skipped", "interrupted"]
ROOT = Path(__file__).resolve().parents[3]
GRACE_SECONDS = 10.0
TOO_LONG = "it took longer than"
_TICK_SECONDS = 0.5
_TAIL_BYTES = 2000
_FIGURES_MAX_BYTES = 64 << 20

Tick = Callable[[float], None]
"""Told now and then how many seconds it has been running."""


@dataclass(frozen=True)
class Ran:
    """What came of one. `why` it failed or was skipped; CPU is of all its processes that ended."""

    name: str
    state: State
    why: str = ""
    figures: tuple[Figure, ...] = ()
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    too_long: bool = False


def run(
    name: str,
    command: Sequence[str],
    *,
    bound_seconds: float,
    judges: bool = False,
    tick: Tick = lambda _: None,
    grace_seconds: float = GRACE_SECONDS,
) -> Ran:
    """Run a command in the repository's root. KeyboardInterrupt makes it `interrupted`.

    Whatever it had told until then counts, however it ends. On Linux it is killed with this process
    (with the thread that calls this).
    """
    with tempfile.TemporaryDirectory(prefix="aigrid-bench-") as folder:
        told = Path(folder) / "figures"
        scratch = Path(folder) / "tmp"
        scratch.mkdir()
        began, cpu = time.monotonic(), _cpu_seconds()
        with (Path(folder) / "said").open("w+b") as said:
            environment = {**os.environ, FILE_VARIABLE: str(told), "TMPDIR": str(scratch)}
            process = _started(command, said, environment)
            if process is None:
                status, ended = 127, "it could not be started"
            else:
                status, ended = _until_over(process, bound_seconds, tick, grace_seconds)
            tail = _tail(said)
        figures, skipped = read(_lines(told))
    state, why = judged(status, ended, figures, skipped, tail, judges=judges)
    return Ran(
        name,
        state,
        why,
        tuple(figures),
        wall_seconds=time.monotonic() - began,
        cpu_seconds=_cpu_seconds() - cpu,
        too_long=ended.startswith(TOO_LONG),
    )


def judged(
    status: int, ended: str, figures: Sequence[Figure], skipped: str, tail: str, *, judges: bool
) -> tuple[State, str]:
    """What to call it. `ended`: why it was ended from here, if it was."""
    if ended == "interrupted":
        return "interrupted", "it was interrupted"
    if ended:
        return "failed", ended
    if status and not (judges and any(one.met is False for one in figures)):
        how = f"status {status}" if status > 0 else f"signal {-status}"
        return "failed", f"{how}: {tail}" if tail else how
    if skipped:
        return "skipped", skipped
    if not figures:
        return "failed", "it told no figure"
    return "ran", ""


def _started(
    command: Sequence[str], said: IO[bytes], environment: dict[str, str]
) -> subprocess.Popen[bytes] | None:
    try:
        return subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            cwd=ROOT,
            env=environment,
            start_new_session=True,  # an interrupt from the keyboard comes to this process alone
            preexec_fn=die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 - one system call, no lock
        )
    except OSError:
        return None


def _until_over(
    process: subprocess.Popen[bytes], bound_seconds: float, tick: Tick, grace_seconds: float
) -> tuple[int, str]:
    """(exit status, why it was ended from here)."""
    began = time.monotonic()
    try:
        while (passed := time.monotonic() - began) < bound_seconds:
            tick(passed)
            try:
                return process.wait(min(_TICK_SECONDS, bound_seconds - passed)), ""
            except subprocess.TimeoutExpired:
                continue
        return _end(process, grace_seconds), f"{TOO_LONG} {bound_seconds:.0f} s"
    except KeyboardInterrupt:
        return _end(process, grace_seconds), "interrupted"
    finally:
        if process.poll() is None:
            _end(process, 0.0)


def _end(process: subprocess.Popen[bytes], grace_seconds: float) -> int:
    """As by Ctrl-C, so that it ends what it started; then what is left of all that, by force."""
    family = _family(process.pid)
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(grace_seconds)
    for pid, began in {**family, **_family(process.pid)}.items():
        if _began(pid) == began:  # else the number is another process's by now
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    return process.wait()


def _family(pid: int) -> dict[int, str]:
    """A process and its descendants: when each began. Where there is no /proc, itself alone."""
    found = {pid: _began(pid)}
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for child in (thread / "children").read_text().split():
                found |= _family(int(child))
    return found


def _began(pid: int) -> str:
    """In ticks since the machine started; empty where it is gone (or there is no /proc)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def _tail(said: IO[bytes]) -> str:
    """The last line that was said on stderr, without places on this machine."""
    said.seek(max(0, said.seek(0, os.SEEK_END) - _TAIL_BYTES))
    lines = said.read().decode(errors="replace").strip().splitlines()
    return without_places(lines[-1])[:300] if lines else ""


def without_places(line: str) -> str:
    for place, name in (
        (str(ROOT), "."),
        (sys.prefix, "PREFIX"),
        (str(Path.home()), "~"),
        (tempfile.gettempdir(), "TMP"),
    ):
        if len(place) > 1:
            line = line.replace(place, name)
    return line


def _lines(told: Path) -> list[str]:
    if not told.exists():
        return []
    with told.open(encoding="utf-8") as file:
        return file.read(_FIGURES_MAX_BYTES).splitlines()


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
