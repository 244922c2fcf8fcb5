"""Distributions as text: `20`, `uniform:5-50`, `lognormal:40,0.5`, `exponential:30`."""

import random
import re
from dataclasses import dataclass

_SPELLED = re.compile(r"(?:(uniform|lognormal|exponential):)?([0-9.]+)(?:[-,]([0-9.]+))?")


@dataclass(frozen=True, slots=True)
class Spread:
    """What single values are drawn from; the unit is that of whoever asks.

    `uniform` has its bounds, `lognormal` its median and the deviation of the logarithm,
    `exponential` its mean; without a name it is always the one value.
    """

    kind: str
    first: float
    second: float

    def draw(self, rng: random.Random) -> float:
        match self.kind:
            case "uniform":
                return rng.uniform(self.first, self.second)
            case "lognormal":
                return self.first * rng.lognormvariate(0.0, self.second)
            case "exponential":
                return rng.expovariate(1 / self.first) if self.first else 0.0
            case _:
                return self.first


def spread(text: str) -> Spread:
    """Raises ValueError for what is not spelled as one."""
    spelled = _SPELLED.fullmatch(text.strip())
    two = spelled is not None and spelled[1] in {"uniform", "lognormal"}
    if spelled is None or two != (spelled[3] is not None):
        raise ValueError(
            f"{text!r} is no distribution: 20, uniform:5-50, lognormal:40,0.5 or exponential:30"
        )
    return Spread(spelled[1] or "", float(spelled[2]), float(spelled[3] or 0))
