"""Which properties a run could not have broken: nothing came by which they would have been."""

from collections.abc import Iterator
from typing import Any

from scripts.simulation.checks.judging import rates
from scripts.simulation.checks.promptly import kept_from_all
from scripts.simulation.checks.properties import Watch
from scripts.simulation.options import Options
from scripts.simulation.workload import Request

COUNTED = (
    *("never_back", "genuine", "kept", "expired", "members_only", "gone", "heard", "bounded"),
    *("rated", "answered", "clock", "once", "weights", "found", "again", "avoided"),
)
"""Those of which each look is counted under `checks`."""


def counts(watch: Watch) -> dict[str, int]:
    """How often each was looked at, 0 included, and what attacks count."""
    return {name: watch.checks[name] for name in sorted({*COUNTED, *watch.checks})}


def without_occasion(options: Options, watch: Watch, requests: list[Request]) -> list[str]:
    """By name. What is always looked at, as `converged` is in the end, is not among them."""
    return sorted(
        {name for name in COUNTED if not watch.checks[name]} - set(_otherwise(watch))
        | set(_uncounted(options, watch, requests))
    )


def _otherwise(watch: Watch) -> Iterator[str]:
    if watch.receipted:  # none of them counts twice, whether or not somebody tries
        yield "once"


def _uncounted(options: Options, watch: Watch, requests: list[Request]) -> Iterator[str]:
    ended = [rates(requests, after=after) for after in (False, True)]
    seen: dict[str, Any] = {
        "attacked": watch.attacked,
        "served": any(count for _, _, count in ended),
        "right": any(success for success, _, _ in ended),
        "quick": ended[0][0] and (options.first_min or options.quick_min),
        "spread": any(
            said.due and not kept_from_all(options, after=after)
            for after, said in watch.promptly.items()
        ),
    }
    yield from (name for name, looked_at in seen.items() if not looked_at)
