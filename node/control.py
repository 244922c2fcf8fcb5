"""The CLI's way into a running node: a Unix socket of mode 0600 in the data directory.

The protocol is told in `control_client.py`. Whoever may open the socket is the node's operator:
there is no other authentication, so the mode is right from the moment the socket exists.
"""

import json
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

import structlog
import trio

from aigrid.node.control_client import (
    ANSWER_MAX_BYTES,
    REQUEST_MAX_BYTES,
    SOCKET_FILE,
    ControlClient,
    expected_error,
    socket_address,
)
from aigrid.node.settings.places import places_of
from aigrid.protocol.errors import AigridError, Code, InvalidRequestError, UsageError
from aigrid.protocol.limits import LIMITS

__all__ = ["SOCKET_FILE", "Commands", "ControlClient", "ControlServer", "Emit"]

_BACKLOG = 64
_RECEIVE_BYTES = 65536

log = structlog.get_logger()

Emit = Callable[[dict[str, Any]], Awaitable[None]]


class Commands(Protocol):
    """What can be asked of a node."""

    async def call(self, method: str, params: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """Run `method`; `emit` tells the caller something meanwhile.

        Cancelled when the caller goes away. Raises AigridError; an unknown method is `usage`.
        """


class ControlServer:
    """Serves `commands` on the socket `path`, one command for each connection."""

    def __init__(self, path: Path, commands: Commands) -> None:
        self._path = path
        self._commands = commands
        self._connections = trio.CapacityLimiter(LIMITS.control_connections_max)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; the socket is gone afterwards.

        Raises:
            UsageError: `already_running`, or `data_directory_unusable`.
        """
        listener = _bind(self._path)
        try:
            with trio.socket.from_stdlib_socket(listener) as sock:
                task_status.started()
                async with trio.open_nursery() as nursery:
                    while True:
                        await self._accept(sock, nursery)
        finally:
            self._path.unlink(missing_ok=True)

    async def _accept(self, sock: trio.socket.SocketType, nursery: trio.Nursery) -> None:
        try:
            connection, _ = await sock.accept()
        except OSError as error:  # out of descriptors, or the client gave up meanwhile
            log.warning("control_accept_failed", error=error.strerror)
            await trio.sleep(LIMITS.retry_after_seconds)
            return
        nursery.start_soon(self._serve, trio.SocketStream(connection))

    async def _serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            try:
                self._connections.acquire_on_behalf_of_nowait(stream)
            except trio.WouldBlock:
                busy = AigridError("too many commands are running on this node", Code.BUSY)
                await _send(stream, _failed(busy))
                return
            try:
                await self._answer(stream)
            except trio.BrokenResourceError:
                pass  # the caller went away
            finally:
                self._connections.release_on_behalf_of(stream)

    async def _answer(self, stream: trio.SocketStream) -> None:
        try:
            with trio.fail_after(LIMITS.rpc_timeout_seconds):
                request = await _receive_request(stream)
            if request is None:
                return
            method, params = request
        except trio.TooSlowError:
            await _send(stream, _failed(AigridError("no command came", Code.REQUEST_TIMEOUT)))
            return
        except AigridError as error:
            await _send(stream, _failed(error))
            return
        sending = trio.Lock()
        async with trio.open_nursery() as nursery:

            async def emit(event: dict[str, Any]) -> None:
                try:
                    async with sending:
                        await _send(stream, {"event": event})
                except trio.BrokenResourceError:
                    nursery.cancel_scope.cancel()  # the caller went away
                    await trio.lowlevel.checkpoint()

            nursery.start_soon(_cancel_when_gone, stream, nursery.cancel_scope)
            answer = await self._call(method, params, emit)
            try:
                await _send(stream, answer)
            except trio.BrokenResourceError:
                pass
            nursery.cancel_scope.cancel()

    async def _call(self, method: str, params: dict[str, Any], emit: Emit) -> dict[str, Any]:
        try:
            return {"result": await self._commands.call(method, params, emit)}
        except AigridError as error:
            return _failed(error)
        except Exception as error:  # noqa: BLE001  boundary: it ends that command only
            return _failed(expected_error(error) or _crashed(method, error))


def _bind(path: Path) -> socket.socket:
    """Listen on `path`, in place of the socket of a node that died."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        with socket_address(path) as address:
            # bind() applies the umask: there is no moment at which others could connect. Files
            # that another thread creates meanwhile come out stricter, never laxer.
            before = os.umask(0o177)
            try:
                listener.bind(address)
            finally:
                os.umask(before)
        listener.listen(_BACKLOG)
        listener.setblocking(False)  # noqa: FBT003 - the socket module takes it by position
    except OSError as error:
        listener.close()
        raise UsageError(
            f"cannot make the control socket {path}: {error.strerror}",
            Code.DATA_DIRECTORY_UNUSABLE,
        ) from None
    except UsageError:
        listener.close()
        raise
    return listener


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise UsageError(f"{path} is in the way and is not a socket", Code.DATA_DIRECTORY_UNUSABLE)
    if ControlClient(path).running():
        raise UsageError(f"a node is already running on {path.parent}", Code.ALREADY_RUNNING)
    path.unlink()


async def _receive_request(stream: trio.SocketStream) -> tuple[str, dict[str, Any]] | None:
    buffer = bytearray()
    while not buffer.endswith(b"\n"):
        received = await stream.receive_some(_RECEIVE_BYTES)
        if not received:
            return None
        buffer += received
        if len(buffer) > REQUEST_MAX_BYTES:
            raise InvalidRequestError("the request is too large", Code.BODY_TOO_LARGE)
    try:
        request = json.loads(buffer)
    except (ValueError, RecursionError):
        raise InvalidRequestError("the request is not JSON") from None
    if not isinstance(request, dict) or request.keys() != {"method", "params"}:
        raise InvalidRequestError("a request has exactly `method` and `params`")
    method, params = request["method"], request["params"]
    if not isinstance(method, str) or not isinstance(params, dict):
        raise InvalidRequestError("`method` is a string and `params` an object")
    return method, params


async def _cancel_when_gone(stream: trio.SocketStream, scope: trio.CancelScope) -> None:
    """Cancel the command once its caller closes; a second request is not expected either."""
    try:
        await stream.receive_some(1)
    except trio.BrokenResourceError:
        pass
    scope.cancel()


async def _send(stream: trio.SocketStream, answer: dict[str, Any]) -> None:
    line = json.dumps(answer, separators=(",", ":"), default=str).encode("utf-8") + b"\n"
    if len(line) > ANSWER_MAX_BYTES:
        too_large = AigridError("the answer is too large", Code.FRAME_TOO_LARGE)
        line = json.dumps(_failed(too_large)).encode("utf-8") + b"\n"
    await stream.send_all(line)


def _crashed(method: str, error: Exception) -> AigridError:
    log.error("control_command_failed", method=method, **places_of(error))
    return AigridError(f"the command {method} failed inside the node: see its log", Code.INTERNAL)


def _failed(error: AigridError) -> dict[str, Any]:
    return {"error": {"code": error.code.value, "message": error.message}}
