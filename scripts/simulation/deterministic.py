"""Virtual time in which the same seed gives the same run, and what makes many nodes cheap enough.

Trio's clock alone is not enough: it shuffles tasks that are ready at the same time.
"""

import gc
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Final, TypeVar

import trio
import trio.testing

import aigrid.metagraph.refusals
import aigrid.metagraph.store
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.record import Record

T = TypeVar("T")
_VERIFIED_MAX: Final = 1 << 17
_COLLECTED_EVERY: Final = (200_000, 50, 1000)  # see gc.set_threshold


def run(seed: int, main: Callable[..., Awaitable[T]], *arguments: Any) -> T:
    """`trio.run` in virtual time. There must be no thread, socket or process in it."""
    core = vars(trio._core._run)  # noqa: SLF001 - the only way there is
    before = core["_ALLOW_DETERMINISTIC_SCHEDULING"], core["_r"].getstate(), random.getstate()
    core["_ALLOW_DETERMINISTIC_SCHEDULING"] = True
    core["_r"].seed(seed)
    random.seed(seed)
    try:
        return trio.run(main, *arguments, clock=trio.testing.MockClock(autojump_threshold=0))
    finally:
        core["_ALLOW_DETERMINISTIC_SCHEDULING"] = before[0]
        core["_r"].setstate(before[1])
        random.setstate(before[2])


@contextmanager
def cheap_nodes() -> Iterator[None]:
    """What many nodes of one process need not each do for themselves."""
    with _verified_once(), _rarely_collected():
        yield


@contextmanager
def _rarely_collected() -> Iterator[None]:
    """Look for cycles rarely: most of what many nodes hold lives as long as the run."""
    before = gc.get_threshold()
    gc.set_threshold(*_COLLECTED_EVERY)
    try:
        yield
    finally:
        gc.set_threshold(*before)


@contextmanager
def limits(**changed: float) -> Iterator[None]:
    """Other values in `LIMITS`, for nodes that are made meanwhile."""
    before = {name: getattr(LIMITS, name) for name in changed}
    for name, value in changed.items():
        object.__setattr__(LIMITS, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            object.__setattr__(LIMITS, name, value)


@contextmanager
def _verified_once() -> Iterator[None]:
    """What depends on a record's bytes alone is found out once for all nodes, and held once.

    That is whether it is sound, and what a stored one says.
    """
    checking, storing = vars(aigrid.metagraph.refusals), vars(aigrid.metagraph.store)
    verify, record_of = checking["verify_form_and_signature"], storing["record_of"]
    known: dict[str, Record] = {}

    @lru_cache(_VERIFIED_MAX)
    def verify_once(raw: bytes) -> Record:
        record: Record = verify(raw)
        return known.setdefault(record.content_id, record)

    def read_once(row: tuple[Any, ...]) -> Record:
        content_id = row[6]
        if content_id not in known:
            known[content_id] = record_of(row)
            if len(known) > _VERIFIED_MAX:
                del known[next(iter(known))]
        return known[content_id]

    checking["verify_form_and_signature"], storing["record_of"] = verify_once, read_once
    try:
        yield
    finally:
        checking["verify_form_and_signature"], storing["record_of"] = verify, record_of
