"""What is on its way in a run of `events`, and what the run came to."""

from dataclasses import dataclass, field
from typing import Self

import numpy as np
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

    @classmethod
    def begun(cls, key: int, version: int, publisher: int, began: int, up: Flags) -> Self:
        """All that are `up` are to hear of it, but for who says it."""
        missing = up.copy()
        missing[publisher] = False
        seen = np.zeros(len(up), np.bool_)
        return cls(key, version, publisher, began, seen, missing, int(missing.sum()))


@dataclass
class Found:
    """What a run came to; seconds are virtual. `due`, `killed`, `outrun`: see `Propagation`."""

    options: Options
    violations: list[Violation] = field(default_factory=list)
    each: Delays = field(default_factory=Delays)
    everywhere: Delays = field(default_factory=Delays)
    issued: int = 0
    arrived: int = 0
    due: int = 0
    killed: int = 0
    outrun: int = 0
    asked: list[tuple[float, bool, int]] = field(default_factory=list)  # when, answered, by whom
    checks: dict[str, int] = field(default_factory=dict)
    faults: list[tuple[float, str]] = field(default_factory=list)
    most_acting: int = 0
    well_seconds: float | None = None
    end_seconds: float = 0.0
    cpu_seconds: float = 0.0
    trace_hash: str = ""
