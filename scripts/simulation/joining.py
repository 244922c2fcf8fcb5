"""Who joins a simulated grid, how long that may take, and what is said where it does not end."""

import random
from collections import Counter
from collections.abc import Callable, Sequence

import trio
from scripts.simulation.network.spread import spread
from scripts.simulation.options import Options
from scripts.simulation.world import Simulation

from aigrid.protocol.errors import AigridError

READY_SECONDS = 120.0
STORM_SECONDS = 300.0
JOIN_AGAIN_SECONDS = 2.0
# Of each node, beside what takes no longer with more of them: an honest join takes 7 latencies.
JOIN_SECONDS, JOIN_LATENCIES = 1.0, 20
NAMED_MAX = 5


def come_up_seconds(options: Options) -> float:
    """Virtual time within which all have joined, met, and know what is offered."""
    latency_seconds = max(spread(options.latency_ms).bounds()) / 1000
    each = JOIN_SECONDS + JOIN_LATENCIES * latency_seconds
    return (STORM_SECONDS if options.storm else READY_SECONDS) + each * options.nodes


class Joining:
    """Lets nodes join at `host`.

    Attributes:
        outside: names of those that are to join and have not yet, in order.
        refused: how often, by code; added to what is given.
    """

    def __init__(self, sim: Simulation, host: str, refused: Counter[str]) -> None:
        self._sim = sim
        self._host = host
        self.outside: dict[str, None] = {}
        self.refused = refused

    async def all(
        self, names: Sequence[str], *, at_once: bool, progress: Callable[[float], None]
    ) -> None:
        """For as long as it takes: whoever calls sets a limit."""
        self.outside = dict.fromkeys(names)
        async with trio.open_nursery() as nursery:
            for number, name in enumerate(names):
                if at_once:
                    nursery.start_soon(self._join, name)
                else:
                    await self._join(name)
                    progress(number / len(names))

    async def _join(self, name: str) -> None:
        """As often as it takes: a host lets only so many strangers in at once."""
        rng = random.Random(f"{self._sim.seed}/{name}/join")
        while True:
            try:
                await self._sim.join(name, self._host)
            except AigridError as error:
                self.refused[error.code.value] += 1
                await trio.sleep(JOIN_AGAIN_SECONDS * rng.uniform(0.5, 1.5))
            else:
                del self.outside[name]
                return

    def why(self) -> str:
        """What is said of a grid that did not come up in time."""
        if not self.outside:
            return "the grid did not come up in time"
        codes = ", ".join(f"{count}x {code}" for code, count in sorted(self.refused.items()))
        who = listed(list(self.outside))
        return f"{who} did not join in time; refused: {codes or 'never'}"


def listed(names: Sequence[str]) -> str:
    """A few by name, the others by number."""
    more = len(names) - NAMED_MAX
    return ", ".join(names[:NAMED_MAX]) + (f" and {more} more" if more > 0 else "")
