"""The server: a listening socket, and as many connections as there may be."""

import errno
import socket
import ssl
from collections.abc import Awaitable, Callable

import structlog
import trio

from aigrid.node.gateway.http.connection import Connection
from aigrid.node.gateway.http.errors import error_answer
from aigrid.node.gateway.http.request import Request
from aigrid.node.gateway.http.response import Response
from aigrid.node.gateway.limits import GatewayLimits
from aigrid.node.gateway.openai.answers import error_body
from aigrid.protocol.errors import Code, LocalError, UsageError

_log = structlog.get_logger("aigrid.gateway")
_BACKLOG = 1024


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        UsageError: `port_in_use`, or `environment` when the address cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise _listen_error(error, host, port) from None
    return sock


def _listen_error(error: OSError, host: str, port: int) -> UsageError:
    if error.errno == errno.EADDRINUSE:
        return UsageError(f"Port {port} on {host} is already in use.", Code.PORT_IN_USE)
    return UsageError(f"The gateway cannot listen on {host}:{port}: {error.strerror}.")


class HttpServer:
    """Serves an app on a listening socket of ours; `now_seconds` is wall time.

    `refusal` makes the answer to what is no request, of a status and a reason.

    Attributes:
        connections: open connections, oldest first.
        quiet: of these, the ones without a request in progress, longest quiet first.
        counters: what the guards did.
        stopping: whether an answered connection is closed rather than kept.
        ended: set when nothing is served any more.
    """

    def __init__(
        self,
        app: Callable[[Request], Awaitable[None]],
        sock: socket.socket,
        limits: GatewayLimits,
        tls: ssl.SSLContext | None = None,
        *,
        refusal: Callable[[int, str], Response],
        now_seconds: Callable[[], int],
    ) -> None:
        self.refusal = refusal
        self.now_seconds = now_seconds
        self.tls = tls
        self.app = app
        self.limits = limits
        self.stopping = False
        self.connections: dict[Connection, None] = {}
        self.quiet: dict[Connection, None] = {}
        self.counters = {
            "connections_evicted": 0,
            "connections_refused": 0,
            "slow_readers_cut": 0,
            "connection_failures": 0,
        }
        self.ended = trio.Event()
        self._socket = sock
        self._accepting = trio.CancelScope()
        self._all = trio.CancelScope(shield=True)
        self._refusal = _refusal(limits)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until `stop_accepting` and the last connection's end, or `cut_off`.

        Deliberately deaf to cancellation from outside: the owner first says goodbye.
        """
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(self._socket))
        try:
            with self._all:
                async with trio.open_nursery() as nursery:
                    task_status.started()
                    with self._accepting:
                        # Closes the listener when it ends.
                        await trio.serve_listeners(
                            self._serve_one, [listener], handler_nursery=nursery
                        )
        finally:
            self.ended.set()

    def stop_accepting(self) -> None:
        """Close the listener and whatever has no request in progress."""
        self._accepting.cancel()
        self.stopping = True
        for connection in tuple(self.quiet):
            connection.give_up()

    def cut_off(self) -> None:
        """Close everything now."""
        self._all.cancel()

    async def _serve_one(self, stream: trio.SocketStream) -> None:
        if len(self.connections) >= self.limits.connections_max:
            if not self.quiet:
                self.counters["connections_refused"] += 1
                with trio.move_on_after(self.limits.farewell_seconds):
                    try:
                        if self.tls is None:  # else it would take a handshake to say so
                            await stream.send_all(self._refusal)
                    except trio.BrokenResourceError:
                        pass
                await trio.aclose_forcefully(stream)
                return
            self.counters["connections_evicted"] += 1
            oldest = next(iter(self.quiet))
            del self.quiet[oldest]
            oldest.give_up()
        try:
            await Connection(self, stream).run()
        except OSError:
            await trio.aclose_forcefully(stream)  # the client left before we looked
        except Exception as error:  # noqa: BLE001  boundary: one connection fails alone
            self.counters["connection_failures"] += 1
            _log.error("connection_failed", error=type(error).__name__)


def _refusal(limits: GatewayLimits) -> bytes:
    answer = error_answer(
        LocalError("The gateway serves as many connections as it may.", Code.BUSY),
        error_body,
        retry_after_seconds=limits.retry_after_seconds,
    )
    headers = "".join(f"{name}: {value}\r\n" for name, value in answer.headers.items())
    return (
        f"HTTP/1.1 503 \r\ncontent-type: application/json\r\n{headers}"
        f"content-length: {len(answer.body)}\r\nconnection: close\r\n\r\n"
    ).encode() + answer.body
