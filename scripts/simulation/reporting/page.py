"""A report as one page that needs nothing else: figures, and plots as SVG."""

import json
from html import escape
from typing import Any

from scripts.plots.document import document, figure
from scripts.simulation.reporting.plots import plots
from scripts.simulation.reporting.wording import both, deliveries, everywhere


def page(report: dict[str, Any]) -> str:
    """HTML, with the report itself in it."""
    options = report["options"]
    state = "well" if report["well"] else "ill"
    said = "every property held" if report["well"] else "a property did not hold"
    drawn = "".join(map(figure, plots(report).values()))
    return document(
        options["title"] or "A simulation",
        [
            f"<p>{escape(options['about'])}</p>",
            f"<p class={state}><strong>{said}</strong></p>",
            f"<p><code>{escape(report['replay'])}</code></p>",
            f"<p><small>{escape(report['model'])}.",
            f"Commit {escape(report['commit'])}. Trace {report['trace_hash']}</small></p>",
            _violations(report),
            _figures(report),
            f"<div class=plots>{drawn}</div>",
            _events(report),
            "<details><summary>The report as JSON</summary><pre>",
            escape(json.dumps(report, indent=1)),
            "</pre></details>",
        ],
    )


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
        "an answer, p50 and p99": both(under),
        "a record to each node, of those that came, p50 and p99": both(spread["each_node"]),
        "a record to everybody, of those that did, p50 and p99": both(spread["everywhere"]),
        "deliveries of records": deliveries(spread),
        "records that reached everybody": everywhere(spread),
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
