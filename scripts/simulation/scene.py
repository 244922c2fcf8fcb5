"""What an attack has to work with."""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from scripts.simulation.checks.properties import Watch
from scripts.simulation.options import Options
from scripts.simulation.world import SimNode, Simulation


@dataclass(frozen=True, slots=True)
class Scene:
    """One run's members that mean ill, and everybody else.

    Attributes:
        models: names of the models that honest nodes offer.
        holders: the honest nodes that do.
        founder: name of the node with the authority's key.
        offer: have a node of this name offer an echo model of that name, loaded.
        files: by model id, the file of models that honest nodes published for this attack.
    """

    options: Options
    sim: Simulation
    watch: Watch
    bad: tuple[str, ...]
    models: tuple[str, ...]
    holders: tuple[str, ...]
    founder: str
    offer: Callable[[str, str], Awaitable[None]]
    files: dict[str, bytes] = field(default_factory=dict)

    def attackers(self) -> list[SimNode]:
        return [self.sim.nodes[name] for name in self.bad if name in self.sim.nodes]

    def honest(self) -> list[SimNode]:
        return [one for name, one in sorted(self.sim.nodes.items()) if name not in set(self.bad)]

    def is_up(self, one: SimNode) -> bool:
        """Whether it runs, and was not killed and started again meanwhile."""
        return self.sim.nodes.get(one.name) is one

    def rng(self, what: str) -> random.Random:
        """Of its own, so that no draw of one part of a run moves those of another."""
        return random.Random(f"{self.options.seed}/{what}")
