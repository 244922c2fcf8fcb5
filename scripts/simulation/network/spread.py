"""Distributions as text: `20`, `uniform:5-50`, `lognormal:40,0.5`, `exponential:30`."""

import random
import re
from dataclasses import dataclass

_NUMBER = r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_SPELLED = re.compile(rf"(?:(uniform|lognormal|exponential):)?{_NUMBER}(?:[-,]{_NUMBER})?")
_DEVIATION_MAX = 5.0  # of a logarithm: beyond it single values are out of all proportion


@dataclass(frozen=True, slots=True)
class Spread:
    """What single values are drawn from; the unit is that of whoever asks.

    `uniform` has its bounds, `lognormal` its median and the deviation of the logarithm,
    `exponential` its mean; without a name it is always the one value.
    """

    kind: str
    first: float
    second: float

    def bounds(self) -> tuple[float, ...]:
        """The least and the most; where there is no most, the mean or the median."""
        return (self.first, self.second) if self.kind == "uniform" else (self.first,)

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
    found = Spread(spelled[1] or "", float(spelled[2]), float(spelled[3] or 0))
    if found.kind == "uniform" and found.second < found.first:
        raise ValueError(f"{text!r} is no distribution: it ends before it begins")
    if found.kind == "lognormal" and found.second > _DEVIATION_MAX:
        raise ValueError(f"{text!r} is no distribution: it is too wide, {_DEVIATION_MAX:g} at most")
    return found
