"""The process that evaluates free SPARQL: it has nothing to lose, and can be killed at any time.

    python -P -m aigrid.metagraph.dataset_worker --fd N --memory-bytes M --seconds S

Before the first order it gives up what it needs no more: it can open neither files nor sockets
(RLIMIT_NOFILE is 0; the socket it has stays open), and its address space is bounded. Each query
gets a bound of CPU time. The node watches the wall clock, and has lowered the priority.
"""

import argparse
import contextlib
import ctypes
import math
import resource
import signal
import socket
import sys

from aigrid.metagraph import dataset_ipc as ipc
from aigrid.metagraph.dataset import Dataset
from aigrid.metagraph.query import ROWS, AnswerFormat
from aigrid.protocol.canonical import canonical
from aigrid.protocol.errors import AigridError

_PR_SET_PDEATHSIG = 1


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--memory-bytes", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    arguments = parser.parse_args()
    connection = socket.socket(fileno=arguments.fd)
    dataset = Dataset()
    rehearse(dataset)
    confine(arguments.memory_bytes)
    with contextlib.suppress(ConnectionError):  # the node is gone, and so are we
        serve(connection, dataset, arguments.seconds)
    return 0


def rehearse(dataset: Dataset) -> None:
    """Do everything once: what is imported at its first use could not be any more afterwards."""
    canonical({"a": [1, 0.5, "\u20ac"]})
    for answer_format in AnswerFormat:
        query = "CONSTRUCT WHERE { ?s ?p ?o } LIMIT 1"
        if answer_format in ROWS:
            query = "SELECT * { ?s ?p ?o } LIMIT 1"
        dataset.answer(query, answer_format)
    with contextlib.suppress(AigridError):
        dataset.answer("?", AnswerFormat.JSON)


def confine(memory_bytes: int) -> None:
    """Give up files, sockets, and memory beyond a bound; die with whoever started us."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    if memory_bytes and sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))


def serve(connection: socket.socket, dataset: Dataset, seconds: float) -> None:
    """Carry out orders until the connection ends."""
    connection.sendall(ipc.encode(ipc.Done()))
    while header := _exactly(connection, ipc.HEADER.size):
        body = _exactly(connection, ipc.length(header))
        connection.sendall(ipc.encode(_report(dataset, ipc.decode_order(body), seconds)))


def _report(dataset: Dataset, order: ipc.Order, seconds: float) -> ipc.Report:
    if isinstance(order, ipc.Update):
        _allow_cpu(None)
        dataset.remove(order.removed)
        dataset.add(order.added)
        return ipc.Done()
    _allow_cpu(seconds)
    try:
        return ipc.Answer(dataset.answer(order.query, order.answer_format))
    except AigridError as error:
        return ipc.Failed(error.code.value, error.message)


def _allow_cpu(seconds: float | None) -> None:
    """From now on, so much CPU time until the kernel ends this process."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = hard
    if seconds is not None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        soft = math.ceil(used.ru_utime + used.ru_stime + seconds) + 1
        soft = soft if hard == resource.RLIM_INFINITY else min(soft, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def _exactly(connection: socket.socket, size: int) -> bytes:
    """So many bytes; none at the end of the connection."""
    data = bytearray()
    while len(data) < size:
        received = connection.recv(size - len(data))
        if not received:
            return b""
        data += received
    return bytes(data)


if __name__ == "__main__":
    sys.exit(main())
