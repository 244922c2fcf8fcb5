"""Threads for the calls of a worker."""

import queue
import threading

from aigrid.engines.hands import Hands

SECONDS = 20.0


def test_one_call_after_another_is_made_by_the_same_thread() -> None:
    hands, made = Hands(8), queue.SimpleQueue[int]()
    seen = set()
    for _ in range(20):
        hands.submit(lambda: made.put(threading.get_ident()))
        seen.add(made.get(timeout=SECONDS))
        while not hands._idle:  # it says so just after the call
            pass
    assert len(seen) == 1


def test_calls_are_made_at_once_up_to_the_count_and_others_wait() -> None:
    hands, together, made = (
        Hands(3),
        threading.Barrier(3, timeout=SECONDS),
        queue.SimpleQueue[int](),
    )

    def call() -> None:
        together.wait()
        made.put(threading.get_ident())

    for _ in range(6):
        hands.submit(call)
    assert len({made.get(timeout=SECONDS) for _ in range(6)}) == 3
