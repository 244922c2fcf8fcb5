"""What happens to nodes while a run lasts; `stop` undoes all of it."""

import random
from collections.abc import Awaitable, Callable

import trio
from scripts.simulation.network.conditions import Conditions
from scripts.simulation.network.spread import spread
from scripts.simulation.options import Options
from scripts.simulation.world import SimNode, Simulation

SKEW_BELIEVED_SECONDS = 120


class Faults:
    """`restart` starts a node that was killed, of which `killed` hears just before.

    Attributes:
        log: (seconds, what) for the report.
        cut_off: how many nodes a partition kept from the others.
        kills: how often a node was killed.
    """

    def __init__(
        self,
        options: Options,
        sim: Simulation,
        network: Conditions,
        rng: random.Random,
        *,
        restart: Callable[[str], Awaitable[None]],
        killed: Callable[[str], None],
    ) -> None:
        self._options = options
        self._sim = sim
        self._network = network
        self._rng = rng
        self._restart = restart
        self._killed = killed
        self._slow: list[str] = []
        self._since: dict[str, float] = {}  # when those started whose clock is wrong
        self.down: set[str] = set()
        self.cut_off = self.kills = 0
        self.log: list[tuple[float, str]] = []

    def note(self, what: str) -> None:
        self._sim.note("fault", what)
        self.log.append((trio.current_time(), what))

    async def run(self, mortal: list[str], holders: list[str]) -> None:
        """Until cancelled. `mortal` may be killed; some of `holders` become slow."""
        options = self._options
        self._network.lossy = True
        for name in holders[: options.slow]:
            self._slow_down(name)
        for name in mortal[: options.skewed]:
            self._skew(name, options.skew_seconds)
            self._since[name] = trio.current_time()
            self.note(f"the clock of {name} jumps by {options.skew_seconds:+.0f} s")
        async with trio.open_nursery() as nursery:
            if options.churn:
                nursery.start_soon(self._churn, nursery, mortal)
            if options.partition:
                nursery.start_soon(self._partition)
            await trio.sleep_forever()

    def wrong(self, seconds: float) -> list[SimNode]:
        """Live nodes whose clock is wrong, and that have run with it for so long."""
        since = trio.current_time() - seconds
        names = sorted(name for name, at in self._since.items() if at <= since)
        return [self._sim.nodes[name] for name in names if name not in self.down]

    def _skew(self, name: str, seconds: float) -> None:
        self._sim.skews[name] = seconds
        if name in self._sim.nodes:
            self._sim.nodes[name].clock.skew_seconds = seconds

    async def stop(self) -> None:
        """Heal everything, and start whoever is down."""
        self._network.lossy = False
        self._network.join_up()
        for name in self._slow:
            self._network.slow_down(self._sim.identity_of(name).peer_id, 1)
            if name not in self.down:
                self._pace(self._sim.nodes[name], 1 / self._options.slow_factor)
        for name in self._since:
            self._skew(name, 0.0)
        for name in sorted(self.down):
            await self._restart(name)
        self.down.clear()
        self.note("faults end")

    def _slow_down(self, name: str) -> None:
        self._slow.append(name)
        self._network.slow_down(self._sim.identity_of(name).peer_id, self._options.slow_factor)
        self._pace(self._sim.nodes[name], self._options.slow_factor)
        self.note(f"{name} is slow")

    def _pace(self, one: SimNode, factor: float) -> None:
        one.spawner.chunk_seconds *= factor
        for worker in one.spawner.spawned:
            worker.chunk_seconds *= factor

    async def _churn(self, nursery: trio.Nursery, mortal: list[str]) -> None:
        """At random times; the first in time for the run to show something of it."""
        longest = self._options.duration_seconds / 2
        while True:
            pause = self._rng.expovariate(self._options.churn / 60)
            await trio.sleep(pause if self.kills else min(pause, longest))
            alive = [name for name in mortal if name not in self.down]
            if len(alive) > 1:
                name = self._rng.choice(alive)
                self.down.add(name)
                self._killed(name)
                self._sim.kill(name)
                self.kills += 1
                self.note(f"{name} is killed")
                nursery.start_soon(self._revive, name)

    async def _revive(self, name: str) -> None:
        await trio.sleep(spread(self._options.down_seconds).draw(self._rng))
        with trio.CancelScope(shield=True):  # half a start would be no node
            await self._restart(name)
        self.down.discard(name)
        if name in self._slow:
            self._pace(self._sim.nodes[name], self._options.slow_factor)
        if name in self._since:
            self._since[name] = trio.current_time()
        self.note(f"{name} is back")

    async def _partition(self) -> None:
        options = self._options
        await trio.sleep(options.duration_seconds / 4)
        names = sorted(self._sim.nodes)
        away = self._rng.sample(names, round(options.partition * len(names)))
        self._network.split([self._sim.identity_of(name).peer_id for name in away])
        self.cut_off = len(away)
        self.note(f"{self.cut_off} nodes are cut off")
        await trio.sleep(options.duration_seconds / 2)
        self._network.join_up()
        self.note("the partition heals")
