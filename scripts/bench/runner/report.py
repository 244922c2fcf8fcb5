"""One report of all that ran, as data and as lines of text. Pure."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from scripts.bench.runner.figures import Figure, Spread
from scripts.bench.runner.running import Ran
from scripts.plots.axes import short

_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_SEEN = {True: "met", False: "NOT MET", None: ""}


def report(ran: Sequence[Ran], about: dict[str, Any]) -> dict[str, Any]:
    """`about`: when, what of, on what. Seconds are those of the clock, and of all its processes."""
    states = Counter(one.state for one in ran)
    judged = Counter(figure.met for one in ran for figure in one.figures)
    return {
        **about,
        "states": dict(sorted(states.items())),
        "aims": {"met": judged[True], "not_met": judged[False]},
        "benchmarks": {
            one.name: {
                "state": one.state,
                "why": one.why,
                "wall_seconds": round(one.wall_seconds, 1),
                "cpu_seconds": round(one.cpu_seconds, 1),
                "figures": [_as_data(figure) for figure in one.figures],
            }
            for one in ran
        },
    }


def well(ran: Sequence[Ran]) -> bool:
    """Whether all ran that could: an aim that was not met is only said."""
    return all(one.state in {"ran", "skipped"} for one in ran)


def lines(found: dict[str, Any]) -> list[str]:
    """A table for a terminal."""
    said = [about_line(found), ""]
    name_head = f"{'':44}{'figure':>20} {'ratio':>9} {'spread':>18}"
    said.append(f"{name_head}  beside; aim")
    for name, one in found["benchmarks"].items():
        if one["state"] == "skipped" and not one["figures"]:
            continue
        took = f"{one['wall_seconds']} s, {one['cpu_seconds']} CPU-s"
        why = f": {one['why']}" if one["why"] else ""
        said.append(f"{name} ({one['state']}{why}; {took})")
        said += [_line(figure) for figure in one["figures"]]
    said += [f"skipped, {why}: {', '.join(names)}" for why, names in skipped(found).items()]
    states = ", ".join(f"{count} {state}" for state, count in found["states"].items())
    aims = found["aims"]
    return [*said, "", f"{states}; aims: {aims['met']} met, {aims['not_met']} not met"]


def skipped(found: dict[str, Any]) -> dict[str, list[str]]:
    """By the reason: those that told nothing."""
    names: dict[str, list[str]] = {}
    for name, one in found["benchmarks"].items():
        if one["state"] == "skipped" and not one["figures"]:
            names.setdefault(one["why"], []).append(name)
    return names


def about_line(found: dict[str, Any]) -> str:
    machine = found["machine"]
    dirty = " with changes" if found["dirty"] else ""
    kind = "quick" if found["quick"] else "full"
    return (
        f"{found['date']}, {kind} run of {found['commit']}{dirty}: "
        f"{machine['cores']} cores ({machine['processor']}), {machine['memory_gib']} GiB, "
        f"{machine['system']}, Python {machine['python']}, load {found['load_before']} before, "
        f"{found['load_after']} after"
    )


def value_text(figure: dict[str, Any]) -> str:
    return quantity(figure["value"][0], figure["unit"])


def quantity(value: float, unit: str) -> str:
    """In the unit of its size, where it is of time or bytes: 0.0016 s is 1.6 ms."""
    if unit in _SECONDS and value:
        seconds = value * _SECONDS[unit]
        fit = next((one for one in _SECONDS if abs(seconds) >= _SECONDS[one]), "ns")
        return f"{seconds / _SECONDS[fit]:.3g} {fit}"
    said = short(value)
    if unit.startswith("B") and said[-1].isalpha():
        return said + unit  # 5 MB, and not 5 M B
    return f"{said} {unit}"


def main_numbers(figure: dict[str, Any]) -> list[float]:
    """[median, low, high] of the ratio, or of the figure where it has none."""
    found: list[float] = figure["ratio"] or figure["value"]
    return found


def spread_text(figure: dict[str, Any]) -> str:
    """Of the ratio, or of the figure where it has none; q: quartiles."""
    if figure["count"] == 1:
        return "-"
    _, low, high = main_numbers(figure)
    q = " q" if figure["spread"] == "quartiles" else ""
    if figure["ratio"]:
        return f"{low:.3g}..{high:.3g}{q}"
    ends = [quantity(one, figure["unit"]) for one in (low, high)]
    units = {said.partition(" ")[2] for said in (*ends, value_text(figure))}
    if len(units) == 1:  # it stands beside the figure
        ends = [said.partition(" ")[0] for said in ends]
    return f"{ends[0]}..{ends[1]}{q}"


def beside_text(figure: dict[str, Any]) -> str:
    if not figure["beside"] or figure["other"] is None:
        return "nothing"
    return f"{figure['beside']} ({quantity(figure['other'][0], figure['unit'])})"


def verdict(figure: dict[str, Any]) -> str:
    return _SEEN[figure["met"]]


def _line(figure: dict[str, Any]) -> str:
    ratio = f"{figure['ratio'][0]:.3g}" if figure["ratio"] else "-"
    aim = f"; {figure['aim']} {verdict(figure)}" if figure["aim"] else ""
    return (
        f"  {figure['name']:<42}{value_text(figure):>20} {ratio:>9} {spread_text(figure):>18}"
        f"  {beside_text(figure)}{aim}"
    )


def _as_data(figure: Figure) -> dict[str, Any]:
    data = asdict(figure) | {"spread": figure.spread}
    for name in ("value", "other", "ratio"):
        data[name] = _numbers(getattr(figure, name))
    return data


def _numbers(spread: Spread | None) -> list[float] | None:
    """[median, low, high]"""
    if spread is None:
        return None
    return [float(f"{one:.5g}") for one in (spread.middle, spread.low, spread.high)]
