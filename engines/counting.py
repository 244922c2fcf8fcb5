"""The bookkeeping that engines share: counting requests, ending those that are cancelled."""

import threading
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

from aigrid.engines.base import Cancelled, CancelToken, EngineStats
from aigrid.protocol.errors import EngineError
from aigrid.protocol.inference import Finish, InferChunk, InferRequest, TextChunk


class Tally:
    """Counters that several threads add to.

    A thread may come back in the middle: memory that is collected while it counts may hold an
    answer that was abandoned, whose end is counted then and there.
    """

    def __init__(self) -> None:
        self._counts: defaultdict[str, Any] = defaultdict(int)  # as `EngineStats` has them
        self._lock = threading.RLock()

    @property
    def stats(self) -> EngineStats:
        """As they are now."""
        with self._lock:
            return replace(EngineStats(), **self._counts)

    def add(self, **changes: float) -> None:
        with self._lock:
            for name, by in changes.items():
                self._counts[name] += by

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count a request and the time that it takes."""
        began = time.perf_counter()
        self.add(requests=1, running=1)
        try:
            yield
        finally:
            self.add(running=-1, busy_seconds=time.perf_counter() - began)


class CountedEngine(ABC):
    """The part of an `Engine` that is the same for most; `probe`, `estimate` and `load` are left.

    `answer` is called by `infer`, which counts, and ends the answer once its request is cancelled:
    between two chunks, or where `answer` raises `Cancelled`.
    """

    def __init__(self) -> None:
        self._tally = Tally()

    @abstractmethod
    def answer(self, request: InferRequest, cancel: CancelToken) -> Iterator[InferChunk]:
        """The chunks of an answer and, last, its `Finish`; a generator.

        Raises:
            EngineError: `invalid_request`, or why there is no answer.
            Cancelled: when `cancel` was set before the end.
        """

    def infer(self, request: InferRequest, cancel: CancelToken) -> Iterator[InferChunk]:
        """See `Engine.infer`."""
        finish, produced = Finish("cancelled"), 0
        # Closed here and now: whoever leaves in the middle lets go of the runtime, too.
        with self._tally.request(), closing(_begin(self, request, cancel)) as chunks:
            try:
                for chunk in chunks:
                    if isinstance(chunk, Finish):
                        finish = chunk
                        break
                    if cancel.cancelled:
                        break
                    produced += len(chunk.token_ids) if isinstance(chunk, TextChunk) else 0
                    yield chunk
                else:
                    if not cancel.cancelled:
                        raise EngineError("the engine ended an answer without Finish")
            except Cancelled:
                pass
            finally:
                told = max(produced, finish.completion_tokens)
                self._tally.add(tokens_in=finish.prompt_tokens, tokens_out=told)
            yield finish

    def stats(self) -> EngineStats:
        return self._tally.stats

    def unload(self) -> None:  # noqa: B027 -- most have nothing to do: the process goes
        """See `Engine.unload`."""


def _begin(
    engine: CountedEngine, request: InferRequest, cancel: CancelToken
) -> Generator[InferChunk, None, None]:
    if not cancel.cancelled:
        yield from engine.answer(request, cancel)
