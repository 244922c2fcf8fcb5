"""The figures of a report in words, for the terminal and the page alike."""

from typing import Any

NOTHING = "-"
"""In place of a figure of nothing."""


def deliveries(propagation: dict[str, Any]) -> str:
    """How many of those that were due came, and what became of the others."""
    came, due = propagation["each_node"]["count"], propagation["due"]
    if not due:
        return NOTHING
    said = f"{came:,} of {due:,}"
    killed = propagation["killed_before"]
    if killed:
        said += f"; before {killed:,} the node was killed"
    if lacking := due - came - killed:
        said += f"; {lacking:,} of records that have not reached everybody"
    return said


def everywhere(propagation: dict[str, Any]) -> str:
    """How many records reached all that lived on, and why others did not."""
    issued, arrived = propagation["issued"], propagation["reached_everybody"]
    if not issued:
        return "none was issued under faults"
    said = f"{arrived} of {issued}, but for nodes killed before"
    outrun = propagation["replaced_before"]
    missing = issued - arrived - outrun
    if outrun:
        said += f"; {outrun} replaced before: only the newest of a key is sent"
    if missing:
        said += f"; {missing} not there when the run ended"
    return said


def both(quantiles: dict[str, Any]) -> str:
    """The middle and the 99th percentile."""
    return f"{seconds(quantiles['p50_seconds'])}, {seconds(quantiles['p99_seconds'])}"


def seconds(number: float | None) -> str:
    return NOTHING if number is None else f"{number} s"


def answered(requests: dict[str, Any]) -> str:
    if not requests["counted"]:
        return "no request was made"
    return f"{requests['answered']:.1%} of {requests['counted']}"


def wrong(requests: dict[str, Any]) -> str:
    return NOTHING if requests["wrong"] is None else f"{requests['wrong']:.1%}"


def well_after(report: dict[str, Any]) -> str:
    took = report["well_after_seconds"]
    return "not well again" if took is None else f"well again after {took} s"


def verdict(report: dict[str, Any]) -> str:
    """Of the properties that could have been broken."""
    if not report["well"]:
        return "a property did not hold"
    return "every property that was looked at held"


def unseen(report: dict[str, Any]) -> str:
    """Which were not; "" where there is none."""
    names = ", ".join(report["without_occasion"])
    return f"nothing came by which these could have been broken: {names}" if names else ""
