"""The process that fuzzes: `python -m scripts.fuzzing.worker`, started by `scripts.fuzz`.

It is told by lines of JSON on standard input how to go about it, and then one job after the other;
it notes in a shared file where it is before each execution, so that its death or silence can be
blamed on one, and says by lines of JSON what it found, and what came of each job. Time is measured
as its own CPU time: what others do on the machine is no hang.
"""

import gc
import json
import mmap
import os
import resource
import struct
import sys
import time
import traceback
from functools import cache, partial
from pathlib import Path
from typing import Any, TextIO

from scripts.fuzzing.table import target_of
from scripts.fuzzing.target import Ends, Target, execute, input_of

PLACE = struct.Struct("<qq")  # number of the job, index of the execution
_BATCH = 64  # executions between looks at the clock
_KIB = 1024


def main() -> int:
    _output()
    told = json.loads(sys.stdin.readline())
    resource.setrlimit(resource.RLIMIT_AS, (told["address_space_bytes"],) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    known: dict[str, _Known] = {}
    with Path(told["place"]).open("r+b") as file, mmap.mmap(file.fileno(), PLACE.size) as place:
        for number, line in enumerate(sys.stdin):
            job = json.loads(line)
            PLACE.pack_into(place, 0, number, -1)
            name = job["target"]
            if name not in known:
                known[name] = _Known(target_of(name))
            _say(**_fuzz(job, known[name], number, place, told))
    return 0


class _Known:
    """A target of which there was a job already."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.mutator = target.inputs()
        self.told_of = _Told(target)


def _fuzz(
    job: dict[str, Any], known: _Known, number: int, place: mmap.mmap, told: dict[str, Any]
) -> Any:
    target, told_of = known.target, known.told_of
    input_at = partial(_input_at, job, known, told["seed"])
    index, last = job["first"], job["first"] + job["executions"]
    began, spent = time.monotonic(), time.thread_time()
    first_bytes = 0
    ends = Ends()
    while index < last and time.monotonic() - began < job["seconds"]:
        batch = range(index, min(index + _BATCH, last))
        before = _restart_peak()
        for index in batch:
            PLACE.pack_into(place, 0, number, index)
            data = input_at(index)
            at = time.thread_time()
            wrong = execute(target, data, ends)
            if wrong is not None:
                told_of.error(index, data, wrong)
                del wrong
            took = time.thread_time() - at
            if (
                took > told["slow_seconds"]
                and (again := _again(target, data)) > told["slow_seconds"]
            ):
                told_of.say(index, data, "slow", f"{again:.1f} s")
        if _peak_bytes() - before > told["grown_bytes"]:
            for index in batch:
                PLACE.pack_into(place, 0, number, index)
                data = input_at(index)
                before = _restart_peak()
                execute(target, data)
                if (grown := _peak_bytes() - before) > told["grown_bytes"]:
                    told_of.say(index, data, "memory", f"{grown >> 20} MiB")
        index = batch.stop
        first_bytes = first_bytes or _resident_bytes()
    gc.collect()
    return {
        "executions": index - job["first"],
        "seconds": time.monotonic() - began,
        "cpu_seconds": time.thread_time() - spent,
        "grown_bytes": max(0, _resident_bytes() - first_bytes),
        "ends": ends.by_name(),
    }


def _input_at(job: dict[str, Any], known: _Known, seed: int, index: int) -> bytes:
    """It is made even where another is given: what the mutator signed is then known."""
    made = input_of(known.target, known.mutator, seed, index)
    return bytes.fromhex(job["data"]) or made


def _again(target: Target, data: bytes) -> float:
    """CPU seconds of a second run: the first may have been the one that imported something."""
    at = time.thread_time()
    execute(target, data)
    return time.thread_time() - at


class _Told:
    """Says what is found in a target: with the input, the first time at each place."""

    def __init__(self, target: Target) -> None:
        self._target = target.name
        self._seen: set[str] = set()

    def error(self, index: int, data: bytes, wrong: BaseException) -> None:
        said = f"{type(wrong).__name__}: {wrong}"[:300]
        frames = "".join(traceback.format_exception(wrong, limit=-12))[-4000:]
        self.say(index, data, _where(wrong), said, frames)

    def say(self, index: int, data: bytes, where: str, said: str, trace: str = "") -> None:
        if where in self._seen:
            return
        self._seen.add(where)
        texts = {"where": where, "said": said, "trace": trace}
        shown = {n: t.encode("utf-8", "backslashreplace").decode() for n, t in texts.items()}
        _say(found=self._target, index=index, data=data.hex(), **shown)


def _where(wrong: BaseException) -> str:
    """Type of an error, and the innermost place in our code that it came through."""
    frames = traceback.extract_tb(wrong.__traceback__)
    own = [
        one
        for one in frames
        if "site-packages" not in one.filename and "/lib/python" not in one.filename
    ]
    at = own[-1] if own else frames[-1]
    return f"{type(wrong).__name__} at {Path(at.filename).name}:{at.lineno}"


def _say(**what: Any) -> None:
    print(json.dumps(what), file=_output(), flush=True)


@cache
def _output() -> TextIO:
    """Standard output; what else is printed there, as by a library, is with the errors from now."""
    own = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return own


def _restart_peak() -> int:
    """Forget how much memory this process has had at most; what it has now, in bytes.

    What `getrusage` tells is of no use: it begins with what the process had that started this one.
    """
    Path("/proc/self/clear_refs").write_text("5")
    return _resident_bytes()


def _peak_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split(maxsplit=1)[0]) * _KIB


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    sys.exit(main())
