"""HTTP to one server, within bounds of time and size.

Over the standard library's http.client, which parses and does nothing by itself: no redirects, no
proxies from the environment, no pool, no retries, no decompression. What is missing there, a bound
on the whole of a header or an answer in seconds and bytes, and a cancel from another thread, sits
beneath it, at the socket. Each request has a connection of its own: a cancel closes it, which is
what stops the work at the other end.

Messages of errors travel to whoever asked, on other machines: none names the server's address.
"""

import contextlib
import http.client
import io
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec

from aigrid.engines.base import Cancelled, CancelToken, Endpoint
from aigrid.engines.upstream.address import Location, locate, resolve
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.limits import KIB, LIMITS, Limits

_READ_BYTES: Final = 64 * KIB
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of one exchange: seconds without a byte, seconds in all, bytes of the answer's body."""

    silence_seconds: float
    seconds: float
    max_bytes: int


class Answer:
    """A response whose header has arrived."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self._response = response
        self.status = response.status

    def header(self, name: str) -> str:
        """The value of a header, or ""."""
        return self._response.getheader(name) or ""

    def pieces(self) -> Iterator[bytes]:
        """The body as it comes."""
        while data := self._response.read1(_READ_BYTES):
            yield data
        if self._response.length:  # of what the header promised
            raise http.client.IncompleteRead(b"", self._response.length)

    def read(self) -> bytes:
        """The whole body; its size is bounded beneath."""
        return b"".join(self.pieces())


class Client:
    """Speaks to one server; threads may share it."""

    def __init__(self, endpoint: Endpoint, *, limits: Limits = LIMITS) -> None:
        """Resolve the server's name. Raises EngineError: `usage` or `unreachable`."""
        self.location = locate(endpoint.url)
        self._limits = limits
        self._headers = _headers(self.location, endpoint.key)
        self._addresses = resolve(self.location)
        self._tls = ssl.create_default_context() if self.location.secure else None

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
        """Ask; leaving closes the connection.

        `path` is below that of the server's URL, with `from_root` below its `Location.root`.

        Raises:
            Cancelled: once `cancel` is set.
            EngineError: `unreachable`, `connection_lost`, `engine_timeout`, or `engine_failed` for
                what is no answer in HTTP or too large. Statuses are left to the caller.
        """
        token = cancel or CancelToken()
        target = (self.location.root if from_root else self.location.path) + path
        try:
            with contextlib.closing(self._connect(token)) as connection:
                token.on_cancel(lambda: _cut(connection))
                if token.cancelled:
                    raise Cancelled
                yield self._exchange(
                    connection,
                    bounds,
                    method=method,
                    target=target,
                    body=body,
                    headers={**self._headers, **(headers or {})},
                )
        except EngineError:
            if token.cancelled:
                raise Cancelled from None
            raise
        except (http.client.IncompleteRead, http.client.RemoteDisconnected, OSError) as error:
            if token.cancelled:
                raise Cancelled from None
            raise _broken(error) from None
        except (http.client.HTTPException, ValueError):
            # ValueError: the size of a chunk that is no number.
            if token.cancelled:
                raise Cancelled from None
            raise EngineError("the server's answer is not HTTP") from None

    def _exchange(
        self,
        connection: socket.socket,
        bounds: Bounds,
        *,
        method: str,
        target: str,
        body: bytes | None,
        headers: dict[str, str],
    ) -> Answer:
        wire = _Wire(connection, bounds, self._limits.upstream_headers_max_bytes)
        exchange = http.client.HTTPConnection("upstream")  # the name is not used: see _headers
        exchange.auto_open = 0
        exchange.sock = wire
        given = headers if body is None else {"Content-Type": "application/json", **headers}
        exchange.request(method, target, body, given)
        response = exchange.getresponse()
        wire.begin_body()
        if response.getheader("Content-Encoding", "identity") != "identity":
            raise EngineError("the server compresses its answers though it was asked not to")
        return Answer(response)

    def _connect(self, cancel: CancelToken) -> socket.socket:
        problem: OSError | None = None
        for address in self._addresses:
            if cancel.cancelled:
                raise Cancelled
            try:
                return self._connect_to(address)
            except ssl.SSLError as error:
                raise _untrusted(error) from None
            except OSError as error:
                problem = error
        why = "it does not answer" if isinstance(problem, TimeoutError) else _reason(problem)
        raise EngineError(f"the server cannot be reached: {why}", Code.UNREACHABLE)

    def _connect_to(self, address: str) -> socket.socket:
        seconds = self._limits.upstream_connect_seconds
        plain = socket.create_connection((address, self.location.port), seconds)
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is None:
                return plain
            return self._tls.wrap_socket(plain, server_hostname=self.location.host)
        except BaseException:
            plain.close()
            raise


class _Wire(io.RawIOBase):
    """A socket as http.client uses it: each read is held to the bounds of its part."""

    def __init__(self, connection: socket.socket, bounds: Bounds, header_max_bytes: int) -> None:
        self._connection = connection
        self._bounds = bounds
        self._until = time.monotonic() + bounds.seconds
        # A header may take as long as silence may last, and not a byte a minute.
        self._part_until = time.monotonic() + bounds.silence_seconds
        self._left_bytes = header_max_bytes + _READ_BYTES  # a read takes what is there

    def begin_body(self) -> None:
        self._part_until = self._until
        # Chunks are framed by a few bytes each; one for each byte would be six times as much.
        self._left_bytes = self._bounds.max_bytes + self._bounds.max_bytes // 2 + _READ_BYTES

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def sendall(self, data: Any) -> None:
        self._connection.settimeout(self._bounds.silence_seconds)
        self._connection.sendall(data)

    def readinto(self, buffer: Any) -> int:
        left = min(self._part_until, self._until) - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(min(left, self._bounds.silence_seconds))
        count = self._connection.recv_into(buffer)
        self._left_bytes -= count
        if self._left_bytes < 0:
            raise EngineError("the server's answer is too large")
        return count

    def close(self) -> None:
        """The connection is closed by whoever opened it."""


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
        "Connection": "close",
        "User-Agent": "aigrid-node",
    }
    return {**headers, "Authorization": f"Bearer {key}"} if key else headers


def _cut(connection: socket.socket) -> None:
    """Wake whoever reads or writes, from another thread; TLS says no farewell."""
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


def _broken(error: Exception) -> EngineError:
    if isinstance(error, TimeoutError):
        return EngineError("the server said nothing for too long", Code.ENGINE_TIMEOUT)
    return EngineError("the server ended the connection early", Code.CONNECTION_LOST)


def _untrusted(error: ssl.SSLError) -> EngineError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return EngineError(f"the server's certificate is not trusted: {error.verify_message}")
    return EngineError("the server does not speak TLS as it should")


def _reason(error: OSError | None) -> str:
    return (error.strerror if error is not None else None) or "no connection"
