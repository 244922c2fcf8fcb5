"""HTTP to one server, within bounds of time and size.

Over the standard library's http.client, which parses and does nothing by itself: no redirects, no
proxies from the environment, no pool, no retries, no decompression. What is missing there, a bound
on the whole of a header or an answer in seconds and bytes, and a cancel from another thread, sits
beneath it, at the socket (`connections`). A connection is kept once an answer has come to its end;
a cancel closes it, which is what stops the work at the other end.

Messages of errors travel to whoever asked, on other machines: none names the server's address.
"""

import contextlib
import http.client
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec

from aigrid.engines.base import Cancelled, CancelToken, Endpoint
from aigrid.engines.upstream.address import Location, locate, resolve
from aigrid.engines.upstream.body import Body
from aigrid.engines.upstream.connections import READ_BYTES, Bounds, Connections, Line, Wire
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.limits import LIMITS, Limits

_END_SECONDS: Final = 0.005  # for the end of a body after its last word; else it is not waited for
_FAILED: Final = (EngineError, OSError, http.client.HTTPException, ValueError)
T = TypeVar("T")


class Answer:
    """A response whose header has arrived."""

    def __init__(self, response: http.client.HTTPResponse, wire: Wire) -> None:
        self._response = response
        self._wire = wire
        self._body = Body(response.length, chunked=bool(response.chunked))
        self._says_no_more = False
        self.status = response.status

    def header(self, name: str) -> str:
        """The value of a header, or ""."""
        return self._response.getheader(name) or ""

    def pieces(self) -> Iterator[bytes]:
        """The body as it comes, what came together in one piece."""
        body = self._body
        while not body.over:
            data = self._response.fp.read1(READ_BYTES)
            if not data:
                if body.ends_with_connection:
                    return
                raise http.client.IncompleteRead(b"")
            try:
                piece = body.feed(data)
            except ValueError:  # it broke off, and something else follows
                raise http.client.IncompleteRead(b"") from None
            if piece:
                yield piece

    def read(self) -> bytes:
        """The whole body; its size is bounded beneath."""
        return b"".join(self.pieces())

    def says_no_more(self) -> None:
        """What is left of the body holds nothing but its end."""
        self._says_no_more = True

    def is_whole(self) -> bool:
        """Whether it was read to its end, and another may follow on the connection."""
        if self._says_no_more and not self._body.over:
            self._wire.hurry(_END_SECONDS)
            with contextlib.suppress(*_FAILED):
                self.read()
        return self._body.is_clean and not self._response.will_close


class Client:
    """Speaks to one server; threads may share it."""

    def __init__(self, endpoint: Endpoint, *, limits: Limits = LIMITS) -> None:
        """Resolve the server's name. Raises EngineError: `usage` or `unreachable`."""
        self.location = locate(endpoint.url)
        self._limits = limits
        self._headers = _headers(self.location, endpoint.key)
        self._connections = Connections(self.location, resolve(self.location), limits)

    @contextmanager
    def open(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        bounds: Bounds,
        cancel: CancelToken | None = None,
        headers: dict[str, str] | None = None,
        from_root: bool = False,
    ) -> Iterator[Answer]:
        """Ask; leaving before the answer's end closes the connection.

        `path` is below that of the server's URL, with `from_root` below its `Location.root`.

        Raises:
            Cancelled: once `cancel` is set.
            EngineError: `unreachable`, `connection_lost`, `engine_timeout`, or `engine_failed` for
                what is no answer in HTTP or too large. Statuses are left to the caller.
        """
        token = cancel or CancelToken()
        given = {} if body is None else {"Content-Type": "application/json"}
        asked = _Asked(
            method,
            (self.location.root if from_root else self.location.path) + path,
            body,
            {**self._headers, **given, **(headers or {})},
            bounds,
        )
        try:
            line, answer = self._ask(asked, token)
            try:
                yield answer
            finally:
                if answer.is_whole() and line.release():
                    self._connections.keep(line)
                else:
                    line.connection.close()
        except _FAILED as error:
            if token.cancelled:
                raise Cancelled from None
            raise _failure(error) from None

    def _ask(self, asked: "_Asked", token: CancelToken) -> tuple[Line, Answer]:
        """Over a connection that is kept, or else a new one.

        One that is kept may have ended a moment ago: where nothing came of it the request was not
        heard, and is made again.
        """
        if (line := self._connections.take(token)) is not None:
            wire = self._wire(line, asked)
            try:
                return line, _exchange(wire, asked)
            except ConnectionError:
                line.connection.close()
                if wire.heard or token.cancelled:
                    raise
            except BaseException:
                line.connection.close()
                raise
        line = self._connections.make(token)
        try:
            return line, _exchange(self._wire(line, asked), asked)
        except BaseException:
            line.connection.close()
            raise

    def _wire(self, line: Line, asked: "_Asked") -> Wire:
        return Wire(line.connection, asked.bounds, self._limits.upstream_headers_max_bytes)


@dataclass(frozen=True, slots=True)
class _Asked:
    method: str
    target: str
    body: bytes | None
    headers: dict[str, str]
    bounds: Bounds


def _exchange(wire: Wire, asked: _Asked) -> Answer:
    exchange = http.client.HTTPConnection("upstream")  # the name is not used: see _headers
    exchange.auto_open = 0
    exchange.sock = wire
    exchange.request(asked.method, asked.target, asked.body, asked.headers)
    response = exchange.getresponse()
    wire.begin_body()
    if response.getheader("Content-Encoding", "identity") != "identity":
        raise EngineError("the server compresses its answers though it was asked not to")
    return Answer(response, wire)


def ask_json(
    client: Client,
    path: str,
    kind: type[T],
    body: bytes | None = None,
    *,
    bounds: Bounds,
    cancel: CancelToken | None = None,
    from_root: bool = False,
) -> T:
    """Ask and decode the answer; POST where there is a body.

    Raises:
        Cancelled: once `cancel` is set.
        EngineError: as `Client.open` and `refused` say, and `engine_failed` for an answer of
            another form.
    """
    method = "GET" if body is None else "POST"
    with client.open(
        method, path, body, bounds=bounds, cancel=cancel, from_root=from_root
    ) as answer:
        said = answer.read()
    return decoded(answer, said, kind, client.location)


def decoded(answer: Answer, said: bytes, kind: type[T], location: Location) -> T:
    """The body of an answer as `kind`. Raises EngineError as `ask_json` does."""
    if answer.status != http.client.OK:
        raise refused(answer, said, location)
    try:
        return msgspec.json.decode(said, type=kind)
    except (ValueError, RecursionError):
        raise EngineError("the server's answer is not what its interface promises") from None


def refused(answer: Answer, body: bytes, location: Location) -> EngineError:
    """The error for a status that is no success; `body` is what the server wrote about it."""
    said = _message(body)
    words = " ".join(said.replace(location.authority, "...").replace(location.host, "...").split())
    words = "".join(c for c in words if c.isprintable())[:200]
    why = f": {words}" if words else ""
    status = answer.status
    if status in (400, 413, 422):
        if "context length" in words.lower() or "context_length" in words.lower():
            return EngineError(f"the server says{why}", Code.CONTEXT_LENGTH_EXCEEDED)
        return EngineError(f"the server refuses the request{why}", Code.INVALID_REQUEST)
    if status in (401, 403):
        return EngineError("the server refuses the key it was given, or wants one")
    if status in (404, 405):
        return EngineError("the server does not have the model", Code.UNSUPPORTED_MODEL)
    if status in (429, 503):
        return EngineError("the server has no room for more requests", Code.BUSY)
    if status in (408, 504):
        return EngineError("the server took too long", Code.ENGINE_TIMEOUT)
    if 300 <= status < 400:
        return EngineError("the server sends us elsewhere; redirects are not followed")
    return EngineError(f"the server failed with status {status}")


def brief(limits: Limits) -> Bounds:
    """The bounds of questions about a server's state."""
    seconds = limits.upstream_read_seconds
    return Bounds(seconds, seconds, limits.upstream_state_max_bytes)


def _message(body: bytes) -> str:
    """What OpenAI's interface, the Open Inference Protocol or FastAPI call the reason."""
    try:
        said = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        return ""
    for name in ("error", "message", "detail"):
        if isinstance(said, dict):
            said = said.get(name, said)
    return said if isinstance(said, str) else ""


def _headers(location: Location, key: str) -> dict[str, str]:
    if not all(" " < c < "\x7f" for c in key):
        raise EngineError("the key holds characters that no key has", Code.USAGE)
    headers = {
        "Host": location.authority,
        "Accept-Encoding": "identity",
        "User-Agent": "aigrid-node",
    }
    return {**headers, "Authorization": f"Bearer {key}"} if key else headers


def _failure(error: Exception) -> EngineError:
    if isinstance(error, EngineError):
        return error
    if isinstance(error, TimeoutError):
        return EngineError("the server said nothing for too long", Code.ENGINE_TIMEOUT)
    if isinstance(error, http.client.IncompleteRead | OSError):  # RemoteDisconnected is one
        return EngineError("the server ended the connection early", Code.CONNECTION_LOST)
    return EngineError("the server's answer is not HTTP")
