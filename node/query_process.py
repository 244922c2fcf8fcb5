"""The process that holds the RDF dataset, as the node sees it: one order at a time, and its end."""

import os
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import trio

from aigrid.metagraph import dataset_ipc as ipc
from aigrid.node.workers.environment import ENVIRONMENT_KEPT
from aigrid.protocol.errors import AigridError, Code, LocalError
from aigrid.protocol.limits import KIB, LIMITS, Limits

READ_BYTES: Final = 256 * KIB
# Than this node: routing goes first, also while a process that was lost is replaced.
_NICER, _NICEST = 10, 19


class DatasetLostError(Exception):
    """The process is gone: it died, took too long and was killed, or said what it must not."""


class DatasetProcess(Protocol):
    """A dataset somewhere it can be killed."""

    @property
    def ended(self) -> bool:
        """Whether it died by itself, or was killed by somebody else."""

    async def order(self, order: ipc.Order, *, seconds: float) -> ipc.Report:
        """Give an order and wait for its report, one at a time.

        Raises:
            DatasetLostError: there is none within `seconds`; nothing is left of the process then.
                Cancelling kills it likewise.
        """

    async def kill(self) -> None:
        """End it; returns once its memory is free again."""


StartDataset = Callable[[], Awaitable[DatasetProcess]]


class ChildProcess:
    """A `DatasetProcess` that is a child of this one."""

    def __init__(self, popen: subprocess.Popen[bytes], connection: socket.socket) -> None:
        connection.setblocking(False)  # noqa: FBT003 -- positional only
        self._popen = popen
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(connection))

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def ended(self) -> bool:
        return self._popen.poll() is not None

    async def order(self, order: ipc.Order, *, seconds: float) -> ipc.Report:
        await self._send(ipc.encode(order), seconds)
        return await self.report(seconds=seconds)

    async def report(self, *, seconds: float) -> ipc.Report:
        """What it says next."""
        try:
            with trio.fail_after(seconds):
                size = ipc.length(await self._exactly(ipc.HEADER.size))
                return ipc.decode_report(await self._exactly(size))
        except trio.TooSlowError:
            await self.kill()
            raise DatasetLostError(f"it took longer than {seconds:g} s") from None
        except (trio.BrokenResourceError, trio.ClosedResourceError, EOFError):
            await self.kill()
            raise DatasetLostError("it took too much memory or processor time") from None
        except ValueError as error:
            await self.kill()
            raise DatasetLostError(f"it broke the protocol: {error}") from None
        except trio.Cancelled:
            await self.kill()
            raise

    async def kill(self) -> None:
        with trio.CancelScope(shield=True):
            self._popen.kill()
            await self._stream.aclose()
            await trio.to_thread.run_sync(self._popen.wait)

    async def _send(self, frame: bytes, seconds: float) -> None:
        try:
            with trio.fail_after(seconds):
                await self._stream.send_all(frame)
        except (trio.TooSlowError, trio.BrokenResourceError, trio.ClosedResourceError):
            await self.kill()
            raise DatasetLostError("it does not take orders") from None
        except trio.Cancelled:
            await self.kill()
            raise

    async def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            received = await self._stream.receive_some(min(size - len(data), READ_BYTES))
            if not received:
                raise EOFError
            data += received
        return bytes(data)


async def start_child(limits: Limits = LIMITS) -> ChildProcess:
    """Start a process with an empty dataset.

    Raises:
        AigridError: it cannot be started.
    """
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-P", "-m", "aigrid.metagraph.dataset_worker"]
    command += ["--fd", str(theirs.fileno()), "--seconds", str(limits.query_seconds)]
    command += ["--memory-bytes", str(limits.dataset_memory_bytes)]
    try:
        # Not in a thread: see `workers.ProcessSpawner`.
        popen = subprocess.Popen(  # noqa: ASYNC220
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={name: value for name, value in os.environ.items() if name in ENVIRONMENT_KEPT},
            pass_fds=(theirs.fileno(),),
        )
        nice = min(_NICEST, os.getpriority(os.PRIO_PROCESS, 0) + _NICER)
        os.setpriority(os.PRIO_PROCESS, popen.pid, nice)
    except OSError as error:
        ours.close()
        raise LocalError(
            f"cannot start the query process: {error.strerror}", Code.ENVIRONMENT
        ) from None
    finally:
        theirs.close()
    process = ChildProcess(popen, ours)
    try:
        await process.report(seconds=limits.worker_start_seconds)
    except DatasetLostError as error:
        raise AigridError(f"The query process did not start: {error}.", Code.INTERNAL) from None
    return process
