"""What the engines for models behind a server share: counting, health, cancelling."""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from typing import Final, Protocol

from aigrid.engines.base import (
    Cancelled,
    CancelToken,
    Endpoint,
    EngineStats,
    Estimate,
    ModelSource,
    Probe,
    Served,
)
from aigrid.engines.devices import devices
from aigrid.engines.upstream.health import Health
from aigrid.engines.upstream.http import Bounds, Client
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.inference import Finish, InferChunk, InferRequest
from aigrid.protocol.limits import LIMITS, MIB, Limits
from aigrid.protocol.upstream import Upstream

MEMORY_BYTES: Final = 64 * MIB


class Backend(Protocol):
    """One model at one server."""

    def look(self) -> tuple[Served, int]:
        """What the server says of the model now, and how many requests wait there.

        Raises:
            EngineError: when it does not have it any more, or is not there.
        """

    def trial(self, bounds: Bounds) -> None:
        """Have the model answer a small request. Raises EngineError unless it does."""

    def answer(self, request: InferRequest, cancel: CancelToken) -> Iterator[InferChunk]:
        """Run a request. Raises Cancelled or EngineError."""


class UpstreamEngine(ABC):
    """Implements `ServerEngine` over a `Backend`."""

    name: str
    tasks: tuple[str, ...]

    def __init__(self, limits: Limits = LIMITS) -> None:
        self._limits = limits
        self._backend: Backend | None = None
        self._health: Health | None = None
        self._stats = EngineStats()
        self._lock = threading.Lock()

    @abstractmethod
    def connect(self, client: Client, source: ModelSource, upstream: Upstream) -> Backend:
        """The model at its server."""

    @abstractmethod
    def served(self, client: Client, model: str) -> tuple[Served, ...]:
        """See `ServerEngine.discover`."""

    def probe(self) -> Probe:
        found = version("aigrid-node")
        return Probe(self.name, found, (self.name,), self.tasks, devices(), network=True)

    def discover(self, endpoint: Endpoint, model: str) -> tuple[Served, ...]:
        return self.served(Client(endpoint, limits=self._limits), model)

    def estimate(self, source: ModelSource) -> Estimate:
        if source.format != self.name or source.upstream is None or source.endpoint is None:
            raise EngineError(
                f"engine {self.name} takes models of its format behind a server whose address "
                "this node knows",
                Code.UNSUPPORTED_MODEL,
            )
        return Estimate(MEMORY_BYTES, self._limits.upstream_slots)

    def load(self, source: ModelSource, *, threads: int) -> Estimate:
        """Ask the server once for real: a model that does not answer is not loaded."""
        estimate = self.estimate(source)
        upstream, endpoint = source.upstream, source.endpoint
        assert upstream is not None  # noqa: S101 -- estimate saw to it
        assert endpoint is not None  # noqa: S101
        client = Client(endpoint, limits=self._limits)
        self._backend = backend = self.connect(client, source, upstream)
        seconds = self._limits.upstream_load_seconds
        facts = self._ask(backend, upstream, seconds, trial=True)
        repeated = self._limits.upstream_probe_seconds

        def repeat(trial: bool) -> None:  # noqa: FBT001 -- see health.Trial
            self._ask(backend, upstream, repeated, trial=trial)

        self._health = Health(repeat, limits=self._limits)
        self._health.start()
        return replace(estimate, context_tokens=facts.context_tokens)

    def infer(self, request: InferRequest, cancel: CancelToken) -> Iterator[InferChunk]:
        backend, health = self._backend, self._health
        if backend is None or health is None:
            raise EngineError("no model is loaded")
        started = time.monotonic()
        self._count(requests=1, running=1)
        finish = Finish("cancelled")
        try:
            for chunk in () if cancel.cancelled else backend.answer(request, cancel):
                if isinstance(chunk, Finish):
                    finish = chunk
                health.answered()
                yield chunk
            if cancel.cancelled and finish.reason == "cancelled":
                yield finish
        except Cancelled:
            yield finish
        except EngineError as error:
            health.failed(error)
            raise
        finally:
            self._count(
                running=-1,
                tokens_in=finish.prompt_tokens,
                tokens_out=finish.completion_tokens,
                busy_seconds=time.monotonic() - started,
            )

    def stats(self) -> EngineStats:
        problem = self._health.problem if self._health is not None else ""
        return replace(self._stats, problem=problem)

    def unload(self) -> None:
        """Nothing to flush: the server goes on without us."""
        self._backend = None

    def _ask(self, backend: Backend, upstream: Upstream, seconds: float, *, trial: bool) -> Served:
        facts, waiting = backend.look()
        with self._lock:
            self._stats = replace(self._stats, waiting=waiting)
        said = (facts.version, facts.inputs, facts.outputs)
        if said != (upstream.version, upstream.inputs, upstream.outputs):
            raise EngineError(
                "the server has another version of the model than was published",
                Code.UNSUPPORTED_MODEL,
            )
        if trial:
            backend.trial(Bounds(seconds, seconds, self._limits.upstream_state_max_bytes))
        return facts

    def _count(
        self,
        *,
        requests: int = 0,
        running: int = 0,
        tokens_in: int = 0,
        tokens_out: int = 0,
        busy_seconds: float = 0.0,
    ) -> None:
        with self._lock:
            now = self._stats
            self._stats = replace(
                now,
                requests=now.requests + requests,
                running=now.running + running,
                tokens_in=now.tokens_in + tokens_in,
                tokens_out=now.tokens_out + tokens_out,
                busy_seconds=now.busy_seconds + busy_seconds,
            )
