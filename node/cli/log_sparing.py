"""What others can make a node log, again and again, without pushing the rest out of the log."""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import structlog

from aigrid.metagraph.quota import TokenBuckets

BURST: Final = 20.0
PER_SECOND: Final = 0.2
KEYS_MAX: Final = 1024
# Loggers whose lines peers cause even where they name none.
_OF_PEERS: Final = "aigrid.node.network."


class Sparing:
    """A processor of structlog: of what peers cause, `BURST` lines of a kind, then a few a minute.

    A kind is an event and the peer that it names. The next line that is let through says in
    `left_out` how many were not. What comes from elsewhere always goes through.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets = TokenBuckets(per_second=PER_SECOND, burst=BURST, keys_max=KEYS_MAX)
        self._left_out: OrderedDict[str, int] = OrderedDict()

    def __call__(
        self, logger: logging.Logger, _method: str, entry: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        peer = entry.get("peer")
        if peer is None and not logger.name.startswith(_OF_PEERS):
            return entry
        kind = f"{entry.get('event')} {peer}"
        if self._buckets.take(kind, self._clock()) > 0:
            self._left_out[kind] = self._left_out.pop(kind, 0) + 1
            if len(self._left_out) > KEYS_MAX:
                self._left_out.popitem(last=False)
            raise structlog.DropEvent
        left_out = self._left_out.pop(kind, 0)
        if left_out:
            entry["left_out"] = left_out
        return entry
