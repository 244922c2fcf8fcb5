"""Bugs put into the node on purpose, to see that a run catches them: its line replays that."""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

import aigrid.protocol.record as record_module
from aigrid.metagraph.graph import Metagraph
from aigrid.metagraph.index import Index
from aigrid.metagraph.store import PutResult, Store
from aigrid.node.discovery.sync import RecordSync
from aigrid.node.expiry import Expiry
from aigrid.node.mesh.routing.router import Router
from aigrid.protocol.errors import VerificationError
from aigrid.protocol.kinds import Kind
from aigrid.protocol.limits import Limits
from aigrid.protocol.record import Record

Swap = tuple[Any, str, Any]
"""A module, a class or the limits, the name of an attribute, and what is there meanwhile."""


def merge_forgets(_store: Store, _key: Any) -> None:
    """Nothing is remembered of a key, so whatever comes last wins."""


async def nothing_is_compared(_sync: RecordSync, _peer_id: str, *, push: bool) -> int:
    del push
    return 0


async def _failover(_router: Router, *_arguments: Any, **_more: Any) -> None:
    """Nobody goes on with an answer that broke off."""


def _let_nothing_go(_expiry: Expiry) -> float:
    """What has ended stays where it is; seconds until this is called again."""
    return 1.0


_write = Store._write  # noqa: SLF001 - what a bug would be in


def _lose(store: Store, record: Record, now_ms: int, received_from: str | None, *rest: Any) -> None:
    """A capability of another is written, told of, and gone."""
    _write(store, record, now_ms, received_from, *rest)
    if received_from is not None and record.kind is Kind.CAPABILITY:
        store.delete([record])


_add = Index.add


def _show_no_capability(index: Index, record: Record, *, until_ms: int | None = None) -> None:
    """A capability is stored, and not answered with."""
    if record.kind is not Kind.CAPABILITY:
        _add(index, record, until_ms=until_ms)


def _any_signature(*_: object) -> bool:
    return True


_put = Metagraph._put  # noqa: SLF001 - as above


def _refuse_withdrawals(
    graph: Metagraph, record: Record, now_ms: int, received_from: str | None, *rest: Any
) -> PutResult:
    """What others take back stays; memberships apart, which are another matter."""
    if record.withdrawn and received_from is not None and record.kind is not Kind.MEMBERSHIP:
        raise VerificationError("it stays as it is")
    return _put(graph, record, now_ms, received_from, *rest)


_load = Metagraph._load  # noqa: SLF001 - as above


def _load_no_capability(graph: Metagraph, now_ms: int) -> None:
    """Whoever starts has lost the capabilities that it had."""
    graph.store.delete(graph.store.of_kind(Kind.CAPABILITY))
    _load(graph, now_ms)


PLANTS: dict[str, Swap] = {
    "merge": (Store, "_remembered", merge_forgets),
    "reconciliation": (RecordSync, "sync", nothing_is_compared),
    "failover": (Router, "_go_on", _failover),
    "expiry": (Expiry, "_expire", _let_nothing_go),
    "store": (Store, "_write", _lose),
    "index": (Index, "add", _show_no_capability),
    "signatures": (record_module, "verify_signature", _any_signature),
    "withdrawals": (Metagraph, "_put", _refuse_withdrawals),
    "restart": (Metagraph, "_load", _load_no_capability),
}


@contextmanager
def planted(name: str) -> Iterator[Counter[str]]:
    """The bug `name` is there meanwhile; "" is none."""
    with swapped([PLANTS[name]] if name else []) as ran:
        yield ran


@contextmanager
def swapped(swaps: Iterable[Swap]) -> Iterator[Counter[str]]:
    """Everything is as it was afterwards; by attribute, how often code that was put there ran."""
    ran = Counter[str]()
    with ExitStack() as undo:
        for place, attribute, other in swaps:
            put = object.__setattr__ if isinstance(place, Limits) else setattr  # it is frozen
            undo.callback(put, place, attribute, getattr(place, attribute))
            put(place, attribute, _counted(other, attribute, ran) if callable(other) else other)
        yield ran


def _counted(other: Any, attribute: str, ran: Counter[str]) -> Any:
    @wraps(other)
    def counted(*arguments: Any, **more: Any) -> Any:
        ran[attribute] += 1
        return other(*arguments, **more)

    return counted
