"""A report as one page that needs nothing else: figures, and plots as SVG."""

import json
from html import escape
from typing import Any

from scripts.plots.document import document, figure
from scripts.simulation.reporting.plots import plots
from scripts.simulation.reporting.wording import (
    answered,
    both,
    deliveries,
    everywhere,
    unseen,
    verdict,
    well_after,
    wrong,
)


def page(report: dict[str, Any]) -> str:
    """HTML, with the report itself in it."""
    options = report["options"]
    state = "well" if report["well"] else "ill"
    drawn = "".join(map(figure, plots(report).values()))
    return document(
        options["title"] or "A simulation",
        [
            f"<p>{escape(options['about'])}</p>",
            f"<p class={state}><strong>{verdict(report)}</strong></p>",
            f"<p>{why}</p>" if (why := unseen(report)) else "",
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
        "answered under faults": answered(under),
        "of these wrong": wrong(under),
        "answered afterwards": answered(after),
        "of these wrong, too": wrong(after),
        "an answer, p50 and p99": both(under),
        "a record to each node, of those that came, p50 and p99": both(spread["each_node"]),
        "a record to everybody, of those that did, p50 and p99": both(spread["everywhere"]),
        "deliveries of records": deliveries(spread),
        "records that reached everybody": everywhere(spread),
        "after the faults": well_after(report),
        "cost": f"{cost['cpu_seconds']} CPU-s for {cost['virtual_seconds']} virtual s",
    }
    cells = [
        f"<tr><th>{escape(name)}</th><td>{escape(said)}</td></tr>" for name, said in rows.items()
    ]
    return f"<table>{''.join(cells)}</table>"


def _events(report: dict[str, Any]) -> str:
    rows = [f"<li>{at:.1f} s: {escape(what)}</li>" for at, what in report["faults"]]
    return f"<details><summary>Faults ({len(rows)})</summary><ul>{''.join(rows)}</ul></details>"
