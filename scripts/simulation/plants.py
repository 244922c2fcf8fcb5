"""Bugs put into the node on purpose: a run catches them, and its line replays that."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aigrid.metagraph.store import Store
from aigrid.node.discovery.sync import RecordSync
from aigrid.node.mesh.routing.router import Router


def _merge(_store: Store, _key: Any) -> None:
    """Nothing is remembered of a key, so whatever comes last wins."""


async def _reconciliation(_sync: RecordSync, _peer_id: str, *, push: bool) -> int:
    """Nothing is ever compared."""
    del push
    return 0


async def _failover(_router: Router, *_arguments: Any, **_more: Any) -> None:
    """Nobody goes on with an answer that broke off."""


_PLANTS: dict[str, tuple[type, str, Any]] = {
    "merge": (Store, "_remembered", _merge),
    "reconciliation": (RecordSync, "sync", _reconciliation),
    "failover": (Router, "_go_on", _failover),
}


@contextmanager
def planted(name: str) -> Iterator[None]:
    """The bug `name` is there meanwhile; "" is none."""
    if not name:
        yield
        return
    place, attribute, bug = _PLANTS[name]
    right = getattr(place, attribute)
    setattr(place, attribute, bug)
    try:
        yield
    finally:
        setattr(place, attribute, right)
