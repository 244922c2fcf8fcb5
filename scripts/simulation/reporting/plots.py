"""What a report shows as plots: the page has them as SVG, `--out` as PNG files too."""

from typing import Any

from scripts.plots.charts import bars, curve
from scripts.plots.drawing import Drawing


def plots(report: dict[str, Any]) -> dict[str, Drawing]:
    """By the name of the file."""
    nodes = report["nodes"].values()
    return {
        "propagation": curve(
            "Records: share of nodes reached, of those due",
            report["propagation"]["cdf"],
            "virtual seconds since the record was issued, logarithmic",
            log=True,
        ),
        "success": curve(
            "Requests: share answered rightly",
            report["requests"]["over_time"],
            "virtual second at which they began",
        ),
        "load": bars("Answers given", [one["served"] for one in nodes], "answers"),
        "messages": bars("Messages sent", [one["messages"] for one in nodes], "messages"),
        "bytes": bars("Bytes sent", [one["bytes"] for one in nodes], "bytes"),
    }
