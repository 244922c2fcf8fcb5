"""A request that waits for a model: what it is told, how long it waits, what it hears at the end.

Nobody who stops waiting stops a load: that is a task of the pool's own, and goes on for whoever
comes next.
"""

import math
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import trio

from aigrid.node.mesh.pool.progress import LoadProgress
from aigrid.protocol.errors import AigridError, Code, LocalError, NoCandidateError
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.messages import loading

T = TypeVar("T")
Tell = Callable[[str], Awaitable[None]]

IN_LINE: Final = "in line for a free slot"
SOUGHT: Final = "waiting for a node that loads it"
BROUGHT: Final = "the files are being fetched"
STARTED: Final = "it is being loaded"
_PERCENT = re.compile(r"(\d{1,3}) ?%")


class NotReadyError(LocalError):
    """Patience has ended before the model was there.

    Attributes:
        progress: `node` (PeerId), `text`, and `percent` where the text has one; for clients.
    """

    def __init__(
        self, message: str, code: Code, *, retry_after_seconds: float, progress: dict[str, Any]
    ) -> None:
        super().__init__(message, code, retry_after_seconds=retry_after_seconds)
        self.progress = progress


@dataclass(frozen=True, slots=True)
class Said:
    """What was said of a load, and when, by trio's clock."""

    node: str
    text: str
    at_seconds: float

    @property
    def percent(self) -> int | None:
        """How far it is by its own words, 0 to 100."""
        found = _PERCENT.findall(self.text)
        return min(100, int(found[-1])) if found else None

    def same_work(self, other: "Said") -> bool:
        """Whether both speak of one thing that advances."""
        return self.node == other.node and _PERCENT.sub("", self.text) == _PERCENT.sub(
            "", other.text
        )


def left_seconds(first: Said, last: Said) -> float | None:
    """How long the work may still take, going on as it did between two words; None: unknown."""
    begun, come = first.percent, last.percent
    if begun is None or come is None or come <= begun or not first.same_work(last):
        return None
    return (100 - come) * (last.at_seconds - first.at_seconds) / (come - begun)


class Waiting:
    """What one request knows of the load that it waits for.

    Whoever works on the request tells; whoever has made it reads, and ends it by `patience`.

    Attributes:
        keep_alive_seconds: how long the model should stay loaded afterwards; infinite: for good;
            None leaves it to the node.
        whole: whether nobody reads the answer before its end.
        said: the last word while a load is waited for; None when nothing is, or nobody has said.
        changed: set, and replaced, with every word.
        loading_seconds: how long loads were waited for, in all.
        engine_seconds: how long engines were waited for so far, loads and other nodes included.
        asked, attempts: the name of the model that was asked for last, and how often one was.
    """

    def __init__(self, keep_alive_seconds: float | None = None, *, whole: bool = False) -> None:
        self.keep_alive_seconds = keep_alive_seconds
        self.whole = whole
        self.engine_seconds = 0.0
        self.asked, self.attempts = "", 0
        self.said: Said | None = None
        self.changed = trio.Event()
        self.loading_seconds = 0.0
        self._first: Said | None = None
        self._told_at = -math.inf
        self._deadline = math.inf
        self._scope: trio.CancelScope | None = None

    def worked(self, seconds: float) -> None:
        """So long an engine was waited for, or somebody who serves the model."""
        self.engine_seconds += seconds

    def tell(self, node: str, text: str) -> None:
        """The model is on its way on `node` (a PeerId): from now on patience counts."""
        said = Said(node, text, trio.current_time())
        if self._first is None or not self._first.same_work(said):
            self._first = said
        self._say(said)

    def over(self) -> None:
        """No load is waited for any more: the answer is being made, or another node is asked."""
        if self.said is not None:
            self._say(None)

    @contextmanager
    def at(self, node: str) -> Iterator[Callable[[str], None]]:
        """While `node` is asked: takes its words, which are nothing any more once it has failed."""
        try:
            yield lambda text: self.tell(node, text)
        except AigridError:
            self.over()
            raise

    async def patiently(self, work: Awaitable[T], seconds: float) -> T:
        """Wait for `work`, but no longer than `seconds` where it is a load that is waited for.

        Raises what `work` raises, and:
            NotReadyError: patience has ended; what was at work on the answer is cancelled.
        """
        self._deadline = trio.current_time() + seconds
        with trio.CancelScope(
            deadline=math.inf if self.said is None else self._deadline
        ) as self._scope:
            try:
                return await work
            except NoCandidateError:  # who summons somebody meanwhile has the same patience
                if self.said is None or trio.current_time() < self._deadline:
                    raise
        raise self.problem()

    def problem(self) -> NotReadyError:
        """Why there is no answer yet, how far it is, and when to try again."""
        last, first = self.said, self._first
        if last is None or first is None:
            last = first = first or Said("", "it is on its way", trio.current_time())
        left = left_seconds(first, last)
        least, most = LIMITS.retry_after_seconds, LIMITS.loading_retry_max_seconds
        where = f" on {last.node}" if last.node else ""
        progress: dict[str, Any] = {"node": last.node, "text": last.text}
        if last.percent is not None:
            progress["percent"] = last.percent
        return NotReadyError(
            f"the model is not ready{where} yet: {last.text}",
            Code.BUSY if last.text == IN_LINE else Code.LOADING,
            retry_after_seconds=least if left is None else min(max(left, least), most),
            progress=progress,
        )

    def _say(self, said: Said | None) -> None:
        now = trio.current_time()
        if self.said is not None:
            self.loading_seconds += now - self._told_at
        self.said, self._told_at = said, now
        if self._scope is not None:
            self._scope.deadline = math.inf if said is None else self._deadline
        self.changed.set()
        self.changed = trio.Event()


async def telling(
    work: Awaitable[T],
    board: LoadProgress,
    model: str,
    tell: Tell,
    *,
    after_seconds: float = LIMITS.loading_seconds,
) -> T:
    """Wait for a lease of `model`; `tell` hears about once a second how far it is.

    The first word comes after `after_seconds`. Raises what `work` raises. What `tell`
    raises ends the telling alone: whoever is told and is gone will be missed elsewhere.
    """

    async def say() -> None:
        await trio.sleep(after_seconds)
        while True:
            await tell(loading(board.said.get(model, IN_LINE)).text)
            await trio.sleep(LIMITS.loading_seconds)

    return await beside(work, say)


async def following(work: Awaitable[T], waiting: Waiting, tell: Tell) -> T:
    """The same for whoever has made the request: `tell` hears each word once."""

    async def say() -> None:
        while True:
            changed = waiting.changed
            if waiting.said is not None:
                await tell(waiting.said.text)
            await changed.wait()

    return await beside(work, say)


async def beside(work: Awaitable[T], talk: Callable[[], Awaitable[None]]) -> T:
    """Wait for `work` while `talk` goes on, which may be without end. Raises what `work` raises."""
    failure: BaseException | None = None
    # Nothing but this scope ends the talk, so that one who is cancelled hears it from `work` alone.
    scope = trio.CancelScope(shield=True)

    async def aside() -> None:
        with scope:
            try:
                await talk()
            except AigridError:
                pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(aside)
        try:
            result = await work
        except (AigridError, trio.Cancelled) as error:
            failure = error
        finally:
            scope.cancel()
    try:
        if failure is not None:
            raise failure
    finally:
        del failure  # it holds this frame, and with it the whole request
    return result
