"""Bugs put into the node on purpose: a run catches them, and its line replays that."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from aigrid.metagraph.store import Store
from aigrid.node.discovery.sync import RecordSync
from aigrid.node.mesh.routing.attempts import Attempts


def _merge(_store: Store, _key: Any) -> None:
    """Nothing is remembered of a key, so whatever comes last wins."""


async def _reconciliation(_sync: RecordSync, _peer_id: str, *, push: bool) -> int:
    """Nothing is ever compared."""
    del push
    return 0


_FIRST = Attempts.first


async def _failover(attempts: Attempts, ranking: Any, *arguments: Any, **more: Any) -> Any:
    """Only the best candidate is ever asked."""
    return await _FIRST(attempts, replace(ranking, kept=ranking.kept[:1]), *arguments, **more)


_PLANTS: dict[str, tuple[type, str, Any]] = {
    "merge": (Store, "_remembered", _merge),
    "reconciliation": (RecordSync, "sync", _reconciliation),
    "failover": (Attempts, "first", _failover),
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
