"""The gateway as a service: the routes of all dialects behind one boundary on one socket."""

import socket
from collections.abc import Callable, Iterable

import trio

from aigrid.node.gateway import openapi
from aigrid.node.gateway.auth.authenticator import Authenticator
from aigrid.node.gateway.capabilities.endpoints import CapabilityEndpoints
from aigrid.node.gateway.capabilities.outcomes import Outcomes
from aigrid.node.gateway.core import GatewayCore
from aigrid.node.gateway.http.bodies import BodyReader
from aigrid.node.gateway.http.boundary import Boundary
from aigrid.node.gateway.http.errors import SpellError
from aigrid.node.gateway.http.guard import allowed_hosts, any_address, is_loopback, loopback_address
from aigrid.node.gateway.http.json_io import json_response
from aigrid.node.gateway.http.request import Request
from aigrid.node.gateway.http.response import Response
from aigrid.node.gateway.http.routes import Route, Router
from aigrid.node.gateway.http.server import HttpServer, listen
from aigrid.node.gateway.http.tls import ServerTls
from aigrid.node.gateway.limits import GatewayLimits
from aigrid.node.gateway.ollama.answers import error_body as ollama_error
from aigrid.node.gateway.ollama.endpoints import OllamaEndpoints
from aigrid.node.gateway.open_inference.answers import error_body as open_inference_error
from aigrid.node.gateway.open_inference.endpoints import OpenInferenceEndpoints
from aigrid.node.gateway.openai.answers import error_body
from aigrid.node.gateway.openai.endpoints import OpenAiEndpoints
from aigrid.node.gateway.repository import Repository
from aigrid.node.gateway.sparql import Queries, SparqlEndpoint
from aigrid.node.gateway.tasks import TaskEndpoints
from aigrid.node.observing.metrics import CONTENT_TYPE
from aigrid.node.observing.observer import Observer
from aigrid.protocol.errors import Code, LocalError
from aigrid.protocol.mesh_kinds import ModelBody

_SPELLED: dict[str, SpellError] = {"/api/": ollama_error, "/v2": open_inference_error}
"""By what a path begins with."""


class Gateway:
    """HTTP on a loopback address, or with TLS on any.

    `host` is an address or `localhost`; port 0 takes a free one; `names` are what else clients call
    this machine; `manifest` is what is said of a model id. `bind` may be called ahead of `run`, so
    that a taken port is known before anything else starts. Callers without a key are served on
    loopback only, whatever `auth` was told.

    Raises:
        UsageError: `unsafe_binding` from the constructor, `port_in_use` from `bind` and `run`.
    """

    def __init__(
        self,
        core: GatewayCore,
        host: str,
        port: int,
        *,
        auth: Authenticator,
        limits: GatewayLimits | None = None,
        queries: Queries | None = None,
        manifest: Callable[[str], ModelBody | None] = lambda _: None,
        repository: Repository | None = None,
        outcomes: Outcomes | None = None,
        tls: ServerTls | None = None,
        names: tuple[str, ...] = (),
        observer: Observer | None = None,
    ) -> None:
        self._core = core
        self._observer = observer or Observer()
        self._queries = queries
        self._manifest = manifest
        self._repository = repository
        self._outcomes = outcomes
        self._host = loopback_address(host) if tls is None else any_address(host)
        self._port = port
        self._limits = limits or GatewayLimits()
        self._tls = tls
        names = names if tls is None else (*names, *tls.names)
        self._hosts = allowed_hosts(self._host, names, self.scheme)
        self._auth = auth
        auth.keyless = auth.keyless and is_loopback(self._host)
        self._socket: socket.socket | None = None
        self._stop = trio.Event()
        self._server: HttpServer | None = None
        self._served: frozenset[tuple[str, str]] = frozenset()

    def bind(self) -> str:
        """Take the port; returns the address as HOST:PORT."""
        if self._socket is None:
            self._socket = listen(self._host, self._port)
            self._port = self._socket.getsockname()[1]
        return self.address

    def close(self) -> None:
        """Give the port back, if `run` was never called."""
        if self._socket is not None and self._server is None:
            self._socket.close()
            self._socket = None

    @property
    def scheme(self) -> str:
        """`http` or `https`."""
        return "http" if self._tls is None else "https"

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate; "" without TLS."""
        return "" if self._tls is None else self._tls.fingerprint

    @property
    def address(self) -> str:
        """HOST:PORT, the port being known once bound."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{host}:{self._port}"

    def counters(self) -> dict[str, int]:
        """What the guards did: evicted, refused and cut connections, refused callers."""
        counters = self._server.counters if self._server is not None else {}
        return {**counters, "unauthenticated": self._auth.refused}

    async def stop(self) -> None:
        """Refuse new work and drain; returns once nothing is served any more.

        That is at most the drain and farewell times away. Cancelling it leaves `run` at it.
        """
        self._stop.set()
        if self._server is not None:
            await self._server.ended.wait()

    async def run(self, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve; reports the address when ready.

        After `stop`, live answers get `drain_seconds` to finish. When cancelled, none: in both
        cases what is still live then ends with `shutting_down`, and a client that does not read
        is cut `farewell_seconds` later.
        """
        self.bind()
        if self._socket is None:
            raise RuntimeError("bind left no socket")
        app = self._app()
        server = self._server = HttpServer(
            app,
            self._socket,
            self._limits,
            None if self._tls is None else self._tls.context,
            refusal=app.refusal,
            now_seconds=self._core.now_seconds,
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run)
            task_status.started(self.address)
            drain_seconds = 0.0
            try:
                await self._stop.wait()
                drain_seconds = self._limits.drain_seconds
            finally:
                with trio.CancelScope(shield=True):
                    await self._end(server, drain_seconds)

    async def _end(self, server: HttpServer, drain_seconds: float) -> None:
        self._core.refuse_new()
        server.stop_accepting()
        with trio.move_on_after(drain_seconds):
            await self._core.drained()
        self._core.cut_off()
        with trio.move_on_after(self._limits.farewell_seconds):
            await server.ended.wait()
        server.cut_off()

    def _app(self) -> Boundary:
        bodies = BodyReader(self._limits)
        routes: list[Route] = [
            *OpenAiEndpoints(self._core, bodies, self._limits).routes(),
            *OllamaEndpoints(self._core, bodies, self._limits, manifest=self._manifest).routes(),
            *TaskEndpoints(self._core, bodies, self._limits).routes(),
            Route("/healthz", self._health, methods=["GET"]),
            Route("/aigrid/v1/status", self._status, methods=["GET"]),
            Route("/metrics", self._metrics, methods=["GET"]),
            Route(openapi.PATH, self._document, methods=["GET"]),
        ]
        if self._repository is not None:
            routes += OpenInferenceEndpoints(
                self._core,
                bodies,
                self._limits,
                manifest=self._manifest,
                repository=self._repository,
            ).routes()
        if self._outcomes is not None:
            routes += CapabilityEndpoints(self._core, self._outcomes, bodies, self._limits).routes()
        if self._queries is not None:
            routes += SparqlEndpoint(self._queries, self._limits).routes()
        self._served = served(routes)
        return Boundary(
            Router(routes),
            self._core,
            self._limits,
            self._hosts,
            auth=self._auth,
            dialect=_dialect,
            observer=self._observer,
        )

    async def _health(self, _request: Request) -> Response:
        if self._core.stopping:
            raise LocalError("This node is stopping.", Code.SHUTTING_DOWN)
        return json_response({"status": "ok"})

    async def _status(self, _request: Request) -> Response:
        return json_response(self._core.status())

    async def _metrics(self, _request: Request) -> Response:
        return Response(await self._observer.render(), headers={"content-type": CONTENT_TYPE})

    async def _document(self, _request: Request) -> Response:
        return json_response(openapi.document(self._served, _dialect, openapi.OPERATIONS))


def served(routes: Iterable[Route]) -> frozenset[tuple[str, str]]:
    """(method, path) of each, as the document writes them; HEAD goes with GET."""
    return frozenset(
        (method, route.path.replace(":path}", "}"))
        for route in routes
        for method in route.methods
        if method != "HEAD"
    )


def _dialect(path: str) -> SpellError:
    """How errors are spelled at a path; where nobody's dialect is spoken, as OpenAI's."""
    return next(
        (spell for prefix, spell in _SPELLED.items() if path.startswith(prefix)), error_body
    )
