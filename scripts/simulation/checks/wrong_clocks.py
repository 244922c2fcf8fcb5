"""Clocks that are wrong: what becomes of what those say who have them, and of what they hear."""

from collections.abc import Iterable

import trio
from scripts.simulation.checks.properties import Watch
from scripts.simulation.faults import SKEW_BELIEVED_SECONDS, Faults
from scripts.simulation.network.conditions import Conditions
from scripts.simulation.options import Options
from scripts.simulation.workload import BRIEF, say
from scripts.simulation.world import SimNode, Simulation

from aigrid.protocol.errors import Code
from aigrid.protocol.record import Record

# When both sides say what soon ends, until all who will take it have it, and how long it lasts.
SPEAK_SECONDS, HEARD_SECONDS, LASTS_SECONDS = 3.0, 2.0, 5.0
# Until a node that has started knows that its clock is wrong, and how exact it is about that.
KNOWS_SECONDS, EXACT_MS = 10.0, 2000


class WrongClocks:
    """Looks at the nodes that `faults` gave a wrong clock: property `clock`."""

    def __init__(
        self, options: Options, sim: Simulation, network: Conditions, watch: Watch, faults: Faults
    ) -> None:
        self._options = options
        self._sim = sim
        self._network = network
        self._watch = watch
        self._faults = faults

    @property
    def _far(self) -> bool:
        return bool(self._options.skewed) and is_far(self._options)

    def look(self) -> dict[str, int]:
        """They know by how much, where most that they reach have the time; what they say of it."""
        seconds, told = self._options.skew_seconds, dict[str, int]()
        for one in self._faults.wrong(KNOWS_SECONDS):
            ahead_ms = told[one.name] = one.node.peers.clock_ahead_ms()
            if not self._can_know(one):
                continue
            self._watch.checks["clock"] += 1
            if abs(ahead_ms - 1000 * seconds) > EXACT_MS:
                self._watch.violated("clock", f"{one.name} takes itself to be {ahead_ms} ms ahead")
        return told

    def _can_know(self, one: SimNode) -> bool:
        own, blocked = one.node.identity.peer_id, self._network.blocked
        others = [
            other
            for other in self._sim.nodes.values()
            if other is not one and not blocked(own, other.node.identity.peer_id)
        ]
        return 2 * sum(not other.clock.skew_seconds for other in others) > len(others)

    def look_at_refused(self) -> None:
        """What is from the future was refused, in the end."""
        if self._far:
            refusing = (
                self._faults.wrong(KNOWS_SECONDS)
                if self._options.skew_seconds < 0
                else self._watch.honest()
            )
            for one in refusing:
                if not one.node.graph.refused[Code.FROM_FUTURE]:
                    self._watch.violated("clock", f"{one.name} refused nothing from the future")

    async def speak(self) -> None:
        """What soon ends, ends early on the other side; and nobody else has less of it."""
        if not self._far:
            return
        await trio.sleep(SPEAK_SECONDS)
        right, wrong = self._watch.honest(), self._faults.wrong(0.0)
        lasts_ms = round(1000 * LASTS_SECONDS)
        behind_ms = max(0, round(-1000 * self._options.skew_seconds))
        ended = _said(wrong, "ended", lasts_ms) if behind_ms else []
        early = _said(wrong, "early", behind_ms + lasts_ms) if behind_ms else []
        brief = _said(right[:1], "brief", 2 * lasts_ms)
        await trio.sleep(HEARD_SECONDS)
        self._expect(right, [*early, *brief], held=True)
        self._expect(right, ended, held=False)
        self._expect(wrong, brief, held=False)  # ended already, or from the future
        await trio.sleep(LASTS_SECONDS)
        self._expect(right, early, held=False)
        self._expect(wrong[:1], early[:1], held=True)  # as it was meant

    def _expect(self, nodes: Iterable[SimNode], records: list[Record], *, held: bool) -> None:
        for one in nodes:
            if self._sim.nodes.get(one.name) is not one:
                continue  # killed meanwhile
            for record in records:
                self._watch.checks["clock"] += 1
                if one.node.graph.store.has(record.content_id) is not held:
                    what = f"{one.name} {'lacks' if held else 'holds'} {record.subject[-20:]}"
                    self._watch.violated("clock", what)


def is_far(options: Options) -> bool:
    """Whether clocks are further off than others believe."""
    return abs(options.skew_seconds) > SKEW_BELIEVED_SECONDS


def _said(nodes: Iterable[SimNode], name: str, ttl_ms: int) -> list[Record]:
    said = (say(one, f"{BRIEF}{name}-{one.name}", ttl_ms) for one in nodes)
    return [record for record in said if record is not None]
