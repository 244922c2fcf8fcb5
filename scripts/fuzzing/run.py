"""Runs the processes that fuzz: tells them what to execute, watches them, hears what they found."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from scripts.folders import MEMORY, temporary
from scripts.fuzzing.target import SCRATCH
from scripts.fuzzing.worker import PLACE
from scripts.running import Running

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20
POLL_SECONDS = 0.2
WORKER = ("-m", "scripts.fuzzing.worker")
FOLDER = "aigrid-fuzzing-"
_LINES_KEPT = 100  # of what a process said beside its lines of JSON
BEGIN_SECONDS = 60.0  # to import everything, and make the seeds of a target


class WorkerError(RuntimeError):
    """A process that fuzzes does not do as it should."""


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
    """What came of a target; `ends` are how often each kind of end was met, "taken" among them."""

    executions: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    grown_bytes: int = 0
    ends: Counter[str] = field(default_factory=Counter)

    def add(self, said: dict[str, Any]) -> None:
        """What a process or an earlier run says of one job."""
        self.executions += said["executions"]
        self.seconds += said["seconds"]
        self.cpu_seconds += said["cpu_seconds"]
        self.grown_bytes = max(self.grown_bytes, said["grown_bytes"])
        self.ends.update(said["ends"])


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


@dataclass(frozen=True)
class Job:
    """Executions of one target, from the index `first` on: so many, or for so long.

    `data` in hex: it is executed, whatever the mutator makes of these indices by now.
    """

    target: str
    first: int
    executions: int
    seconds: float
    data: str = ""


class Spent(NamedTuple):
    """What a process had computed and slept when it was last seen to go on."""

    cpu_seconds: float
    slept_seconds: float


@dataclass
class Run:
    """Does jobs in `processes` at a time; each process takes the next one that is left.

    `say` is told of targets and findings as they come, `done` of each job and what came of it,
    `found` of each finding.
    """

    jobs: Iterable[Job]
    seed: int
    processes: int = 1
    bounds: Bounds = field(default_factory=Bounds)
    tallies: dict[str, Tally] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    say: Callable[[str], object] = str
    done: Callable[[Job, dict[str, Any]], object] = lambda _job, _said: None
    found: Callable[[Finding], object] = lambda _finding: None

    def __post_init__(self) -> None:
        self._left = deque(self.jobs)
        self._lock = threading.Lock()
        self._running = Running(signal.SIGKILL)  # it may hang

    def go(self) -> None:
        """Fuzz; a process that dies is followed by another, which goes on behind that input.

        KeyboardInterrupt ends the processes and passes, and so does what `say`, `done` and `found`
        raise; what was done by then is in `tallies`.

        Raises:
            WorkerError: a process could not begin, or says what nobody understands.
        """
        with ThreadPoolExecutor(self.processes) as pool:
            try:
                for future in [pool.submit(self._guarded) for _ in range(self.processes)]:
                    future.result()
            except KeyboardInterrupt:
                self._stop()
                raise

    def _stop(self) -> None:
        self._left.clear()
        self._running.stop()

    def _guarded(self) -> None:
        try:
            while self._left:
                self._process()
        except BaseException:
            self._stop()  # the others, too: it is raised again by `go`
            raise

    def next_job(self) -> Job | None:
        """The one that is to be done next, by whoever asks."""
        try:
            return self._left.popleft()
        except IndexError:
            return None

    def _process(self) -> None:
        """Run one process until it dies, or no job is left."""
        shared = MEMORY if os.access(MEMORY, os.W_OK) else None
        # Here, and not in that process: it may be killed.
        with temporary(FOLDER, shared) as folder:
            place, inputs = folder / "place", folder / "inputs"
            inputs.mkdir()
            place.write_bytes(PLACE.pack(0, -1))
            with self._running.started(
                [sys.executable, *WORKER],
                cwd=ROOT,  # where it finds its module
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, SCRATCH: str(inputs)},
            ) as process:
                told = {"place": str(place), "seed": self.seed, **asdict(self.bounds)}
                talk = _Talk(self, process, told)
                said = deque[str](maxlen=_LINES_KEPT)
                readers = [
                    threading.Thread(target=talk.hear),
                    threading.Thread(target=lambda: said.extend(process.stderr or ())),
                ]
                for reader in readers:
                    reader.start()
                hung = self._watch(process, place)
                for reader in readers:
                    reader.join()
            number, index = PLACE.unpack(place.read_bytes())
        if talk.failed is not None:
            raise talk.failed
        if talk.job is not None and not self._running.stopped:
            index = index if number == talk.number else -1
            self._died(talk, index, "".join(said), process.returncode, hung=hung)

    def _died(self, talk: "_Talk", index: int, said: str, status: int, *, hung: bool) -> None:
        """Note what killed a process, and leave the rest of its job to the next one."""
        job = talk.job
        assert job is not None
        if index < 0:
            raise WorkerError(f"{job.target} could not begin: {said[-3000:]}")
        what = "hang" if hung else f"death with status {status}"
        executions = index + 1 - job.first
        seconds = time.monotonic() - talk.began
        with self._lock:
            self._found(Finding(job.target, index, what, said[-300:].strip()))
            part = {"executions": executions, "seconds": seconds, "cpu_seconds": 0.0}
            self._ended(
                Job(job.target, job.first, executions, seconds),
                {**part, "grown_bytes": 0, "ends": {what: 1}},
            )
        left = job.executions - executions
        if left > 0 and job.seconds > seconds:
            self._left.appendleft(Job(job.target, index + 1, left, job.seconds - seconds))

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

    def heard(self, job: Job, said: dict[str, Any]) -> bool:
        """Take in a line of a process that does `job`; whether that is done."""
        with self._lock:
            if "found" in said:
                data = bytes.fromhex(said.pop("data"))
                self._found(Finding(said.pop("found"), data=data, **said))
                return False
            self._ended(job, said)
            self.say(line_of(job.target, self.tallies[job.target]))
            return True

    def _ended(self, job: Job, said: dict[str, Any]) -> None:
        tally = self.tallies.setdefault(job.target, Tally())
        tally.add(said)
        self.done(job, said)

    def _found(self, finding: Finding) -> None:
        """Keep a finding, and say it, unless the same was found in the same target before.

        It is said though it cannot be kept: its line makes it again.
        """
        if any((one.target, one.where) == (finding.target, finding.where) for one in self.findings):
            return
        self.findings.append(finding)
        try:
            self.found(finding)
        finally:
            self.say(words_of(finding, self.seed))


class _Talk:
    """What is said to one process and by it: it is given a job whenever it has none."""

    def __init__(self, run: Run, process: subprocess.Popen[str], told: dict[str, Any]) -> None:
        self._run = run
        self._process = process
        self.job: Job | None = None
        self.number = -1
        self.began = 0.0
        self.failed: BaseException | None = None
        self._tell(told)
        self._give()

    def _tell(self, what: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        line = json.dumps(what).encode() + b"\n"
        try:
            while line:  # past the buffer, which would be written once more when it is closed
                line = line[os.write(self._process.stdin.fileno(), line) :]
        except BrokenPipeError:  # it has died, which its end tells
            pass

    def _give(self) -> None:
        assert self._process.stdin is not None
        self.job = self._run.next_job()
        self.began = time.monotonic()
        self.number += 1
        if self.job is None:
            self._process.stdin.close()
        else:
            self._tell(asdict(self.job))

    def hear(self) -> None:
        """Until it says no more. What goes wrong here is kept in `failed`, and ends the process."""
        try:
            for line in self._process.stdout or ():
                self._take(line)
        except BaseException as error:  # noqa: BLE001 -- boundary: of a thread; `_process` raises it
            self.failed = error
            self._process.kill()

    def _take(self, line: str) -> None:
        if not line.endswith("\n"):
            return  # it died over it, which its end tells
        try:
            said = json.loads(line)
        except ValueError:
            raise WorkerError(f"a process says what nobody understands: {line[:300]}") from None
        assert self.job is not None
        if self._run.heard(self.job, said):
            self._give()


def _state_of(pid: int) -> tuple[float, bool]:
    """CPU seconds of a process, and whether it waits for something other than the processor."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0, False
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), fields[0] == "S"


def line_of(name: str, tally: Tally) -> str:
    """What came of a target, in a line of a table."""
    rate = tally.executions / tally.cpu_seconds if tally.cpu_seconds else 0.0
    grown = tally.grown_bytes / MIB
    share = tally.ends["taken"] / max(1, tally.executions)
    return (
        f"{name:22} {tally.executions:11,} {tally.seconds:9,.1f} {rate:14,.0f} {grown:9.1f}"
        f" {share:6.1%} {len(tally.ends):5}"
    )


HEADING = (
    f"{'target':22} {'executions':>11} {'seconds':>9} {'per CPU second':>14} {'grown MiB':>9}"
    f" {'taken':>6} {'ends':>5}"
)


def words_of(finding: Finding, seed: int) -> str:
    """A finding: what, where, and the line that repeats it."""
    trace = f"{finding.trace.rstrip()}\n" if finding.trace else ""
    said = f"{finding.target}: {finding.where}: {finding.said}"
    return f"{said}\n{trace}again: {finding.line(seed)}"
