"""A run: the grid comes up, is used and broken for a while, and is looked at throughout."""

import http.client
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from scripts.nodes import NodeFailedError, NodeProcess
from scripts.testnets import schedule
from scripts.testnets.chaos import Chaos
from scripts.testnets.grid import Grid, State, fetch
from scripts.testnets.namespaces import Namespaces
from scripts.testnets.options import NAMESPACES, Options
from scripts.testnets.report import Facts
from scripts.testnets.sampling import Sample, Sampler, lacking, whole
from scripts.testnets.table import Row, rows_of
from scripts.testnets.workload import Prompts, Workload

MEET_SECONDS = 600.0
STEP_SECONDS = 0.05

T = TypeVar("T", schedule.Ask, schedule.Fault)


class InterruptedRunError(Exception):
    """Somebody wants it to end."""


class Screen(Protocol):
    """Where a run is shown."""

    def say(self, what: str) -> None: ...
    def event(self, at_seconds: float, what: str) -> None: ...
    def show(self, run: "Run", rows: list[Row], at_seconds: float) -> None: ...


class Run:
    """`stopped` is asked often; once it says so, the run ends early, and is told of anyway."""

    def __init__(
        self,
        options: Options,
        folder: Path,
        screen: Screen,
        *,
        stopped: Callable[[], bool],
    ) -> None:
        self.options = options
        self.facts = Facts(options)
        self._folder = folder
        self._screen = screen
        self._stopped = stopped
        self._network: Namespaces | None = None
        self._grid: Grid | None = None
        self._sampler: Sampler | None = None
        self._last: list[Sample] = []
        self.chaos: Chaos | None = None
        self.workload: Workload | None = None

    def start(self) -> None:
        """The grid, until all see all and the models are where they belong.

        Raises:
            NodeFailedError: it does not come up.
            InterruptedRunError: `stopped` before it did.
        """
        if self.options.net == NAMESPACES:
            self._network = Namespaces(self.options)
        self._grid = grid = Grid([self._node(number) for number in range(self.options.nodes)])
        grid.start(self._patient)
        self._sampler = Sampler(grid)
        self._meet(grid, MEET_SECONDS, "Waiting until all see all")
        fetched = {"echo": (self.options.nodes - 1,)} if self.options.echo else {}
        for model, numbers in (*schedule.holders(self.options).items(), *fetched.items()):
            for number in numbers:
                job = grid.do(fetch, grid.members[number], model)
                self._patient(job, f"Fetching {model} on n{number}")

    def measure(self) -> None:
        """Load and faults; then the faults end, and all are given time to see all again."""
        grid, sampler = self._grid, self._sampler
        assert grid is not None
        assert sampler is not None
        began = time.monotonic()
        self.chaos = Chaos(grid, self._network.cut if self._network else None)
        prompts = Prompts(self.options.words, self.options.tokens, self.options.patience)
        self.workload = Workload(began, prompts, self.options.clients, self._connect)
        try:
            self._loop(grid, sampler, began)
        finally:
            self.facts.seconds = time.monotonic() - began
            self.chaos.heal()
        self.facts.cut_short = self._stopped()
        if not self._stopped():
            self.workload.finish(self.options.patience + 5)
            if self.options.breaks:
                self._settle(grid)
        self.workload.collect()

    def end(self) -> None:
        """Everything that was started, however far it came."""
        if self._grid is not None:
            self._grid.end()
            self._gather(self._grid)
        if self._sampler is not None:
            self._sampler.close()
        if self._network is not None:
            self.facts.relay = self._network.end()

    def _gather(self, grid: Grid) -> None:
        facts = self.facts
        facts.failures, facts.orphans = grid.failures, grid.orphans
        facts.ready_seconds = [s for one in grid.members for s in one.ready_seconds[1:]]
        facts.untouched = frozenset(
            one.number for one in grid.members if one.lives == 1 and one.hit_at < 0
        )
        if self.workload is not None:
            facts.outcomes = self.workload.outcomes
        if self.chaos is not None:
            facts.done, facts.left_out = self.chaos.done, self.chaos.left_out
            facts.dropped = self.chaos.dropped

    def _loop(self, grid: Grid, sampler: Sampler, began: float) -> None:
        assert self.chaos is not None
        assert self.workload is not None
        askers = schedule.askers(self.options)
        asks, faults = (
            _Due(schedule.asks(self.options)),
            _Due(schedule.faults(self.options, self._stopped)),
        )
        look_at = 0.0
        while not self._stopped():
            now = time.monotonic()
            at = now - began
            if self.options.duration and at >= self.options.duration:
                return
            for ask in asks.until(at):
                if self._stopped():  # so many may be due that this takes long
                    return
                up = [member for member in grid.up() if member.number in askers]
                self.workload.start(ask, up)
            for fault in faults.until(at):
                if done := self.chaos.apply(fault, now):
                    self.facts.events.append((at, done))
                    self.facts.strain(replace(fault, at_seconds=at))
                    self._screen.event(at, done)
            self.chaos.tick(now)
            grid.tick(now)
            if at >= look_at and not sampler.looking:
                look_at = at + self.options.interval
                sampler.begin(at)
            self._take(grid, sampler, at)
            soon = min(asks.next_at, faults.next_at) - (time.monotonic() - began)
            time.sleep(max(0.0, min(STEP_SECONDS, soon)))

    def _take(self, grid: Grid, sampler: Sampler, at: float) -> list[Sample] | None:
        samples = sampler.take()
        if samples is not None and self.workload is not None:
            self.workload.collect()
            rows = rows_of(grid.members, samples, self._last)
            self.facts.look(samples)
            self._last = samples
            self._screen.show(self, rows, at)
        return samples

    def _settle(self, grid: Grid) -> None:
        self._screen.say("Waiting until all see all again")
        self.facts.settled = True
        try:
            self._come_up(grid)
            began = time.monotonic()
            self._meet(grid, self.options.settle, "Waiting until all see all again")
            self.facts.whole_after = round(time.monotonic() - began, 1)
        except NodeFailedError:
            pass  # it is a problem of the report
        except InterruptedRunError:
            self.facts.settled = False

    def _come_up(self, grid: Grid) -> None:
        """Until nobody is on the way up or down; how long that may take is bounded for each."""
        while any(one.state not in {State.UP, State.ENDED} for one in grid.members):
            grid.tick(time.monotonic())
            self._check()
            time.sleep(STEP_SECONDS)

    def _meet(self, grid: Grid, seconds: float, what: str) -> None:
        sampler = self._sampler
        assert sampler is not None
        began, look_at, told = time.monotonic(), 0.0, ""
        while True:
            now = time.monotonic()
            grid.tick(now)
            if now - began >= look_at and not sampler.looking:
                look_at = now - began + 1.0
                sampler.begin(now - began)
            samples = sampler.take()
            if samples is not None:
                if whole(samples):
                    return
                self.facts.unmet = told = lacking(samples)
                self._screen.say(f"{what}: {told}")
            if now - began >= seconds:
                raise NodeFailedError(f"{what}: {told or 'nobody answers'}, after {seconds:g} s")
            self._check()
            time.sleep(STEP_SECONDS)

    def _node(self, number: int) -> NodeProcess:
        own = ("--name", f"n{number}", "--threads", "1")
        folder = self._folder / f"n{number}"
        if self._network is None:
            return NodeProcess(folder, *own)
        inside = Namespaces.options(number)
        return NodeProcess(folder, *own, *inside, local=False, entry=self._network.entry(number))

    def _connect(self, number: int, netloc: str, patience: float) -> http.client.HTTPConnection:
        if self._network is not None:
            return self._network.connect(number, netloc, patience)
        return http.client.HTTPConnection(netloc, timeout=patience)

    def _patient(self, future: Future[Any], what: str) -> Any:
        self._screen.say(what)
        while not wait([future], timeout=0.1).done:
            self._check()
        self._check()
        return future.result()

    def _check(self) -> None:
        if self._stopped():
            raise InterruptedRunError


class _Due(Generic[T]):
    """Takes what is due from a schedule that is in order."""

    def __init__(self, schedule_of: Iterator[T]) -> None:
        self._rest: Iterator[T] = schedule_of
        self._next: T | None = next(schedule_of, None)

    @property
    def next_at(self) -> float:
        return math.inf if self._next is None else self._next.at_seconds

    def until(self, at_seconds: float) -> Iterator[T]:
        while self._next is not None and self._next.at_seconds <= at_seconds:
            yield self._next
            self._next = next(self._rest, None)
