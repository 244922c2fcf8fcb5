"""What the engines for models behind a server share: health, and what a server says."""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from typing import Final, Protocol

from aigrid.engines.base import (
    CancelToken,
    Endpoint,
    EngineStats,
    Estimate,
    ModelSource,
    Probe,
    Served,
    check_options,
)
from aigrid.engines.counting import CountedEngine
from aigrid.engines.devices import devices
from aigrid.engines.upstream.connections import Bounds
from aigrid.engines.upstream.health import Health
from aigrid.engines.upstream.http import Client
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.inference import InferChunk, InferRequest
from aigrid.protocol.limits import LIMITS, MIB, Limits
from aigrid.protocol.upstream import Upstream

MEMORY_BYTES: Final = 64 * MIB
REFUSES: Final = ("servers that have another version of a model than was published: it is another",)


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


class UpstreamEngine(CountedEngine):
    """Implements `ServerEngine` over a `Backend`."""

    name: str
    tasks: tuple[str, ...]
    takes: tuple[str, ...] = ()

    def __init__(self, limits: Limits = LIMITS) -> None:
        super().__init__()
        self._limits = limits
        self._backend: Backend | None = None
        self._health: Health | None = None
        self._waiting = 0

    @abstractmethod
    def connect(self, client: Client, source: ModelSource, upstream: Upstream) -> Backend:
        """The model at its server."""

    @abstractmethod
    def served(self, client: Client, model: str) -> tuple[Served, ...]:
        """See `ServerEngine.discover`."""

    def probe(self) -> Probe:
        found = version("aigrid-node")
        return Probe(
            self.name,
            found,
            (self.name,),
            self.tasks,
            devices(),
            network=True,
            refuses=REFUSES,
            takes=self.takes,
        )

    def discover(self, endpoint: Endpoint, model: str) -> tuple[Served, ...]:
        return self.served(Client(endpoint, limits=self._limits), model)

    def estimate(self, source: ModelSource) -> Estimate:
        check_options(source)
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

    def answer(self, request: InferRequest, cancel: CancelToken) -> Iterator[InferChunk]:
        backend, health = self._backend, self._health
        if backend is None or health is None:
            raise EngineError("no model is loaded")
        try:
            for chunk in backend.answer(request, cancel):
                health.answered()
                yield chunk
        except EngineError as error:
            health.failed(error)
            raise

    def stats(self) -> EngineStats:
        problem = self._health.problem if self._health is not None else ""
        return replace(self._tally.stats, waiting=self._waiting, problem=problem)

    def unload(self) -> None:
        """The server goes on without us."""
        if self._health is not None:
            self._health.stop()
        self._backend = None

    def _ask(self, backend: Backend, upstream: Upstream, seconds: float, *, trial: bool) -> Served:
        facts, waiting = backend.look()
        self._waiting = waiting
        said = (facts.version, facts.inputs, facts.outputs)
        if said != (upstream.version, upstream.inputs, upstream.outputs):
            raise EngineError(
                "the server has another version of the model than was published",
                Code.UNSUPPORTED_MODEL,
            )
        if trial:
            backend.trial(Bounds(seconds, seconds, self._limits.upstream_state_max_bytes))
        return facts
