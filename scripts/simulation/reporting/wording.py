"""The figures of a report in words, for the terminal and the page alike."""

from typing import Any


def deliveries(propagation: dict[str, Any]) -> str:
    """How many of those that were due came, and what became of the others."""
    came, due = propagation["each_node"]["count"], propagation["due"]
    said = f"{came:,} of {due:,}"
    if killed := propagation["killed_before"]:
        said += f"; before {killed:,} the node was killed"
    return said


def everywhere(propagation: dict[str, Any]) -> str:
    """How many records reached all that lived on, and why others did not."""
    issued, arrived = propagation["issued"], propagation["reached_everybody"]
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
    return f"{quantiles['p50_seconds']} s, {quantiles['p99_seconds']} s"
