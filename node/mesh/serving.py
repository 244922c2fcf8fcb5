"""Inbound requests: what this node computes for others, and for itself."""

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog
import trio

from aigrid.node.mesh.pool import ModelPool
from aigrid.node.network.streams import Send
from aigrid.protocol.errors import Code, EngineError, NoCandidateError
from aigrid.protocol.inference import InferChunk, InferRequest, TextRequest, check_text
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.messages import Chunks, Infer, encode

log = structlog.get_logger()
Batches = AsyncIterator[tuple[InferChunk, ...]]


class Serving:
    """Runs requests on the pool. `offered(model)` says whether this node offers the model now.

    Attributes:
        running, served: requests now, and those that were answered to their end.
        failed: how often engines failed, and with what code.
    """

    def __init__(self, pool: ModelPool, *, offered: Callable[[str], bool]) -> None:
        self._pool = pool
        self._offered = offered
        self.running = 0
        self.served = 0
        self.failed: Counter[Code] = Counter()
        self.refusing = False
        self._idle = trio.Event()

    @asynccontextmanager
    async def infer(self, model: str, request: InferRequest) -> AsyncIterator[Batches]:
        """Lease the model and run one request; leaving early cancels it in the worker.

        Raises:
            NoCandidateError: this node does not offer the model, or is stopping.
            EngineError, AigridError(`busy`): from the pool or the engine.
        """
        if self.refusing:
            raise NoCandidateError(
                "this node is stopping",
                Code.SHUTTING_DOWN,
                retry_after_seconds=LIMITS.retry_after_seconds,
            )
        if isinstance(request, TextRequest):
            check_text(request)
        if not self._offered(model):
            raise NoCandidateError(f"this node does not offer {model}")
        self.running += 1
        try:
            async with (
                self._pool.lease(model) as worker,
                worker.infer(request) as batches,
            ):
                yield batches
                self.served += 1
        except EngineError as error:
            self.failed[error.code] += 1
            raise
        finally:
            self.running -= 1
            if not self.running:
                self._idle.set()

    async def drain(self) -> None:
        """Refuse new work and wait until nothing runs."""
        self.refusing = True
        while self.running:
            self._idle = trio.Event()
            await self._idle.wait()

    async def serve(self, peer_id: str, message: Infer, send: Send) -> None:
        """Answer an `Infer` of a peer with `Chunks`."""
        log.info("serving", peer=peer_id, request_id=message.request_id, model=message.model)
        async with self.infer(message.model, message.request) as batches:
            async for batch in batches:
                await send(encode(Chunks(batch)))
