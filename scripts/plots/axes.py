"""Where numbers stand, and which of them are written beside an axis. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

_STEPS = (1.0, 2.0, 5.0, 10.0)
_FEW_DECADES = 1.5
_UNITS = (("G", 1e9), ("M", 1e6), ("k", 1e3))


@dataclass(frozen=True)
class Axis:
    """From `low` to `high`, at pixels `start` to `end`; `log`: by powers of ten."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """The pixel of a value."""
        low, high, value = (self._flat(each) for each in (self.low, self.high, value))
        return self.start + (value - low) / ((high - low) or 1.0) * (self.end - self.start)

    def ticks(self) -> list[float]:
        return decades(self.low, self.high) if self.log else round_numbers(self.low, self.high)

    def _flat(self, value: float) -> float:
        return math.log10(value) if self.log else value


def round_numbers(low: float, high: float, about: int = 4) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten, some `about` of them, within the bounds."""
    if not high > low:
        return [low]
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * each for each in _STEPS if power * each >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [step * number for number in range(first, last + 1)]


def decades(low: float, high: float) -> list[float]:
    """Powers of ten within the bounds; where they are few, twice and five times these too."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    wide = math.log10(high / low) > _FEW_DECADES
    factors = (1.0,) if wide else (1.0, 2.0, 5.0)
    marks = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
    within = [each for each in marks if low * 0.999 <= each <= high * 1.001]
    return within or [low]


def top(values: Sequence[float]) -> float:
    """A round number that no value exceeds by far; 1 where there is nothing above 0."""
    highest = max([*values, 0.0])
    if highest <= 0:
        return 1.0
    marks = round_numbers(0.0, highest)
    step = marks[1] if len(marks) > 1 else highest
    return step * math.ceil(highest / step - 1e-9)


def short(value: float) -> str:
    """1234567 is 1.23 M."""
    for unit, size in _UNITS:
        if abs(value) >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"
