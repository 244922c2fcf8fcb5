"""The command line's end of the control socket, and what both ends agree on. No trio here.

One connection carries one command. The client sends one line of JSON, `{"method", "params"}`; the
node answers with any number of lines `{"event": {...}}` and then one line, `{"result": {...}}` or
`{"error": {"code", "message"}}`. Closing the connection cancels the command.
"""

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aigrid.protocol.errors import (
    CODES,
    AigridError,
    Code,
    PolicyDeniedError,
    RemoteError,
    UsageError,
)
from aigrid.protocol.limits import LIMITS

SOCKET_FILE = "control.sock"
REQUEST_MAX_BYTES = LIMITS.frame_max_bytes
ANSWER_MAX_BYTES = LIMITS.body_max_bytes

_ADDRESS_MAX_BYTES = 100  # sockaddr_un holds 108 bytes on Linux, 104 on macOS, a NUL included
_RECEIVE_BYTES = 65536


@contextmanager
def socket_address(path: Path) -> Iterator[str]:
    """An address for `path` that fits into a sockaddr_un, valid inside the block.

    A path that is too long is reached through a descriptor of its directory (`/proc/self/fd/N`),
    which needs Linux; changing the working directory instead would be seen by every thread.

    Raises:
        UsageError: `data_directory_unusable`, where that is not possible.
        OSError: when there is no such directory.
    """
    if len(os.fsencode(path)) <= _ADDRESS_MAX_BYTES:
        yield str(path)
        return
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        directory = Path(f"/proc/self/fd/{descriptor}")
        if not directory.is_dir():
            raise UsageError(
                f"the path {path} is too long for a socket: choose a shorter data directory",
                Code.DATA_DIRECTORY_UNUSABLE,
            )
        yield str(directory / path.name)
    finally:
        os.close(descriptor)


def expected_error(error: BaseException) -> AigridError | None:
    """The AigridError inside nested exception groups, if nothing unexpected is beside it."""
    if isinstance(error, AigridError):
        return error
    if not isinstance(error, BaseExceptionGroup):
        return None
    found = [expected_error(inner) for inner in error.exceptions]
    return found[0] if all(inner is not None for inner in found) else None


class ControlClient:
    """Calls commands of the node whose control socket is `path`. Blocking."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def running(self) -> bool:
        """Whether a node answers there now."""
        try:
            self._connect().close()
        except UsageError as error:
            if error.code is Code.NOT_RUNNING:
                return False
            raise
        return True

    def call(
        self,
        method: str,
        params: dict[str, Any],
        on_event: Callable[[dict[str, Any]], None] | None = None,
    ) -> dict[str, Any]:
        """Run a command and wait for its result; `on_event` gets what it says meanwhile.

        Raises:
            UsageError: `not_running`, or `data_directory_unusable` for somebody else's socket.
            RemoteError: `connection_lost`, when the node stopped before it answered.
            AigridError: what the command ended with.
        """
        request = json.dumps({"method": method, "params": params}).encode("utf-8") + b"\n"
        if len(request) > REQUEST_MAX_BYTES:
            raise UsageError(f"the request is larger than {REQUEST_MAX_BYTES} bytes")
        with self._connect() as connection:
            try:
                connection.sendall(request)
            except OSError:
                pass  # refused early: what the node had to say can still be read
            for answer in _answers(connection):
                if "event" in answer and isinstance(answer["event"], dict):
                    if on_event is not None:
                        on_event(answer["event"])
                elif isinstance(answer.get("result"), dict):
                    return dict(answer["result"])
                else:
                    raise _error(answer.get("error"))
        raise RemoteError("the node stopped before it answered", Code.CONNECTION_LOST)

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with socket_address(self._path) as address:
                connection.connect(address)
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
            connection.close()
            raise UsageError(
                f"no node is running on {self._path.parent}: start one with `aigrid up`",
                Code.NOT_RUNNING,
            ) from None
        except OSError as error:
            connection.close()
            raise UsageError(
                f"cannot reach the node through {self._path}: {error.strerror}",
                Code.DATA_DIRECTORY_UNUSABLE,
            ) from None
        except UsageError:
            connection.close()
            raise
        return connection


def _answers(connection: socket.socket) -> Iterator[dict[str, Any]]:
    buffer = bytearray()
    while True:
        try:
            received = connection.recv(_RECEIVE_BYTES)
        except OSError:
            return
        if not received:
            return
        start = len(buffer)
        buffer += received
        while (end := buffer.find(b"\n", start)) >= 0:
            line = bytes(buffer[:end])
            del buffer[: end + 1]
            start = 0
            yield _object(line)
        if len(buffer) > ANSWER_MAX_BYTES:
            raise RemoteError("the node's answer is too large", Code.FRAME_TOO_LARGE)


def _object(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise RemoteError("the node's answer is not understood", Code.PROTOCOL_VIOLATION)
    return value


def _error(error: object) -> AigridError:
    """The error a node reported; of the class that fits, for those who tell them apart."""
    if not isinstance(error, dict):
        return RemoteError("the node's answer is not understood", Code.PROTOCOL_VIOLATION)
    message = str(error.get("message", "the command failed"))
    try:
        code = Code(str(error.get("code")))
    except ValueError:
        return AigridError(message, Code.INTERNAL)
    kinds: dict[int, type[AigridError]] = {2: UsageError, 3: PolicyDeniedError}
    return kinds.get(CODES[code].exit, AigridError)(message, code)
