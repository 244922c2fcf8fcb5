"""Fuzzes every decoder of what comes from outside, as long as it is told to.

    python -m scripts.fuzz --seconds 5
    python -m scripts.fuzz --target records --executions 1000000 --seed 7
    python -m scripts.fuzz --target records --seed 7 --index 1234

Inputs are mutations of valid seeds, made with their structure in mind; each follows from the
target, the seed and its index, so that the line that is printed with a finding repeats it. Found is
any error that the decoder does not announce, an execution that takes too long or too much memory,
and the death of the process. Inputs that did it are kept. Exit status 1: something was found.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from scripts.fuzzing.worker import PLACE

MIB = 1 << 20
POLL_SECONDS = 0.2
BEGIN_SECONDS = 60.0  # to import everything, and make the seeds of a target
FOREVER = 1 << 60


@dataclass
class Finding:
    """What one execution did; `where` is the kind of it, met once for each target."""

    target: str
    index: int
    where: str
    said: str
    data: bytes = b""
    trace: str = ""

    def line(self, seed: int) -> str:
        """What repeats it."""
        return f"python -m scripts.fuzz --target {self.target} --seed {seed} --index {self.index}"


@dataclass
class Tally:
    """What came of a target."""

    executions: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    grown_bytes: int = 0


@dataclass(frozen=True)
class Bounds:
    """What one execution may take.

    Attributes:
        slow_seconds: of CPU time, before it is a finding.
        hang_seconds: computed or slept, before its process is killed.
        grown_bytes: by which it may raise the most memory that the process ever had.
        address_space_bytes: of the process.
    """

    slow_seconds: float = 1.0
    hang_seconds: float = 30.0
    grown_bytes: int = 96 * MIB
    address_space_bytes: int = 6 << 30


class Spent(NamedTuple):
    """What a process had computed and slept when it was last seen to go on."""

    cpu_seconds: float
    slept_seconds: float


@dataclass
class Run:
    """One run over several targets: `seconds` or `executions` of each, whatever ends first.

    `say` is told of targets and findings as they come.
    """

    targets: Sequence[str]
    seconds: float
    executions: int
    seed: int
    bounds: Bounds = field(default_factory=Bounds)
    tallies: dict[str, Tally] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    say: Callable[[str], object] = str

    def go(self) -> None:
        """Fuzz; a process that dies is followed by another, which goes on behind that input."""
        jobs = [
            {"target": name, "first": 0, "executions": self.executions, "seconds": self.seconds}
            for name in self.targets
        ]
        while jobs:
            jobs = self._process(jobs)

    def _process(self, jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Run one process; the jobs that it has left."""
        with tempfile.NamedTemporaryFile() as file:
            place = Path(file.name)
            place.write_bytes(PLACE.pack(0, -1))
            began = time.monotonic()
            with subprocess.Popen(
                [sys.executable, "-m", "scripts.fuzzing.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            ) as process:
                assert process.stdin is not None
                told = {"jobs": jobs, "place": file.name, "seed": self.seed, **asdict(self.bounds)}
                process.stdin.write(json.dumps(told))
                process.stdin.close()
                said: list[str] = []
                readers = [
                    threading.Thread(target=self._hear, args=(process.stdout,)),
                    threading.Thread(target=lambda: said.extend(process.stderr or ())),
                ]
                for reader in readers:
                    reader.start()
                hung = self._watch(process, place)
                for reader in readers:
                    reader.join()
            number, index = PLACE.unpack(place.read_bytes())
        if process.returncode == 0:
            return []
        job = jobs[number]
        if index < 0:
            raise RuntimeError(f"{job['target']} could not begin: {''.join(said)[-3000:]}")
        what = "hang" if hung else f"death with status {process.returncode}"
        self._found(Finding(job["target"], index, what, "".join(said)[-300:].strip()))
        tally = self.tallies.setdefault(job["target"], Tally())
        tally.executions += index + 1 - job["first"]
        left = job["seconds"] - (time.monotonic() - began)
        executions = job["executions"] - (index + 1 - job["first"])
        after = {**job, "first": index + 1, "seconds": left, "executions": executions}
        return [*([after] if left > 0 and executions > 0 else []), *jobs[number + 1 :]]

    def _watch(self, process: subprocess.Popen[str], place: Path) -> bool:
        """Wait for the end; whether it had to be killed for staying where it was.

        Counted is what it computed, or slept: that others had the machine is no hang.
        """
        before, since = b"", Spent(0.0, 0.0)
        slept = 0.0
        while process.poll() is None:
            looked = time.monotonic()
            try:
                process.wait(POLL_SECONDS)
            except subprocess.TimeoutExpired:
                pass
            cpu_seconds, sleeps = _state_of(process.pid)
            slept += time.monotonic() - looked if sleeps else 0.0
            now = place.read_bytes()
            if now != before:
                before, since = now, Spent(cpu_seconds, slept)
            begins = PLACE.unpack(now)[1] < 0
            most = BEGIN_SECONDS if begins else self.bounds.hang_seconds
            if max(cpu_seconds - since.cpu_seconds, slept - since.slept_seconds) > most:
                process.kill()
                return True
        return False

    def _hear(self, lines: Any) -> None:
        for line in lines:
            said = json.loads(line)
            if "end" in said:
                name = said.pop("end")
                tally = self.tallies.setdefault(name, Tally())
                tally.executions += said["executions"]
                tally.seconds += said["seconds"]
                tally.cpu_seconds += said["cpu_seconds"]
                tally.grown_bytes = said["grown_bytes"]
                self.say(line_of(name, tally))
            else:
                data = bytes.fromhex(said.pop("data"))
                self._found(Finding(said.pop("found"), data=data, **said))

    def _found(self, finding: Finding) -> None:
        self.findings.append(finding)
        self.say(words_of(finding, self.seed))


def _state_of(pid: int) -> tuple[float, bool]:
    """CPU seconds of a process, and whether it waits for something other than the processor."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0, False
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), fields[0] == "S"


def repeat(name: str, seed: int, index: int) -> int:
    """One execution, here, with its whole traceback."""
    from scripts.fuzzing.table import target_of
    from scripts.fuzzing.target import input_of

    target = target_of(name)
    data = input_of(target, target.inputs(), seed, index)
    print(f"{len(data)} bytes: {data[:2000]!r}")
    began = time.thread_time()
    try:
        target.run(data)
        print("taken", end="")
    except target.may_raise as error:
        print(f"refused: {type(error).__name__}: {error}", end="")
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
    from scripts.fuzzing.table import target_of
    from scripts.fuzzing.target import input_of

    for finding in findings:
        folder.mkdir(parents=True, exist_ok=True)
        target = target_of(finding.target)
        data = finding.data or input_of(target, target.inputs(), seed, finding.index)
        (folder / f"{finding.target}-{seed}-{finding.index}").write_bytes(data)


def line_of(name: str, tally: Tally) -> str:
    """What came of a target, in a line of a table."""
    rate = tally.executions / tally.cpu_seconds if tally.cpu_seconds else 0.0
    grown = tally.grown_bytes / MIB
    return f"{name:22} {tally.executions:11,} {tally.seconds:9,.1f} {rate:14,.0f} {grown:9.1f}"


def words_of(finding: Finding, seed: int) -> str:
    """A finding: what, where, and the line that repeats it."""
    trace = f"{finding.trace.rstrip()}\n" if finding.trace else ""
    said = f"{finding.target}: {finding.where}: {finding.said}"
    return f"{said}\n{trace}again: {finding.line(seed)}"


def main(arguments: Sequence[str] | None = None) -> int:
    from scripts.fuzzing.table import targets

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", action="append", metavar="NAME", help="all of them if none")
    parser.add_argument("--seconds", type=float, help="for each target")
    parser.add_argument("--executions", type=int, help="of each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--index", type=int, help="repeat this execution of the target alone")
    parser.add_argument("--json", action="store_true", help="the tallies as JSON")
    parser.add_argument("--keep", type=Path, default=Path(".fuzz"), help="where inputs are stored")
    parser.add_argument("--list", action="store_true", help="the names of all targets")
    given = parser.parse_args(arguments)
    if given.list:
        print("\n".join(targets()))
        return 0
    names = given.target or list(targets())
    if unknown := [name for name in given.target or () if not known(name)]:
        parser.error(f"there is no target {unknown[0]}: see --list")
    if given.index is not None:
        return max(repeat(name, given.seed, given.index) for name in names)
    seconds = given.seconds or (1e9 if given.executions else 10.0)
    say: Callable[[str], object] = str if given.json else print
    say(f"{'target':22} {'executions':>11} {'seconds':>9} {'per CPU second':>14} {'grown MiB':>9}")
    run = Run(names, seconds, given.executions or FOREVER, given.seed, say=say)
    run.go()
    keep(run.findings, given.keep, given.seed)
    if given.json:
        print(json.dumps({name: asdict(tally) for name, tally in run.tallies.items()}))
    return 1 if run.findings else 0


if __name__ == "__main__":
    sys.exit(main())
