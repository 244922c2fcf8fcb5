"""What is on its way in a run of `events`, and what the run came to."""

from dataclasses import dataclass, field

from scripts.simulation.checks.propagation import Delays
from scripts.simulation.checks.properties import Violation
from scripts.simulation.events.crowd import Flags
from scripts.simulation.options import Options


@dataclass
class Spreading:
    """A version on its way. `seen`: which nodes have heard it by gossip; `began` is a tick."""

    key: int
    version: int
    publisher: int
    began: int
    seen: Flags
    missing: Flags
    left: int


@dataclass
class Found:
    """What a run came to; seconds are virtual."""

    options: Options
    violations: list[Violation] = field(default_factory=list)
    each: Delays = field(default_factory=Delays)
    everywhere: Delays = field(default_factory=Delays)
    issued: int = 0
    arrived: int = 0
    asked: list[tuple[float, bool, int]] = field(default_factory=list)  # when, answered, by whom
    checks: dict[str, int] = field(default_factory=dict)
    faults: list[tuple[float, str]] = field(default_factory=list)
    most_acting: int = 0
    well_seconds: float | None = None
    end_seconds: float = 0.0
    cpu_seconds: float = 0.0
    trace_hash: str = ""
