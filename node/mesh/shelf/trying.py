"""A trial request: a model that is to be offered has to load here and answer once."""

from collections.abc import Awaitable, Callable

import trio

from aigrid.node.mesh.pool.pool import ModelPool
from aigrid.node.mesh.pool.progress import LoadProgress
from aigrid.node.mesh.shelf.copying import Progress
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.inference import InferRequest
from aigrid.protocol.limits import LIMITS


class Trials:
    """Loads models of a pool and has each answer once."""

    def __init__(self, pool: ModelPool, loading: LoadProgress) -> None:
        self._pool = pool
        self._loading = loading

    async def have_answer(self, model: str, request: InferRequest, progress: Progress) -> None:
        """Load a model and have it answer; what is said of its loading goes to `progress`.

        Raises:
            EngineError: why it did not, `engine_timeout` where all of it takes longer than
                `trial_seconds`. A request that it does not take means that it is not what it is
                published as.
            LocalError: as `ModelPool.lease`.
        """
        failed: list[Exception] = []

        async def caught(work: Callable[[], Awaitable[None]]) -> None:
            try:
                await work()
            except Exception as error:  # noqa: BLE001 -- out of here, it would come in a group
                failed.append(error)
            nursery.cancel_scope.cancel()

        with trio.move_on_after(LIMITS.trial_seconds) as patience:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(caught, lambda: self._relay(model, progress))
                nursery.start_soon(caught, lambda: self._answers(model, request))
        if failed:
            raise failed[0]
        if patience.cancelled_caught:
            raise EngineError(
                f"the model did not answer a trial request within {LIMITS.trial_seconds:g} s",
                Code.ENGINE_TIMEOUT,
            )

    async def _relay(self, model: str, progress: Progress) -> None:
        async for text in self._loading.follow(model):
            await progress(f"loading for a trial request: {text}")

    async def _answers(self, model: str, request: InferRequest) -> None:
        async with self._pool.lease(model) as worker:
            try:
                async with worker.infer(request) as chunks:
                    async for _ in chunks:
                        pass
            except EngineError as error:
                refused = error.code in (Code.INVALID_REQUEST, Code.UNSUPPORTED_PARAMETER)
                raise EngineError(
                    f"the model did not answer a trial request: {error.message}",
                    Code.UNSUPPORTED_MODEL if refused else error.code,
                ) from None
