"""How nodes are: what each says of itself, and what the kernel says of its processes."""

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.nodes import NodeFailedError, Usage
from scripts.offers import told
from scripts.testnets.grid import Grid, Member, State

from aigrid.protocol.errors import AigridError

SILENT = "silent"  # it runs, and does not answer
ANSWER_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Sample:
    """A node at `at_seconds` from the begin; bytes; -1 for what is not known.

    Attributes:
        life: which of its processes this is, from 1.
        used: of the node and its workers, over the life of each.
        own_pss_bytes: of the node's own process: shared pages count by their share.
        anonymous_bytes: the part of that which is no file's and is shared with nobody.
        descriptors, threads: of the node's own process.
        tasks: Trio's, as the node counts them.
        alive, others: other members that it takes to be alive, and all that it knows.
    """

    at_seconds: float
    number: int
    life: int
    state: str
    used: Usage
    own_pss_bytes: int = -1
    anonymous_bytes: int = -1
    descriptors: int = -1
    threads: int = -1
    tasks: int = -1
    alive: int = -1
    others: int = -1
    models: int = -1
    records: int = -1
    served: int = -1
    failed: int = -1


class Sampler:
    """Looks at all nodes at once, without waiting: one that hangs holds up nobody else."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._pool = ThreadPoolExecutor(len(grid.members))
        self._looks: dict[int, Future[Sample]] = {}
        self._at_seconds = self._asked_at = 0.0
        self._looking = False

    @property
    def looking(self) -> bool:
        return self._looking

    def begin(self, at_seconds: float) -> None:
        """Those that still have not answered the last time are left to it."""
        self._at_seconds, self._looking = at_seconds, True
        self._asked_at = time.monotonic()
        for member in self._grid.members:
            if member.number not in self._looks:
                look = self._pool.submit(sample, member, at_seconds)
                self._looks[member.number] = look

    def take(self) -> list[Sample] | None:
        """A sample of each node once all are there, or have had their time; None before."""
        late = time.monotonic() - self._asked_at >= ANSWER_SECONDS
        if not self._looking or not (late or all(look.done() for look in self._looks.values())):
            return None
        self._looking = False
        found = [self._taken(member) for member in self._grid.members]
        self._looks = {n: look for n, look in self._looks.items() if not look.done()}
        return found

    def _taken(self, member: Member) -> Sample:
        look = self._looks[member.number]
        if look.done():
            return look.result()
        return Sample(self._at_seconds, member.number, member.lives, SILENT, Usage(0, 0, 0.0))

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def whole(samples: Sequence[Sample]) -> bool:
    """Whether all are up, and each sees all others alive."""
    return all(one.state == State.UP and one.alive == len(samples) - 1 for one in samples)


def lacking(samples: Sequence[Sample]) -> str:
    """Who is not up, or does not see all others alive."""
    others = len(samples) - 1
    return ", ".join(
        f"n{one.number} sees {one.alive} of {others}"
        if one.state == State.UP
        else f"n{one.number} is {one.state}"
        for one in samples
        if one.state != State.UP or one.alive != others
    )


def sample(member: Member, at_seconds: float) -> Sample:
    """One node, now."""
    state, life = member.state, member.lives
    if not member.node.alive:
        return Sample(at_seconds, member.number, life, state, Usage(0, 0, 0.0))
    pid = member.node.pid
    said: dict[str, Any] = {}
    if state is State.UP:
        with suppress(AigridError, NodeFailedError):
            said = told(member.node, "status")
    sizes = _rollup(pid)
    peers, requests = said.get("peers", ()), said.get("requests", {})
    return Sample(
        at_seconds=at_seconds,
        number=member.number,
        life=life,
        state=state if said or state is not State.UP else SILENT,
        used=member.node.usage(),
        own_pss_bytes=sizes.get("Pss:", -1),
        anonymous_bytes=sizes.get("Pss_Anon:", -1),
        descriptors=_entries(f"/proc/{pid}/fd"),
        threads=_entries(f"/proc/{pid}/task"),
        tasks=int(said.get("tasks", -1)),
        alive=sum(bool(peer["alive"]) for peer in peers) if said else -1,
        others=len(peers) if said else -1,
        models=len(said["models"]) if said else -1,
        records=int(said.get("records", -1)),
        served=int(requests.get("served", -1)),
        failed=sum(requests["failed"].values()) if requests else -1,
    )


def _rollup(pid: int) -> dict[str, int]:
    """Bytes by name of proc(5)'s smaps_rollup."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return {}
    return {words[0]: int(words[1]) * 1024 for words in map(str.split, lines)}


def _entries(folder: str) -> int:
    try:
        return sum(1 for _ in Path(folder).iterdir())
    except OSError:
        return -1
