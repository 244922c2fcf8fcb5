"""What is left of a request once it has ended: nothing, without the collector's help.

An error that a frame holds in a variable holds that frame through its traceback, and with it all
that the frame holds: a request of 16 MiB stays until the collector's oldest generation is looked
through, which in a busy node takes minutes.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def without_collector(size_bytes: int) -> Iterator[Callable[[], list[str]]]:
    """Gives what names the holders of text or bytes of this size that were not there before."""
    gc.collect()
    before = {id(part) for _, part in _large(size_bytes)}
    gc.disable()
    try:
        yield lambda: [_name(one) for one, part in _large(size_bytes) if id(part) not in before]
    finally:
        gc.enable()


def _large(size_bytes: int) -> Iterator[tuple[object, object]]:
    for one in gc.get_objects():
        for part in gc.get_referents(one):
            # Its type alone: to be asked for `__class__` is more than some modules' objects bear.
            if issubclass(type(part), str | bytes) and len(part) >= size_bytes:
                yield one, part


def _name(one: object) -> str:
    return one.f_code.co_qualname if isinstance(one, FrameType) else type(one).__name__
