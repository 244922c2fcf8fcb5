"""What is left of a request once it has ended: nothing, without the collector's help.

An error that a frame holds in a variable holds that frame through its traceback, and with it all
that the frame holds: a request of 16 MiB stays until the collector's oldest generation is looked
through, which in a busy node takes minutes.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def holders(size_bytes: int) -> list[str]:
    """What holds text or bytes of this size or more."""
    return [
        one.f_code.co_qualname if isinstance(one, FrameType) else type(one).__name__
        for one in gc.get_objects()
        if any(
            isinstance(part, str | bytes) and len(part) >= size_bytes
            for part in gc.get_referents(one)
        )
    ]
