"""What was found, put beside each other: medians, ratios, and the aims of the data path. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from scripts.bench import reporting
from scripts.bench.data_path.figures import Found

COLUMNS = ("raw", "stock", "ours", "bare", "lattica")
AGAINST = ("raw", "stock", "lattica")
Rounds = Mapping[str, Sequence[Found]]
Medians = Mapping[str, Found]


@dataclass(frozen=True)
class Row:
    """`of`: whose figure counts as this node's, its requests (ours) or its streams (bare)."""

    name: str
    says: str
    of: str = "ours"
    digits: int = 2

    @property
    def unit(self) -> str:
        """By the end of its name."""
        endings = {"_ms": "ms", "_us": "us", "_mbps": "MB/s", "_per_second": "1/s"}
        return next(unit for ending, unit in endings.items() if self.name.endswith(ending))

    @property
    def more_is_better(self) -> bool:
        return self.name.endswith(("_per_second", "_mbps"))


ROWS = (
    Row("rpc_p50_ms", "1 KiB on a reused stream, p50 ms"),
    Row("rpc_p99_ms", "  p99 ms"),
    Row("rpc_client_cpu_ms", "  CPU ms, client", digits=3),
    Row("rpc_server_cpu_ms", "  CPU ms, server", digits=3),
    Row("many_per_second", "32 at a time, requests/s", digits=0),
    Row("many_client_cpu_ms", "  CPU ms, client", digits=3),
    Row("many_server_cpu_ms", "  CPU ms, server", digits=3),
    Row("fresh_p50_ms", "new stream per request, p50 ms", of="bare"),
    Row("connect_ms", "connect, ms", digits=1),
    Row("write_64k_mbps", "64 KiB writes, MB/s", of="bare", digits=0),
    Row("write_1m_mbps", "1 MiB writes, MB/s", of="bare", digits=0),
    Row("token_p50_ms", "token every 10 ms, added p50 ms"),
    Row("token_p99_ms", "  added p99 ms"),
    Row("burst_client_cpu_us", "burst, CPU us a token, client", digits=1),
    Row("burst_server_cpu_us", "  server", digits=1),
)
BY_NAME = {row.name: row for row in ROWS}


@dataclass(frozen=True)
class Aim:
    """Of a row: at most, or at least, `bound` times what another column has; or just `bound`."""

    row: str
    bound: float
    against: str | None = None
    at_least: bool = False

    def met(self, value: float) -> bool:
        """Of the ratio, or of the figure itself."""
        return value >= self.bound if self.at_least else value <= self.bound

    def __str__(self) -> str:
        bound = f"{'>=' if self.at_least else '<='} {self.bound:g}"
        return f"{bound} x {self.against}" if self.against else bound


AIMS = (
    Aim("rpc_p50_ms", 3, "raw"),
    Aim("rpc_p50_ms", 0.6, "lattica"),
    Aim("many_per_second", 0.4, "raw", at_least=True),
    Aim("many_per_second", 3, "lattica", at_least=True),
    Aim("fresh_p50_ms", 0.5, "stock"),
    Aim("connect_ms", 50),
    Aim("write_64k_mbps", 4, "stock", at_least=True),
    Aim("write_64k_mbps", 0.2, "raw", at_least=True),
    Aim("token_p50_ms", 0.6, "stock"),
)


def medians(rounds: Rounds, *, best: bool = False) -> dict[str, Found]:
    """Of each column and row, or the best; what a column has no figure for has none here either."""
    of: dict[str, Found] = {}
    for column, found in rounds.items():
        of[column] = {}
        for row in ROWS:
            values = [one[row.name] for one in found if row.name in one]
            if values and best:
                of[column][row.name] = max(values) if row.more_is_better else min(values)
            elif values:
                of[column][row.name] = median(values)
    return of


def ratio(of: Medians, row: str, column: str, against: str) -> float:
    """How many times what the other has; NaN where one of them has no figure."""
    mine, other = of.get(column, {}).get(row), of.get(against, {}).get(row)
    return mine / other if mine is not None and other else math.nan


def judged(of: Medians, aim: Aim, column: str) -> tuple[float, str]:
    """The figure that the aim is about, and `met`, `NOT MET` or `no figure`."""
    if aim.against:
        value = ratio(of, aim.row, column, aim.against)
    else:
        value = of.get(column, {}).get(aim.row, math.nan)
    if math.isnan(value):
        return value, "no figure"
    return value, "met" if aim.met(value) else "NOT MET"


def tell_all(rounds: Rounds) -> None:
    """Each row beside each column that an aim names, or beside raw TCP, for the runner of all."""
    for row in ROWS:
        aims: list[Aim | None] = [aim for aim in AIMS if aim.row == row.name]
        for aim in aims or [None]:
            against = aim.against if aim else "raw"
            mine, other = (
                [one[row.name] for one in rounds.get(column or "", ()) if row.name in one]
                for column in (row.of, against)
            )
            bound = None
            if aim:
                bound = reporting.Aim(aim.bound, aim.at_least, of_value=against is None)
            if mine and (other or against is None):
                beside = (against or "", other)
                reporting.tell(row.name, mine, row.unit, beside=beside, aim=bound)


def lines(of: Medians) -> list[str]:
    """The table; ratios are of this node's own figure, which is starred."""
    head = "".join(f"{name:>10}" for name in COLUMNS)
    times = "".join(f"{'x ' + name:>11}" for name in AGAINST)
    said = [f"{'':33}{head} {times}"]
    for row in ROWS:
        cells = ""
        for column in COLUMNS:
            value = of.get(column, {}).get(row.name)
            text = "-" if value is None else f"{value:.{row.digits}f}"
            cells += f"{text + ('*' if column == row.of else ' '):>10}"
        ratios = ""
        for against in AGAINST:
            value = ratio(of, row.name, row.of, against)
            ratios += f"{'-' if math.isnan(value) else f'{value:.2f}':>11}"
        said.append(f"{row.says:33}{cells} {ratios}")
    return said


def aim_lines(of: Medians) -> list[str]:
    """Each aim with what came of it, by the row's own column and by the other of ours."""
    said = []
    for aim in AIMS:
        row = BY_NAME[aim.row]
        other = "bare" if row.of == "ours" else "ours"
        (value, verdict), (beside, also) = (judged(of, aim, name) for name in (row.of, other))
        line = f"{row.says.strip():33}{aim!s:>18}: {_short(value)} {verdict}"
        said.append(line if math.isnan(beside) else f"{line}  ({other}: {_short(beside)} {also})")
    return said


def _short(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}"
