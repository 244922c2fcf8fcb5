"""How `aigrid top` looks: pure, from what the node said and the room there is to lines of text.

What comes from other nodes is theirs to choose: names are stripped of what a terminal would obey
and cut to their column, and numbers are written in five characters however large they are.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.cells import cell_len, set_cell_size

from aigrid.node.cli.session import printable

_PEER_CHARS: Final = 6
_MODELS_CHARS: Final = 12
_NODE_MAX_CHARS: Final = 30
_STATE_CHARS: Final = 10
_UNITS: Final = ("", "k", "M", "G", "T", "P", "E")
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Line:
    """A line no wider than the terminal, and rich's style for it."""

    text: str
    style: str = ""


@dataclass(frozen=True, slots=True)
class _Column:
    """`keep`: those with the highest stay longest where it is narrow."""

    heading: str
    chars: int
    keep: int
    cell: Callable[[Row], str]
    left: bool = False


def layout(body: Mapping[str, Any], *, width: int, height: int | None = None) -> list[Line]:
    """The whole screen: sums, a heading, and a row for each node; at most `height` lines."""
    rows = [_spread(one) for one in body["nodes"]]
    head = [Line(_cut(text, width), style) for text, style in _head(body, rows)]
    columns = _chosen(rows, width)
    head.append(Line(_line([(c, c.heading) for c in columns], width), "bold"))
    lines = [Line(_line([(c, c.cell(r)) for c in columns], width), _style(r)) for r in rows]
    room = len(lines) if height is None else max(1, height - len(head))
    if len(lines) > room:
        left_out = len(lines) - room + 1
        more = _cut(f"{left_out} more in a taller terminal, or with --once", width)
        lines = [*lines[: room - 1], Line(more, "dim")]
    return [*head, *lines]


def number(value: float) -> str:
    """In at most five characters: 7, 0.25, 12.5, 1234, 56.7k, 999E."""
    if value < 10 and value != int(value):
        return f"{value:.2f}"
    if value < 100 and value != int(value):
        return f"{value:.1f}"
    if value < 9999.5:
        return f"{value:.0f}"
    for unit in _UNITS:
        if value < 99.95 and unit:
            return f"{value:.1f}{unit}"
        if value < 999.5 and unit:
            return f"{value:.0f}{unit}"
        value /= 1000
    return "huge"


def duration(seconds: float) -> str:
    """In at most four characters: 7s, 12m, 5h, 3d."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{min(seconds // size, 999):.0f}{unit}"
    return f"{seconds:.0f}s"


def _spread(one: Row) -> dict[str, Any]:
    """A row with its figures beside the rest."""
    return {**(one["vitals"] or {}), **one}


def _head(body: Mapping[str, Any], rows: Sequence[Row]) -> list[tuple[str, str]]:
    fresh = [r for r in rows if r["state"] == "fresh"]

    def total(member: str) -> str:
        return number(sum(r[member] for r in fresh))

    load = (
        f"{total('running')} running, {total('waiting')} of them waiting; "
        f"tokens/s {total('prompt_per_second')} in, {total('completion_per_second')} out"
    )
    if not body["whole"]:
        return [(load, "")]
    states: dict[str, int] = {}
    for one in rows:
        states[one["state"]] = states.get(one["state"], 0) + 1
    named = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    members = "1 member" if body["members"] == 1 else f"{body['members']} members"
    text = [(f"{members}: {named}", ""), (load, "")]
    if body["not_connected"]:
        text.append(
            (f"{body['not_connected']} that this node is not connected to are not shown", "dim")
        )
    if len(rows) > body["asked_max"] + 1:
        text.append((f"{body['asked_max']} are asked at a time, so some figures are older", "dim"))
    return text


def _chosen(rows: Sequence[Row], width: int) -> list[_Column]:
    """The columns that fit; what is left goes to names of nodes, and of models."""
    columns = [c for c in _COLUMNS if c is not _STATE or any(r["state"] != "fresh" for r in rows)]

    def taken() -> int:
        return sum(c.chars for c in columns) + len(columns) - 1

    while taken() > width and len(columns) > 1:
        columns.remove(min(columns, key=lambda column: column.keep))
    spare = width - taken()
    wide = []
    for column in columns:
        chars = column.chars
        if column is _NODE:
            chars = min(chars + max(0, spare if _MODELS not in columns else spare // 2), width)
            chars = max(column.chars, min(chars, _NODE_MAX_CHARS))
            spare -= chars - column.chars
        elif column is _MODELS:
            chars += max(0, spare)
        wide.append(_Column(column.heading, chars, column.keep, column.cell, column.left))
    return wide


def _line(cells: Sequence[tuple[_Column, str]], width: int) -> str:
    text = " ".join(_fit(printable(cell), c.chars, left=c.left) for c, cell in cells)
    return _cut(text, width)


def _fit(text: str, chars: int, *, left: bool) -> str:
    text = " ".join(text.split())
    size = cell_len(text)
    if size > chars:
        return set_cell_size(text, chars - 1) + "…" if chars > 1 else set_cell_size(text, chars)
    return text + " " * (chars - size) if left else " " * (chars - size) + text


def _cut(text: str, width: int) -> str:
    text = printable(text).rstrip()
    return text if cell_len(text) <= width else set_cell_size(text, max(width, 1))


def _style(row: Row) -> str:
    return "" if row["state"] == "fresh" else "dim"


def _figure(member: str, told: Callable[[Any], str] = number) -> Callable[[Row], str]:
    """A cell that is empty where the node said nothing of it."""
    return lambda row: "" if row.get(member) is None else told(row[member])


def _node(row: Row) -> str:
    """A name is anybody's to choose, the end of a PeerId is not."""
    name = " ".join(printable(row.get("name", "")).split())
    return f"{row['peer_id'][-_PEER_CHARS:]} {name}".rstrip()


def _state(row: Row) -> str:
    age = row["age_seconds"]
    return f"stale {duration(age)}" if row["state"] == "stale" and age else str(row["state"])


def _memory(devices: Mapping[str, Mapping[str, int]]) -> str:
    used = sum(one["used_bytes"] for one in devices.values())
    budget = sum(one["budget_bytes"] for one in devices.values())
    return f"{number(round(used / 2**30, 2))}/{number(round(budget / 2**30, 1))}"


def _models(row: Row) -> str:
    named, loaded = row.get("models") or (), row.get("loaded") or 0
    more = f" +{number(loaded - len(named))}" if loaded > len(named) else ""
    return ", ".join(named) + more


_NODE: Final = _Column("NODE", 14, 100, _node, left=True)
_STATE: Final = _Column("STATE", _STATE_CHARS, 99, _state, left=True)
_MODELS: Final = _Column("MODELS", _MODELS_CHARS, 5, _models, left=True)
_COLUMNS: Final = (
    _NODE,
    _STATE,
    _Column("RUN", 5, 98, _figure("running")),
    _Column("WAIT", 5, 97, _figure("waiting")),
    _Column("IN/S", 5, 95, _figure("prompt_per_second")),
    _Column("OUT/S", 5, 96, _figure("completion_per_second")),
    _Column("P50 s", 5, 92, _figure("first_p50_ms", lambda ms: number(ms / 1000))),
    _Column("P95 s", 5, 91, _figure("first_p95_ms", lambda ms: number(ms / 1000))),
    _Column("GiB", 11, 90, _figure("memory", _memory)),
    _Column("DONE", 5, 80, _figure("served")),
    _Column("ERR", 5, 81, _figure("failed")),
    _Column("UP", 4, 4, _figure("uptime_seconds", duration)),
    _Column("VER", 6, 3, _figure("software", str), left=True),
    _MODELS,
)
