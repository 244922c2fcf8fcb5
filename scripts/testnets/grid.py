"""The processes of a testnet, and what each of them is doing.

Nodes are launched from one thread, which must be the main one: the kernel kills them when the
thread that started them ends (`NodeProcess`).
"""

import os
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from scripts.nodes import AT_ONCE, POLL_SECONDS, NodeFailedError, NodeProcess
from scripts.offers import told

from aigrid.protocol.errors import AigridError, Code

PASSING = frozenset({Code.RATE_LIMITED, Code.TIMEOUT, Code.UNREACHABLE, Code.CONNECTION_LOST})
READY_SECONDS = 900.0  # many start at once, on few cores that others use, too
JOIN_SECONDS = 600.0
FETCH_SECONDS = 600.0
JOIN_PAUSE_SECONDS = 2.0
GONE_SECONDS = 15.0  # in which the workers of a killed node notice
ENDING_SECONDS = 60.0  # in which a node that was asked to end does
AT_ONCE_SECONDS = 10.0  # in which the kernel ends what was killed


class State(StrEnum):
    """What a node is doing, as this program has it."""

    STARTING = "starting"
    UP = "up"
    HELD = "held"
    ENDING = "ending"
    DOWN = "down"
    ENDED = "ended"  # by itself, or it did not start: that is a failure


Patient = Callable[[Future[Any], str], Any]
"""Waits for the result, saying what for; may give up by an error of its own."""
Process = tuple[int, int]
"""Process id, and when it started in clock ticks: ids are used again."""


@dataclass(slots=True)
class Member:
    """A node; times are of `time.monotonic`, `until` is when the state is to end."""

    number: int
    node: NodeProcess
    state: State = State.STARTING
    until: float = 0.0
    hit_at: float = -1.0
    lives: int = 0
    launched_at: float = 0.0
    starting: Future[dict[str, Any]] | None = None
    orphans_by: dict[Process, float] = field(default_factory=dict)
    ready_seconds: list[float] = field(default_factory=list)
    said: str = ""

    @property
    def name(self) -> str:
        return f"n{self.number}"

    def set(self, state: State, until: float = 0.0) -> None:
        self.state, self.until = state, until


class Grid:
    """Starts nodes, makes a grid of them, follows what becomes of them, and ends them."""

    def __init__(self, nodes: Sequence[NodeProcess]) -> None:
        self.members = [Member(number, node) for number, node in enumerate(nodes)]
        self.failures: list[str] = []
        self.orphans: list[str] = []
        self._pool = ThreadPoolExecutor(len(nodes))

    def start(self, patient: Patient) -> None:
        """Start all, and let the first invite the others. Returns before all have met.

        Raises:
            NodeFailedError: one does not start, or cannot join.
        """
        first, *others = self.members
        for member in self.members:
            self.launch(member)
        for number, member in enumerate(self.members, start=1):
            assert member.starting is not None
            patient(member.starting, f"Starting nodes: {number} of {len(self.members)}")
            member.ready_seconds.append(time.monotonic() - member.launched_at)
            member.set(State.UP)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            try:
                joining = [pool.submit(_join, first, member) for member in others]
                for number, one in enumerate(joining, start=1):
                    patient(one, f"Joining: {number} of {len(others)}")
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                self.kill()  # so that whoever waits for a node is let go
                raise

    def launch(self, member: Member) -> None:
        """Without waiting: `tick` sees it come up."""
        member.node.launch()
        member.lives += 1
        member.launched_at = time.monotonic()
        member.starting = self._pool.submit(member.node.wait_ready, timeout_seconds=READY_SECONDS)
        member.set(State.STARTING)

    def do(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """In a thread."""
        return self._pool.submit(work, *arguments)

    def up(self) -> list[Member]:
        return [one for one in self.members if one.state is State.UP]

    def tick(self, now: float) -> None:
        """Go on with whatever is due: nodes to start again, to let go, that came up or ended."""
        for member in self.members:
            self._tick(member, now)
            for process, until in tuple(member.orphans_by.items()):
                if not lives(process):
                    del member.orphans_by[process]
                elif now >= until:
                    self.orphans.append(f"{command(process[0])} of {member.name}")
                    del member.orphans_by[process]

    def _tick(self, member: Member, now: float) -> None:
        match member.state:
            case State.STARTING if member.starting is not None and member.starting.done():
                error = member.starting.exception()
                if error is not None:
                    self._ended(member, f"did not start: {error}")
                else:
                    member.ready_seconds.append(now - member.launched_at)
                    member.set(State.UP)
            case State.UP | State.HELD if not member.node.alive:
                self._ended(member, "ended by itself")
            case State.HELD if now >= member.until:
                _signal(member, signal.SIGCONT)
                member.hit_at = now
                member.set(State.UP)
            case State.DOWN if now >= member.until:
                self.launch(member)
            case State.ENDING if not member.node.alive:
                status = member.node.stop(timeout_seconds=0.0)
                if status > 0:  # else it was killed, which has been said
                    self.failures.append(f"{member.name} ended with {status} when asked to")
                self.launch(member)
            case State.ENDING if now >= member.until:
                self.failures.append(f"{member.name} did not end in {ENDING_SECONDS:g} s")
                member.node.kill9()

    def _ended(self, member: Member, what: str) -> None:
        member.set(State.ENDED)
        member.said = what
        self.failures.append(f"{member.name} {what}")

    def watch_workers(self, member: Member, now: float) -> None:
        """Its workers are to be gone soon; call it before the node ends."""
        for process in descendants(member.node.pid):
            member.orphans_by[process] = now + GONE_SECONDS

    def end(self) -> None:
        """Ask all at once to end, once: a second signal would end them at any price.

        Who does not end is killed; that, or a status other than 0, is a failure of a node that was
        up.
        """
        asked = [one for one in self.members if one.state in {State.UP, State.HELD}]
        for member in self.members:
            _signal(member, signal.SIGCONT)
            _signal(member, signal.SIGTERM)
        deadline = time.monotonic() + ENDING_SECONDS
        while time.monotonic() < deadline and any(one.node.alive for one in self.members):
            time.sleep(POLL_SECONDS)
        for member in self.members:
            late = member.node.alive
            status = member.node.stop(timeout_seconds=0.0)
            if member in asked and (late or status):
                how = f"not in {ENDING_SECONDS:g} s" if late else f"with {status}"
                self.failures.append(f"{member.name} ended {how} when asked to")
        self._pool.shutdown(wait=False, cancel_futures=True)

    def kill(self) -> None:
        """All of it, at once."""
        for member in self.members:
            _signal(member, signal.SIGKILL)
            member.node.stop()
        self._pool.shutdown(wait=False, cancel_futures=True)


def fetch(member: Member, model: str) -> None:
    """Raises NodeFailedError."""
    member.node.cli("models", "fetch", model, timeout_seconds=FETCH_SECONDS)


def _join(first: Member, member: Member) -> None:
    """By invitation, again where that fails for a reason that passes.

    Many come from one address, which the founder admits one by one; and on a busy machine a founder
    may not answer in time.
    """
    deadline = time.monotonic() + JOIN_SECONDS
    while True:
        invitation = told(first.node, "invite", did=str(member.node.ready["did"]))["invitation"]
        try:
            told(member.node, "join", invitation=invitation)
        except AigridError as error:
            if error.code not in PASSING or time.monotonic() >= deadline:
                raise NodeFailedError(f"{member.name} cannot join: {error}") from error
            time.sleep(JOIN_PAUSE_SECONDS)
        else:
            return


def _signal(member: Member, number: signal.Signals) -> None:
    if member.node.alive:
        with suppress(ProcessLookupError):
            os.kill(member.node.pid, number)


def descendants(pid: int) -> list[Process]:
    """Processes below one, with when each started."""
    found: list[Process] = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, children.read_text().split()):
                found += [(child, _started(child)), *descendants(child)]
    return [one for one in found if one[1]]


def lives(process: Process) -> bool:
    """Whether it runs; one that nobody has waited for does not."""
    pid, started = process
    return _started(pid) == started


def kill_below(pid: int, *, timeout_seconds: float = AT_ONCE_SECONDS) -> None:
    """SIGKILL to all processes below one, and wait until they are gone, or for that long.

    Needs nothing but the kernel, no lock and no thread: a handler of signals may do it.
    """
    deadline = time.monotonic() + timeout_seconds
    found: list[Process] = []
    while time.monotonic() < deadline:
        # All are sought before any is killed: who is left by its parent is nobody's child here.
        found = [one for one in {*found, *descendants(pid)} if lives(one)]
        if not found:
            return
        for one, _ in found:
            with suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)
        time.sleep(POLL_SECONDS)


def command(pid: int) -> str:
    """What a process runs, for people."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()[-80:]
    except OSError:
        return f"process {pid}"


def _started(pid: int) -> int:
    """Field 22 of proc(5)'s stat; 0 for what is gone or a zombie."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if words[0] in "ZX" else int(words[19])
