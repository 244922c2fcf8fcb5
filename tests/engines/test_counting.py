"""Counters of engines."""

import gc
import threading
from collections.abc import Iterator

from aigrid.engines.counting import Tally


def test_an_abandoned_answer_may_end_while_its_thread_counts() -> None:
    tally = Tally()

    def answer() -> Iterator[None]:
        with tally.request():
            yield

    def abandon() -> None:
        held: list[object] = [answer()]
        next(held[0])  # type: ignore[call-overload]
        held.append(held)  # only the collector finds it

    def count() -> None:
        abandon()
        with tally._lock:
            gc.collect()
            tally.add(tokens_out=1)

    thread = threading.Thread(target=count, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert (tally.stats.requests, tally.stats.running, tally.stats.tokens_out) == (1, 0, 1)
