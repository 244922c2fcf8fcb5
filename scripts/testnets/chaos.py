"""Does to nodes what the schedule says."""

import ctypes
import os
import signal
import socket
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from scripts.testnets.grid import ENDING_SECONDS, Grid, Member, State
from scripts.testnets.schedule import Fault, Kind

_PIDFD_GETFD = 438  # of every architecture of Linux since 5.6
_libc = ctypes.CDLL(None, use_errno=True)

Cut = Callable[[tuple[int, ...]], None]
"""Parts these nodes from the others; with none, heals."""


class Chaos:
    """`done` counts faults by kind; those of a node that was otherwise busy are `left_out`."""

    def __init__(self, grid: Grid, cut: Cut | None) -> None:
        self._grid = grid
        self._cut = cut
        self._heal_at = 0.0
        self.done: Counter[str] = Counter()
        self.left_out = 0
        self.dropped = 0

    def apply(self, fault: Fault, now: float) -> str:
        """What was done, for people; "" if nothing was."""
        if fault.kind is Kind.PARTITION:
            assert self._cut is not None, "options see to that"
            self._cut(fault.nodes)
            self._heal_at = now + fault.seconds
            self.done[fault.kind] += 1
            return f"partition of {len(fault.nodes)} nodes for {fault.seconds:g} s"
        member = self._grid.members[fault.nodes[0]]
        if member.state is not State.UP or not member.node.alive:
            self.left_out += 1
            return ""
        if not self._to(member, fault, now):
            self.left_out += 1
            return ""
        self.done[fault.kind] += 1
        return f"{fault.kind} {member.name}"

    def tick(self, now: float) -> None:
        if self._cut is not None and self._heal_at and now >= self._heal_at:
            self.heal()

    def heal(self) -> None:
        """End a partition, if there is one."""
        if self._cut is not None and self._heal_at:
            self._cut(())
            self._heal_at = 0.0

    def _to(self, member: Member, fault: Fault, now: float) -> bool:
        """Whether anything came of it: a node may have no connections to drop."""
        match fault.kind:
            case Kind.KILL:
                member.hit_at = now
                self._grid.watch_workers(member, now)
                member.node.kill9()
                member.set(State.DOWN, now + fault.seconds)
            case Kind.STOP:
                member.hit_at = now
                os.kill(member.node.pid, signal.SIGSTOP)
                member.set(State.HELD, now + fault.seconds)
            case Kind.RESTART:
                member.hit_at = now
                self._grid.watch_workers(member, now)
                os.kill(member.node.pid, signal.SIGTERM)
                member.set(State.ENDING, now + ENDING_SECONDS)
            case Kind.DROP:
                everybody = [one.node.ready.get("listen", ()) for one in self._grid.members]
                count = drop(member.node.pid, {port for one in everybody for port in ports(one)})
                self.dropped += count
                return count > 0
        return True


def ports(listen: Iterable[str]) -> set[int]:
    """TCP ports of multiaddrs."""
    return {int(one.split("/tcp/")[1].split("/")[0]) for one in listen if "/tcp/" in one}


def drop(pid: int, listening: set[int]) -> int:
    """End the connections of a process that have one of these ports at either end; how many.

    From outside: its sockets are borrowed (pidfd_getfd(2)) and shut down, so that both ends see the
    connection end, as when a router forgets it.
    """
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return 0
    try:
        return sum(_shut(process, int(one.name), listening) for one in _sockets(pid))
    finally:
        os.close(process)


def _sockets(pid: int) -> list[Path]:
    found = []
    for one in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            if one.readlink().name.startswith("socket:"):
                found.append(one)
    return found


def _shut(process: int, descriptor: int, listening: set[int]) -> bool:
    borrowed = _libc.syscall(_PIDFD_GETFD, process, descriptor, 0)
    if borrowed < 0:
        return False  # closed meanwhile, or not ours to take
    with socket.socket(fileno=borrowed) as one, suppress(OSError):
        stream = one.family == socket.AF_INET and one.type == socket.SOCK_STREAM
        if stream and listening & {one.getsockname()[1], one.getpeername()[1]}:
            one.shutdown(socket.SHUT_RDWR)
            return True
    return False
