"""Whether what is broken on purpose can show: a bug that is planted, a defence that is left out.

Before a run: some defences are touched by some attacks and faults alone. After it: code that never
ran showed nothing, and neither did a bug that broke no property.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from scripts.simulation.attacks.defences import DEFENCES, listed

if TYPE_CHECKING:
    from scripts.simulation.options import Options


def _attacked(kind: str) -> Callable[[Options], bool]:
    return lambda options: options.attackers > 0 and options.kind == kind


def _kept_waiting(options: Options) -> bool:
    faults = options.slow, options.crashes, options.churn, options.partition
    return any(faults) or _attacked("liar")(options)


TOUCHED: dict[str, tuple[str, Callable[[Options], bool]]] = {
    "audits": ("--audit", lambda options: options.audit > 0),
    "beginning": ("liars, or faults of holders", _kept_waiting),
    "unproven": (
        "sybils or --crashes",
        lambda options: options.crashes > 0 or _attacked("sybil")(options),
    ),
    "quotas": ("a flood", _attacked("flood")),
    "rates": ("a flood", _attacked("flood")),
    "clock": ("--skewed", lambda options: options.skewed > 0),
    "revocations": ("a replay", _attacked("replay")),
    "nonces": ("a replay", _attacked("replay")),
    "binding": ("a replay", _attacked("replay")),
    "receipts": ("a replay", _attacked("replay")),
    "chunks": ("poison", _attacked("poison")),
    "files": ("poison", _attacked("poison")),
    "faults": ("poison", _attacked("poison")),
    "silence": ("poison", _attacked("poison")),
    "names": ("squatters", _attacked("squat")),
    "unhinted": ("an eclipse", _attacked("eclipse")),
    "regained": (
        "--partition or --churn",
        lambda options: options.partition > 0 or options.churn > 0,
    ),
}
"""What these need, in words, and whether a run has it. Others have their occasion in any run."""


def idle(options: Options) -> Iterator[str]:
    """What is said of each defence left out that this run would never touch."""
    others = [name for name in DEFENCES if name not in TOUCHED or TOUCHED[name][1](options)]
    for name in listed(options.without):
        if name not in others:
            yield (
                f"--without {name} shows nothing without {TOUCHED[name][0]}; "
                f"this run touches {', '.join(others)}"
            )


def unshown(
    options: Options, ran: Counter[str], left_out: Counter[str], *, caught: bool
) -> Iterator[str]:
    """What was broken to no effect; `ran` and `left_out`: how often that code ran."""
    if options.plant and not caught:
        yield f"the bug `{options.plant}` showed nowhere; its code ran {ran.total()} times"
    for name in listed(options.without):
        swaps = DEFENCES[name].made()
        if not any(not callable(other) or left_out[attribute] for _, attribute, other in swaps):
            yield f"nothing came that `{name}`, which is left out, is for"
