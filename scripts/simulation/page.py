"""A report as one page that needs nothing else: figures, and plots as SVG."""

import json
import math
from collections.abc import Sequence
from html import escape
from typing import Any

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 460, 220, 56, 34, 12
BARS_MAX = 200
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem }
h1 { margin-bottom: 0 } .plots { display: flex; flex-wrap: wrap; gap: 1rem }
figure { margin: 0 } figcaption { font-weight: 600 } code { background: #8882; padding: .1em .3em }
table { border-collapse: collapse } td, th { text-align: left; padding: .15rem .8rem .15rem 0 }
svg text { font: 11px system-ui, sans-serif; fill: currentColor }
svg .axis { stroke: currentColor; stroke-opacity: .3 }
svg .line { stroke: #2563eb; fill: none; stroke-width: 2 }
svg .bar { fill: #2563eb } .well { color: #15803d } .ill { color: #b91c1c }
@media (prefers-color-scheme: dark) { body { background: #111; color: #ddd } }
"""


def page(report: dict[str, Any]) -> str:
    """HTML, with the report itself in it."""
    options, nodes = report["options"], report["nodes"]
    title = escape(options["title"] or "A simulation")
    state = "well" if report["well"] else "ill"
    said = "every property held" if report["well"] else "a property did not hold"
    plots = [
        _figure(
            "Records: share of nodes reached, by seconds",
            lines(report["propagation"]["cdf"], log=True),
        ),
        _figure(
            "Requests: share answered rightly, by the virtual second they began",
            lines(report["requests"]["over_time"]),
        ),
        _figure("Answers given, by node", bars([one["served"] for one in nodes.values()])),
        _figure("Messages sent, by node", bars([one["messages"] for one in nodes.values()])),
        _figure("Bytes sent, by node", bars([one["bytes"] for one in nodes.values()])),
    ]
    return "\n".join(
        [
            "<!doctype html><html lang=en><meta charset=utf-8>",
            f"<title>{title}</title><style>{STYLE}</style>",
            f"<h1>{title}</h1><p>{escape(options['about'])}</p>",
            f"<p class={state}><strong>{said}</strong></p>",
            f"<p><code>{escape(report['replay'])}</code></p>",
            f"<p><small>{escape(report['model'])}.",
            f"Commit {escape(report['commit'])}. Trace {report['trace_hash']}</small></p>",
            _violations(report),
            _figures(report),
            f"<div class=plots>{''.join(plots)}</div>",
            _events(report),
            "<details><summary>The report as JSON</summary><pre>",
            escape(json.dumps(report, indent=1)),
            "</pre></details></html>\n",
        ]
    )


def lines(points: Sequence[Sequence[float]], *, log: bool = False) -> str:
    """Of (x, share) pairs; x on a logarithmic scale if `log`."""
    if not points:
        return "<p>nothing was counted</p>"
    xs = [math.log10(x) if log else x for x, _ in points]
    low, high = min(xs), max(xs)
    spread = (high - low) or 1.0
    placed = [
        (LEFT + (x - low) / spread * (WIDTH - LEFT - 10), _height(share))
        for x, (_, share) in zip(xs, points, strict=True)
    ]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
    ends = [(low, LEFT), (low + spread / 2, (LEFT + WIDTH - 10) / 2), (high, WIDTH - 10)]
    labels = [
        _text(x, HEIGHT - 12, _short(10**at if log else at), anchor="middle") for at, x in ends
    ]
    return _svg([*_shares(), *labels, f'<polyline class="line" points="{path}"/>'])


def bars(values: Sequence[float]) -> str:
    """In descending order; of many only some, evenly."""
    ordered = sorted(values, reverse=True)
    shown = ordered[:: max(1, math.ceil(len(ordered) / BARS_MAX))]
    highest = max([*shown, 1])
    wide = (WIDTH - LEFT - 10) / max(1, len(shown))
    drawn = [
        f'<rect class="bar" x="{LEFT + n * wide:.1f}" y="{_height(value / highest):.1f}" '
        f'width="{max(1.0, wide - 1):.1f}" height="{_height(0) - _height(value / highest):.1f}"/>'
        for n, value in enumerate(shown)
    ]
    marks = [
        _text(LEFT - 6, _height(share) + 4, _short(share * highest), anchor="end")
        for share in (0.0, 0.5, 1.0)
    ]
    return _svg([*_rules(), *marks, *drawn])


def _figure(caption: str, drawing: str) -> str:
    return f"<figure><figcaption>{escape(caption)}</figcaption>{drawing}</figure>"


def _svg(parts: Sequence[str]) -> str:
    return f'<svg role="img" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}">{"".join(parts)}</svg>'


def _text(x: float, y: float, said: str, *, anchor: str) -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{said}</text>'


def _height(share: float) -> float:
    return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)


def _rules() -> list[str]:
    return [
        f'<line class="axis" x1="{LEFT}" x2="{WIDTH - 10}" '
        f'y1="{_height(share):.0f}" y2="{_height(share):.0f}"/>'
        for share in (0.0, 0.5, 1.0)
    ]


def _shares() -> list[str]:
    return _rules() + [
        _text(LEFT - 6, _height(share) + 4, f"{share:.0%}", anchor="end")
        for share in (0.0, 0.5, 1.0)
    ]


def _short(value: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"


def _violations(report: dict[str, Any]) -> str:
    rows = [
        f"<li class=ill>{one['at_seconds']:.1f} s: {one['name']}: {escape(one['what'])}</li>"
        for one in report["violations"]
    ]
    return f"<ul>{''.join(rows)}</ul>" if rows else ""


def _figures(report: dict[str, Any]) -> str:
    requests, spread = report["requests"], report["propagation"]
    under, after, cost = requests["under_faults"], requests["afterwards"], report["cost"]
    rows = {
        "answered under faults": f"{under['answered']:.1%} of {under['counted']}",
        "of these wrong": f"{under['wrong']:.1%}",
        "answered afterwards": f"{after['answered']:.1%} of {after['counted']}",
        "of these wrong, too": f"{after['wrong']:.1%}",
        "an answer, p50 and p99": f"{under['p50_seconds']} s, {under['p99_seconds']} s",
        "a record to each node, p50 and p99": "{p50_seconds} s, {p99_seconds} s".format(
            **spread["each_node"]
        ),
        "a record to everybody, p50 and p99": "{p50_seconds} s, {p99_seconds} s".format(
            **spread["everywhere"]
        ),
        "records that reached everybody": f"{spread['reached_everybody']} of {spread['issued']}",
        "well again after": f"{report['well_after_seconds']} s",
        "cost": f"{cost['cpu_seconds']} CPU-s for {cost['virtual_seconds']} virtual s",
    }
    cells = [
        f"<tr><th>{escape(name)}</th><td>{escape(said)}</td></tr>" for name, said in rows.items()
    ]
    return f"<table>{''.join(cells)}</table>"


def _events(report: dict[str, Any]) -> str:
    rows = [f"<li>{at:.1f} s: {escape(what)}</li>" for at, what in report["faults"]]
    return f"<details><summary>Faults ({len(rows)})</summary><ul>{''.join(rows)}</ul></details>"
