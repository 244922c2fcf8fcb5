"""How a benchmark tells its figures to whoever runs it, beside printing what it always does.

`tell` appends a line of JSON to the file that the environment names as `FILE_VARIABLE`; where it
names none, nothing happens. `scripts/bench/all.py` sets it, and reads (`runner/figures.py`):

    {"name": .., "unit": .., "values": [..], "beside": .., "others": [..], "aim": {..} or null}
    {"skipped": ..}

`values` has the figure of each round, or of each request; `others` what `beside` came to in the
same run, in the same rounds where there are as many. What is not finite is null.
"""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FILE_VARIABLE = "AIGRID_BENCH_FIGURES"


@dataclass(frozen=True)
class Aim:
    """What an issue asked for, of the ratio or (`of_value`) of the figure itself."""

    bound: float
    at_least: bool = False
    of_value: bool = False

    def met(self, found: float) -> bool:
        return found >= self.bound if self.at_least else found <= self.bound

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.bound:g}{'' if self.of_value else ' x'}"


def at_most(bound: float, *, of_value: bool = False) -> Aim:
    return Aim(bound, of_value=of_value)


def at_least(bound: float, *, of_value: bool = False) -> Aim:
    return Aim(bound, at_least=True, of_value=of_value)


def tell(
    name: str,
    values: Sequence[float],
    unit: str,
    *,
    beside: tuple[str, Sequence[float]] = ("", ()),
    aim: Aim | None = None,
) -> None:
    """One figure, and what it is compared with: the name of that, and its values.

    Without, it stands for itself: there was nothing to compare it with.
    """
    _write(
        {
            "name": name,
            "unit": unit,
            "values": _finite(values),
            "beside": beside[0],
            "others": _finite(beside[1]),
            "aim": asdict(aim) if aim else None,
        }
    )


def skip(why: str) -> None:
    """Nothing could be measured here, and that is no failure."""
    _write({"skipped": why})


def _write(line: dict[str, Any]) -> None:
    path = os.environ.get(FILE_VARIABLE)
    if path:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _finite(values: Sequence[float]) -> list[float | None]:
    return [float(value) if math.isfinite(value) else None for value in values]
