"""One unbroken answer out of as many segments as it takes."""

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

import structlog
import trio

from aigrid.metagraph.index import Candidate
from aigrid.metagraph.selection import Ranking
from aigrid.node.mesh.routing.attempts import Opened
from aigrid.node.mesh.routing.delivered import Delivered
from aigrid.node.mesh.routing.verdict import ENGINE_DIED, may_go_on
from aigrid.protocol.errors import AigridError, Code, RemoteError
from aigrid.protocol.inference import Finish, InferChunk, TextRequest
from aigrid.protocol.limits import LIMITS

log = structlog.get_logger()
# Ask somebody to go on with a request, the candidate having failed; None where nobody does.
GoOn = Callable[[TextRequest, Candidate], Awaitable[Opened | None]]


class Unbroken:
    """Batches of an answer until `Finish`; when a segment fails, the next goes on where it broke.

    Enter it for as long as it is read: leaving ends the segment that is open.
    """

    def __init__(self, opened: Opened, go_on: GoOn) -> None:
        self._opened = opened
        self._go_on = go_on
        self._delivered = Delivered(opened.request)
        self._left = LIMITS.continuations_max
        self._deaths_left = LIMITS.continued_crashes_max
        self._broken: AigridError | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._opened.close(error)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[InferChunk, ...]:
        while True:
            try:
                batch = await self._next_batch()
            except AigridError as error:
                await self._continue(error)
                continue
            fresh = self._delivered.add(batch)
            if fresh:
                return fresh

    async def _next_batch(self) -> tuple[InferChunk, ...]:
        if self._broken is not None:
            error, self._broken = self._broken, None
            raise error
        batch = await anext(self._opened.segment)
        end = batch[-1] if batch else None
        if isinstance(end, Finish) and end.reason == "cancelled":
            # Nobody here has: whoever cancels leaves, and does not ask for more.
            self._broken = RemoteError(
                "the node gave the answer up",
                Code.CONNECTION_LOST,
                peer=self._opened.candidate.node,
            )
            return batch[:-1]
        return batch

    async def _continue(self, error: AigridError) -> None:
        """Have somebody else go on. Raises `error` where nobody can or does."""
        rest = self._delivered.rest()
        self._deaths_left -= error.code in ENGINE_DIED
        possible = rest is not None and self._left and self._deaths_left >= 0
        if rest is None or not possible or not may_go_on(error):
            raise error
        self._left -= 1
        failed, began_seconds = self._opened.candidate, trio.current_time()
        await self._opened.close(error)
        told = log.bind(model=failed.model, failed=failed.node, code=error.code.value)
        opened = await self._go_on(rest, failed)
        if opened is None:
            self._left = 0
            told.info("answer not continued", tokens=len(rest.continued_ids))
            raise error
        self._opened = opened
        self._delivered.resume()
        told.info(
            "answer continued",
            peer=opened.candidate.node,
            tokens=len(rest.continued_ids),
            seconds=round(trio.current_time() - began_seconds, 3),
        )


def others_first(ranking: Ranking, failed: Candidate) -> Ranking:
    """The node that failed comes after the others, but before those that have no room for it now.

    These are full, as it is not, or would have to fetch the model.
    """
    kept = sorted(
        ranking.kept,
        key=lambda one: (
            one.candidate.state == "can_fetch",
            one.full,
            one.candidate.node == failed.node,
        ),
    )
    return Ranking(tuple(kept), ranking.dropped)
