"""What benchmarks tell by `reporting.tell`, read and put in one number each. Pure."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

from scripts.bench.reporting import Aim

ROUNDS_MAX = 20  # of more values the quartiles are the spread, of fewer the lowest and the highest


@dataclass(frozen=True)
class Spread:
    """The median of some values, and between what they lay."""

    middle: float
    low: float
    high: float


@dataclass(frozen=True)
class Figure:
    """`value` is in `unit`; `ratio` is by what `beside` came to in the same run, `other`."""

    name: str
    unit: str
    value: Spread
    count: int
    beside: str = ""
    other: Spread | None = None
    ratio: Spread | None = None
    aim: str = ""
    met: bool | None = None

    @property
    def spread(self) -> str:
        return "quartiles" if self.count > ROUNDS_MAX else "min..max"

    @property
    def main(self) -> Spread:
        """What is compared from run to run: the ratio where there is one."""
        return self.ratio or self.value


def spread_of(values: Sequence[float]) -> Spread:
    """Of at least one value."""
    if len(values) > ROUNDS_MAX:
        low, middle, high = quantiles(values, n=4)
        return Spread(middle, low, high)
    return Spread(median(values), min(values), max(values))


def ratios(values: Sequence[float], others: Sequence[float]) -> list[float]:
    """Round by round where these are rounds, else each by the median of the others."""
    if len(values) == len(others) and all(others) and len(values) <= ROUNDS_MAX:
        return [value / other for value, other in zip(values, others, strict=True)]
    whole = median(others)
    return [value / whole for value in values] if whole else []


def read(lines: Iterable[str]) -> tuple[list[Figure], str]:
    """The figures, and why the benchmark says that it did nothing. A torn last line is left out."""
    found, skipped = [], ""
    for line in lines:
        try:
            said = json.loads(line)
        except ValueError:
            continue
        if "skipped" in said:
            skipped = str(said["skipped"])
        elif (figure := figure_of(said)) is not None:
            found.append(figure)
    return found, skipped


def figure_of(said: dict[str, Any]) -> Figure | None:
    """None where no value was finite."""
    values, others = (
        [one for one in said[name] if one is not None] for name in ("values", "others")
    )
    if not values:
        return None
    value, by = spread_of(values), ratios(values, others) if others else []
    ratio = spread_of(by) if by else None
    aim = Aim(**said["aim"]) if said["aim"] else None
    judged = None if aim is None else value if aim.of_value else ratio
    return Figure(
        name=said["name"],
        unit=said["unit"],
        value=value,
        count=len(values),
        beside=said["beside"],
        other=spread_of(others) if others else None,
        ratio=ratio,
        aim=f"{aim} {said['unit']}" if aim and aim.of_value else str(aim or ""),
        met=aim.met(judged.middle) if aim and judged else None,
    )
