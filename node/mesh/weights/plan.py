"""Decisions about weights on their way: who is asked for which chunks, and what has to go. Pure."""

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from aigrid.node.mesh.rendezvous import score
from aigrid.protocol.limits import LIMITS


@dataclass(frozen=True, slots=True)
class Run:
    """Chunks of one file, by its place in the list of files, that follow each other."""

    file: int
    first: int
    count: int

    @property
    def numbers(self) -> range:
        return range(self.first, self.first + self.count)


@dataclass(eq=False, slots=True)
class Asked:
    """A run that a holder was asked for."""

    holder: str
    run: Run


class WorkQueue:
    """Which chunks are still missing, and who has been asked for which.

    Everybody takes from one queue, in runs that become shorter towards the end; whoever finds it
    empty is given the last half of what another still owes. So no slow holder holds up the end, and
    no chunk is asked for more than twice at a time.
    """

    def __init__(self, have: Sequence[bytearray], chunk_bytes: Sequence[int]) -> None:
        """`have`: for each file and chunk whether it is here; it is kept up to date."""
        self.have = have
        self._chunk_bytes = chunk_bytes
        self._free: deque[Run] = deque()
        for file, chunks in enumerate(have):
            self._free += _runs(file, range(len(chunks)), chunks)
        self._asked: list[Asked] = []
        self.missing = sum(chunks.count(0) for chunks in have)

    @property
    def missing_bytes(self) -> int:
        """About: last chunks count as whole ones."""
        sizes = zip(self.have, self._chunk_bytes, strict=True)
        return sum(chunks.count(0) * size for chunks, size in sizes)

    def take(self, holder: str, *, workers: int, double: bool = True) -> Asked | None:
        """What to ask a holder for, where so many are asked at once; None: nothing now.

        With `double` that may be what another was asked for already.
        """
        if self._free:
            run = self._cut(self._free.popleft(), workers)
        elif not double:
            return None
        else:
            half = self._half_of_another(holder)
            if half is None:
                return None
            run = half
        asked = Asked(holder, run)
        self._asked.append(asked)
        return asked

    def got(self, file: int, number: int) -> None:
        """A chunk is here."""
        if not self.have[file][number]:
            self.have[file][number] = 1
            self.missing -= 1

    def over(self) -> list[Asked]:
        """What was asked for of which nothing is missing any more."""
        return [one for one in self._asked if not self._owed(one)]

    def leave(self, asked: Asked) -> None:
        """A holder is done with a run, or has failed: what is missing of it is for others."""
        self._asked.remove(asked)
        of_others = {
            number
            for one in self._asked
            if one.run.file == asked.run.file
            for number in one.run.numbers
        }
        back = [number for number in self._owed(asked) if number not in of_others]
        self._free.extendleft(reversed(list(_joined(asked.run.file, back))))

    def _owed(self, asked: Asked) -> list[int]:
        have = self.have[asked.run.file]
        return [number for number in asked.run.numbers if not have[number]]

    def _cut(self, run: Run, workers: int) -> Run:
        most = min(
            LIMITS.chunks_asked_max,
            max(1, LIMITS.fetch_run_bytes // self._chunk_bytes[run.file]),
            max(1, self.missing // (2 * max(1, workers))),
        )
        if run.count > most:
            self._free.appendleft(Run(run.file, run.first + most, run.count - most))
        return Run(run.file, run.first, min(run.count, most))

    def _half_of_another(self, holder: str) -> Run | None:
        """Of what one other owes, and nobody else, the last half."""
        times = Counter((one.run.file, n) for one in self._asked for n in one.run.numbers)
        alone = [
            (one.run.file, [n for n in self._owed(one) if times[one.run.file, n] == 1])
            for one in self._asked
            if one.holder != holder
        ]
        file, numbers = max(alone, key=lambda pair: len(pair[1]), default=(0, []))
        return next(iter(_joined(file, numbers[len(numbers) // 2 :])), None)


def _runs(file: int, numbers: Iterable[int], have: bytearray) -> Iterator[Run]:
    """The runs of chunks that are not here."""
    return _joined(file, (number for number in numbers if not have[number]))


def _joined(file: int, numbers: Iterable[int]) -> Iterator[Run]:
    """Ascending numbers as runs."""
    first = last = -2
    for number in numbers:
        if number != last + 1:
            if first >= 0:
                yield Run(file, first, last + 1 - first)
            first = number
        last = number
    if first >= 0:
        yield Run(file, first, last + 1 - first)


# --- the cache


@dataclass(frozen=True, slots=True)
class Cached:
    """A fetched model on the disk.

    Attributes:
        model: its id.
        bytes: on the disk.
        used_ms: when it was last used, or fetched.
        kept: it is in use, pinned, or would be missed: see `keepers`.
    """

    model: str
    bytes: int
    used_ms: int
    kept: bool

    def stays(self) -> "Cached":
        """The same, kept."""
        return replace(self, kept=True)


def keepers(
    model: str, holders: Iterable[str], *, issuer: str, replicas_min: int
) -> frozenset[str]:
    """Of live holders (DIDs) those that keep a model although they want the room.

    Whoever published it first, then as they are ranked to host it: all who know of the same holders
    agree, so that not all of them let it go at the same moment, each counting on the others.
    """
    return frozenset(by_rank(model, holders, issuer=issuer)[: max(1, replicas_min)])


def by_rank(model: str, holders: Iterable[str], *, issuer: str) -> list[str]:
    """Holders in the order in which they are to keep a model: see `keepers`."""
    by_score = sorted(set(holders), key=lambda did: score(did, model), reverse=True)
    return sorted(by_score, key=lambda did: did != issuer)


def to_evict(
    cached: Iterable[Cached], *, needed_bytes: int, budget_bytes: int, short_bytes: int = 0
) -> list[str] | None:
    """What has to go, longest unused first, so that `needed_bytes` more fit; None: they cannot.

    `short_bytes`: what the disk lacks for them, whatever the budget allows.
    """
    held = sorted(cached, key=lambda one: (one.used_ms, one.model))
    excess = max(sum(one.bytes for one in held) + needed_bytes - budget_bytes, short_bytes)
    chosen = []
    for one in held:
        if excess <= 0:
            break
        if not one.kept and one.bytes:
            chosen.append(one.model)
            excess -= one.bytes
    return chosen if excess <= 0 else None
