"""The live table, and the line that takes its place where nobody sits at a terminal."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group
from rich.table import Table
from rich.text import Text
from scripts.testnets.figures import Answered
from scripts.testnets.grid import Member, State
from scripts.testnets.sampling import SILENT, Sample

MIB = 1024 * 1024
COLUMNS = ("NODE", "PID", "PEER", "STATE", "PEERS", "MODELS", "RECORDS", "SERVED", "FAILED")
USED = ("RSS MB", "PSS MB", "CPU %", "FILES", "TASKS", "LIVES")
STYLES = {State.HELD: "yellow", State.DOWN: "yellow", State.ENDING: "yellow", State.ENDED: "red"}


@dataclass(frozen=True, slots=True)
class Row:
    """A node; memory and CPU with its workers. PSS counts shared pages by their share."""

    sample: Sample
    pid: str
    peer: str
    cpu_percent: float

    def cells(self) -> tuple[str, ...]:
        one = self.sample
        used = ("-",) * 3
        if one.used.rss_bytes:
            cpu = "-" if self.cpu_percent < 0 else f"{self.cpu_percent:.1f}"
            used = (f"{one.used.rss_bytes / MIB:.0f}", f"{one.used.pss_bytes / MIB:.0f}", cpu)
        met = "-" if one.alive < 0 else f"{one.alive}/{one.others}"
        counts = map(_count, (one.models, one.records, one.served, one.failed))
        rest = (_count(one.descriptors), _count(one.tasks), str(one.life))
        return (f"n{one.number}", self.pid, self.peer, one.state, met, *counts, *used, *rest)


def rows_of(
    members: Sequence[Member], now: Sequence[Sample], before: Sequence[Sample]
) -> list[Row]:
    """Of the newest samples, with CPU since those `before`, which may be none."""
    known = {one.number: one for one in before}
    found = []
    for member, one in zip(members, now, strict=True):
        was = known.get(one.number)
        peer = str(member.node.ready.get("peer_id", ""))[-8:]
        pid = str(member.node.pid) if member.lives else "-"
        found.append(Row(one, pid, peer, cpu_percent(was, one)))
    return found


def cpu_percent(was: Sample | None, now: Sample) -> float:
    """Of one core, between two samples of the same process; -1 if they are not.

    It is no less than 0: the time of a worker that has ended is not counted any more.
    """
    if was is None or was.life != now.life or now.at_seconds <= was.at_seconds:
        return -1.0
    spent = now.used.cpu_seconds - was.used.cpu_seconds
    return max(0.0, 100 * spent / (now.at_seconds - was.at_seconds))


def screen(rows: Sequence[Row], answered: Answered, done: Counter[str], title: str) -> Group:
    """Everything, for a terminal."""
    table = Table(*COLUMNS, *USED, box=None)
    for row in rows:
        state = row.sample.state
        style = "red" if state == SILENT else STYLES.get(State(state), "")
        table.add_row(*row.cells(), style=style)
    total = _total(rows)
    table.add_row(*(str(total.get(name, "")) for name in (*COLUMNS, *USED)), style="bold")
    below = Text(title if not answered.counted else f"{title}  {answered.line()}")
    return Group(table, below, Text(faults_line(done)))


def line(rows: Sequence[Row], answered: Answered, done: Counter[str], at_seconds: float) -> str:
    """The totals, for a log."""
    total = _total(rows)
    states = Counter(row.sample.state for row in rows)
    told = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    words = [
        f"{at_seconds:6.0f} s  {told}",
        f"{total['RECORDS']} records",
        f"PSS {total['PSS MB']} MB",
        f"CPU {total['CPU %']} %",
    ]
    words += [answered.line()] if answered.counted else []
    words += [faults_line(done)] if done else []
    return "; ".join(words)


def faults_line(done: Counter[str]) -> str:
    """How often what was done."""
    return ", ".join(f"{kind} {count}" for kind, count in sorted(done.items()))


def _total(rows: Sequence[Row]) -> dict[str, object]:
    samples = [row.sample for row in rows]
    up = sum(one.state == State.UP for one in samples)
    cpu = sum(row.cpu_percent for row in rows if row.cpu_percent > 0)
    return {
        "NODE": "all",
        "STATE": f"{up} up",
        "RECORDS": max((one.records for one in samples if one.records >= 0), default=0),
        "SERVED": sum(max(0, one.served) for one in samples),
        "FAILED": sum(max(0, one.failed) for one in samples),
        "RSS MB": round(sum(one.used.rss_bytes for one in samples) / MIB),
        "PSS MB": round(sum(one.used.pss_bytes for one in samples) / MIB),
        "CPU %": f"{cpu:.0f}",
        "LIVES": sum(one.life for one in samples),
    }


def _count(number: int) -> str:
    return "-" if number < 0 else str(number)
