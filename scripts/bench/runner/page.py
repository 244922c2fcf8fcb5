"""The newest report and the history as one page that needs nothing else."""

from collections.abc import Sequence
from html import escape
from typing import Any

from scripts.bench.runner.history import drawings
from scripts.bench.runner.report import (
    about_line,
    beside_text,
    skipped,
    spread_text,
    value_text,
    verdict,
)
from scripts.plots.document import document
from scripts.plots.drawing import Drawing
from scripts.plots.svg import svg

_HEAD = ("figure", "", "ratio", "spread", "beside, in the same run", "aim", "earlier runs")
_LEGEND = (
    "A ratio is by what stands beside it in the same run; the spread is of the ratio, or of the "
    "figure where it has none: lowest to highest round, or quartiles (q) of many requests. Plots "
    "show the same over runs of this kind on such a machine, oldest first."
)


def page(runs: Sequence[dict[str, Any]]) -> str:
    """HTML of at least one run, oldest first."""
    last, drawn = runs[-1], drawings(runs)
    aims = last["aims"]
    head = "".join(f"<th>{escape(one)}</th>" for one in _HEAD)
    rows = [
        row
        for name, one in last["benchmarks"].items()
        if one["figures"] or one["state"] != "skipped"
        for row in (_benchmark(name, one), *(_figure(name, each, drawn) for each in one["figures"]))
    ]
    return document(
        "Benchmarks",
        [
            f"<p>{escape(about_line(last))}</p>",
            f"<p>Aims: {aims['met']} met, {aims['not_met']} not met. {_LEGEND}</p>",
            *(
                f"<p>Skipped, {escape(why)}: {escape(', '.join(names))}.</p>"
                for why, names in skipped(last).items()
            ),
            f"<div class=wide><table><tr>{head}</tr>{''.join(rows)}</table></div>",
        ],
    )


def _benchmark(name: str, one: dict[str, Any]) -> str:
    state = "ill" if one["state"] in {"failed", "interrupted"} else "well"
    said = one["state"] + (f": {one['why']}" if one["why"] else "")
    took = f"{one['wall_seconds']} s, {one['cpu_seconds']} CPU-s"
    return (
        f"<tr class=first><td colspan={len(_HEAD)}><strong>{escape(name)}</strong> "
        f"<span class={state}>{escape(said)}</span> <small>{took}</small></td></tr>"
    )


def _figure(name: str, figure: dict[str, Any], drawn: dict[tuple[str, str], Drawing]) -> str:
    ratio = f"{figure['ratio'][0]:.3g}" if figure["ratio"] else ""
    key = name, f"{figure['name']} / {figure['beside']}".removesuffix(" / ")
    state = {"met": "well", "NOT MET": "ill"}.get(verdict(figure), "")
    aim = f"{figure['aim']} {verdict(figure)}" if figure["aim"] else ""
    cells = (
        f"<td>{escape(figure['name'])}</td>",
        f"<td class=number>{escape(value_text(figure))}</td>",
        f"<td class=number>{ratio}</td>",
        f"<td class=number>{spread_text(figure)}</td>",
        f"<td>{escape(beside_text(figure))}</td>",
        f'<td class="{state}">{escape(aim)}</td>',
        f"<td>{svg(drawn[key])}</td>",
    )
    return f"<tr>{''.join(cells)}</tr>"
