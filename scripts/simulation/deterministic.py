"""Virtual time in which the same seed gives the same run, and what makes many nodes cheap enough.

Trio's clock alone is not enough: it shuffles tasks that are ready at the same time.
"""

import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Final, TypeVar

import trio
import trio.testing

import aigrid.metagraph.refusals
from aigrid.protocol.limits import LIMITS

T = TypeVar("T")
_VERIFIED_MAX: Final = 1 << 17


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
def verified_once() -> Iterator[None]:
    """What depends on a record's bytes alone is checked once for all nodes, not once by each."""
    module = aigrid.metagraph.refusals
    checked = vars(module)["verify_form_and_signature"]
    vars(module)["verify_form_and_signature"] = lru_cache(_VERIFIED_MAX)(checked)
    try:
        yield
    finally:
        vars(module)["verify_form_and_signature"] = checked
