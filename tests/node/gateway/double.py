"""A mesh that answers from a script, and a gateway over it on a free port."""

import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import trio

from aigrid.metagraph.capabilities import default_taxonomy
from aigrid.metagraph.concepts import LiveConcepts
from aigrid.metagraph.database import Database
from aigrid.metagraph.preferences import ANY, Preferences
from aigrid.metagraph.selection import ANYTHING, Criteria, Explained
from aigrid.node.gateway.auth.authenticator import Authenticator
from aigrid.node.gateway.capabilities.grid import Known
from aigrid.node.gateway.capabilities.outcomes import Outcomes
from aigrid.node.gateway.core import GatewayCore
from aigrid.node.gateway.gateway import Gateway
from aigrid.node.gateway.http.tls import ServerTls
from aigrid.node.gateway.limits import GatewayLimits
from aigrid.node.gateway.repository import Repository
from aigrid.node.mesh.routing.answer import Answer, ModelView, Segment
from aigrid.node.mesh.routing.candidates import Sought
from aigrid.node.mesh.routing.waiting import Waiting
from aigrid.node.observing.observer import Observer
from aigrid.node.observing.trace import NO_TRACE, Trace
from aigrid.node.outcome.contracts import Contracts
from aigrid.node.policy.access import Access
from aigrid.node.policy.caller import Caller
from aigrid.node.policy.nonces import Nonces
from aigrid.protocol.canonical import content_id
from aigrid.protocol.errors import AigridError, RemoteError
from aigrid.protocol.inference import Finish, InferChunk, InferRequest, TextChunk
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.mesh_kinds import ModelBody

NODE = "12D3KooWSecondNode"
MODEL = "bafymodel"
NAME = "org/tiny:1"
RECEIPT = content_id(b"receipt")
BROKEN = "local-0123"  # where there is none
NOW_MS = 1_700_000_000_123

CONTRACTS = Contracts(LiveConcepts(default_taxonomy()), now_ms=lambda: NOW_MS)

Batch = tuple[InferChunk, ...] | AigridError | Exception | float | trio.Event


def text(*pieces: str) -> tuple[InferChunk, ...]:
    return tuple(TextChunk(piece, (index,)) for index, piece in enumerate(pieces))


HELLO: tuple[Batch, ...] = (text("Hel"), text("lo", " wörld"), (Finish("stop", 7, 3),))


def view(model: str = MODEL, name: str = NAME) -> ModelView:
    return ModelView(
        model, name, "did:key:z6Mk", ("text-generation",), (NODE,), "warm", 2048, NOW_MS
    )


@dataclass
class ScriptedMesh:
    """Answers every request with `script`: batches, errors to raise, seconds to wait (or inf).

    `firsts` are what the first requests are answered with instead, in that order. `loading` is said
    before it; `waiting` and `patience` are what it was asked with.
    """

    script: tuple[Batch, ...] = HELLO
    before_first: Batch | None = None
    firsts: list[tuple[Batch, ...]] = field(default_factory=list)
    views: tuple[ModelView, ...] = (view(),)
    asked: list[tuple[str, InferRequest, str]] = field(default_factory=list)
    callers: list[Caller] = field(default_factory=list)
    entered: trio.Event = field(default_factory=trio.Event)
    ended: list[str] = field(default_factory=list)
    left: trio.Event = field(default_factory=trio.Event)
    loading: tuple[str, ...] = ()
    waiting: list[Waiting] = field(default_factory=list)
    patience: list[float] = field(default_factory=list)
    preferred: list[tuple[tuple[str, ...], Preferences]] = field(default_factory=list)
    sought: list[tuple[str, Criteria]] = field(default_factory=list)

    def models(self) -> tuple[ModelView, ...]:
        return self.views

    async def explain(self, _sought: Sought) -> tuple[Explained, ...]:
        return (Explained("record", "manifest", NODE, MODEL, NAME, ("warm",), place=1),)

    def infer(
        self,
        model: str,
        request: InferRequest,
        *,
        request_id: str,
        caller: Caller,
        capability: str = "",
        fallbacks: tuple[str, ...] = (),
        preferences: Preferences = ANY,
        criteria: Criteria = ANYTHING,
        ended: list[Segment] | None = None,
        patience_seconds: float = LIMITS.patience_seconds,
        waiting: Waiting | None = None,
        trace: Trace = NO_TRACE,
    ) -> AbstractAsyncContextManager[Answer]:
        self.callers.append(caller)
        self.sought.append((capability, criteria))
        self.preferred.append((fallbacks, preferences))
        waiting = waiting or Waiting()
        self.waiting.append(waiting)
        self.patience.append(patience_seconds)
        for text in self.loading:
            waiting.tell(NODE, text)
        waiting.asked, waiting.attempts = NAME, 1
        return self._infer(model, request, request_id, [] if ended is None else ended)

    @asynccontextmanager
    async def _infer(
        self, model: str, request: InferRequest, request_id: str, ended: list[Segment]
    ) -> AsyncIterator[Answer]:
        self.asked.append((model, request, request_id))
        self.entered.set()
        try:
            if self.before_first is not None:
                if isinstance(self.before_first, RemoteError):
                    ended.append(Segment(NODE, MODEL, 0, BROKEN))
                await _play(self.before_first)
            segments: list[Segment] = []
            script = self.firsts.pop(0) if self.firsts else self.script
            chunks = self._chunks(script, segments)
            answer = Answer(request_id, MODEL, NAME, NODE, chunks, segments=segments)
            yield answer
            self.ended.append("clean")
        except trio.Cancelled:
            self.ended.append("cancelled")
            raise
        except BaseException as error:
            self.ended.append(type(error).__name__)
            raise
        finally:
            self.left.set()

    async def _chunks(
        self, script: tuple[Batch, ...], segments: list[Segment]
    ) -> AsyncIterator[tuple[InferChunk, ...]]:
        tokens = 0
        for batch in script:
            try:
                chunks = await _play(batch)
            except AigridError:
                segments.append(Segment(NODE, MODEL, tokens, BROKEN))
                raise
            if chunks is not None:
                tokens += sum(len(c.token_ids) for c in chunks if isinstance(c, TextChunk))
                yield chunks
        segments.append(Segment(NODE, MODEL, tokens, RECEIPT, receipted=True))

    def status(self) -> dict[str, Any]:
        return {"peer_id": NODE, "peers": 2}


async def _play(batch: Batch) -> tuple[InferChunk, ...] | None:
    if isinstance(batch, Exception):
        raise batch
    if isinstance(batch, float):
        await trio.sleep(batch)
        return None
    if isinstance(batch, trio.Event):
        await batch.wait()
        return None
    return batch


def tokens() -> Callable[[], str]:
    numbers: Iterator[int] = count(1)
    return lambda: f"req_{next(numbers):08d}"


def open_access() -> Access:
    """Keys that are nowhere but in memory, and a clock that stands."""
    database = Database(None)
    return Access(database, Nonces(database), random_bytes=os.urandom, now_ms=lambda: NOW_MS)


def authenticator(access: Access | None = None, *, keyless: bool = True) -> Authenticator:
    return Authenticator(access or open_access(), keyless=keyless, now_ms=lambda: NOW_MS)


def outcomes_over(core: GatewayCore, mesh: ScriptedMesh) -> Outcomes:
    """The capabilities that ship with the node."""
    return Outcomes(core, CONTRACTS, Known(mesh))


@asynccontextmanager
async def gateway(
    mesh: ScriptedMesh,
    *,
    access: Access | None = None,
    keyless: bool = True,
    tls: ServerTls | None = None,
    manifest: Callable[[str], ModelBody | None] = lambda _: None,
    repository: Repository | None = None,
    observer: Observer | None = None,
    misfit: Callable[[str, str, str], None] = lambda *_: None,
    **limits: Any,
) -> AsyncIterator[tuple[Gateway, str]]:
    """A running gateway and its HOST:PORT; stopped at the end."""
    core = GatewayCore(
        mesh,
        status=mesh.status,
        now_ms=lambda: NOW_MS,
        token=tokens(),
        contract=CONTRACTS.of,
        misfit=misfit,
    )
    served = Gateway(
        core,
        outcomes=outcomes_over(core, mesh),
        host="127.0.0.1",
        port=0,
        auth=authenticator(access, keyless=keyless),
        limits=GatewayLimits(**limits),
        tls=tls,
        manifest=manifest,
        repository=repository,
        observer=observer,
    )
    async with trio.open_nursery() as nursery:
        address = await nursery.start(served.run)
        yield served, address
        nursery.cancel_scope.cancel()


async def connect(address: str, data: bytes = b"") -> trio.SocketStream:
    """A raw connection that has sent `data`."""
    host, _, port = address.rpartition(":")
    stream = await trio.open_tcp_stream(host, int(port))
    if data:
        await stream.send_all(data)
    return stream


async def read_all(stream: trio.SocketStream) -> bytes:
    """Everything until the server closes; a reset counts as that."""
    received = bytearray()
    try:
        async for data in stream:
            received += data
    except trio.BrokenResourceError:
        pass
    return bytes(received)


async def read_until(stream: trio.SocketStream, mark: bytes) -> bytes:
    """Everything up to and a little past `mark`."""
    received = bytearray()
    while mark not in received:
        data = await stream.receive_some(65536)
        if not data:
            raise AssertionError(f"closed before {mark!r}: {bytes(received)!r}")
        received += data
    return bytes(received)


def head(method: str, path: str, *headers: str, host: str = "localhost") -> bytes:
    """A request header that asks for the connection to be closed."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


def chat_bytes(*headers: str, stream: bool = False, extra: str = "") -> bytes:
    """A complete chat request."""
    body = (
        f'{{"model":"{NAME}","messages":[{{"role":"user","content":"hi"}}],'
        f'"stream":{str(stream).lower()}{extra}}}'
    ).encode()
    return (
        head(
            "POST",
            "/v1/chat/completions",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            *headers,
        )
        + body
    )
