"""Bugs and missing defences in `--mode events`, where there are no services to break."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from scripts.simulation.attacks.defences import DEFENCES, listed
from scripts.simulation.events.run import Events
from scripts.simulation.options import Options
from scripts.simulation.plants import PLANTS, Swap, swapped

from aigrid.protocol.reconcile import Reconciler, Step

_reconcile = Reconciler.reconcile


def _forgets_what_it_needs(reconciler: Reconciler, message: bytes) -> Step:
    return _reconcile(reconciler, message)._replace(need_ids=[])


def _nobody_meets(_events: Events, *_: Any) -> None:
    """Neither the sampled nodes nor the others compare what they hold."""


IN_EVENTS_PLANTED: dict[str, Swap] = {
    "merge": PLANTS["merge"],
    "reconciliation": (Reconciler, "reconcile", _forgets_what_it_needs),
}
IN_EVENTS_WITHOUT: dict[str, tuple[Swap, ...]] = {
    "freshness": DEFENCES["freshness"].made(),
    "repair": ((Events, "_meet", _nobody_meets),),
}


@contextmanager
def broken(options: Options) -> Iterator[None]:
    """What the options plant and leave out is so meanwhile."""
    swaps = [IN_EVENTS_PLANTED[options.plant]] if options.plant else []
    for name in listed(options.without):
        swaps += IN_EVENTS_WITHOUT[name]
    with swapped(swaps):
        yield
