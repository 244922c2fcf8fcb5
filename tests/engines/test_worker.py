"""What node and worker say to each other, and how a worker sends it."""

import gc
import socket
import threading
import weakref
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.engines.doubles import source

from aigrid.engines import ipc
from aigrid.engines.base import CancelToken, Estimate
from aigrid.engines.echo import EchoEngine
from aigrid.engines.jobs import Job, Outbox
from aigrid.engines.worker import Host
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.inference import Finish, InferChunk, InferRequest, TextChunk, TextRequest
from aigrid.protocol.limits import LIMITS

ORDERS: tuple[ipc.Order, ...] = (
    ipc.Examine("echo", "", ipc.source_to_wire(source(delay_ms=1))),
    ipc.Load(2, 5 * 2**20),
    ipc.Infer(7, TextRequest(prompt="hello", stop=("x",)), "request_7"),
    ipc.Cancel(7),
    ipc.Taken(7, 3),
    ipc.Ping(),
    ipc.Stop(),
    ipc.Tell(("echo",)),
)
REPORTS: tuple[ipc.Report, ...] = (
    ipc.Hello(1),
    ipc.Loaded(Estimate(5, 2), "landlock 7"),
    ipc.Chunk(7, TextChunk("x", (1, 2))),
    ipc.Ended(7, Finish("stop", 1, 2), 0.5, 1.5, 2.5),
    ipc.Failed(7, "busy", "later"),
)


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    cutter, bodies = ipc.FrameCutter(), []
    while data:
        size = sizes.pop() if sizes else len(data)
        bodies += cutter.feed(data[:size])
        data = data[size:]
    return bodies


@given(st.lists(st.integers(1, 40), max_size=60))
def test_messages_survive_however_the_stream_is_cut(sizes: list[int]) -> None:
    sent = b"".join(map(ipc.encode, ORDERS))
    assert tuple(ipc.decode_order(body) for body in cut(sent, list(sizes))) == ORDERS
    said = b"".join(map(ipc.encode, REPORTS))
    assert tuple(ipc.decode_report(body) for body in cut(said, list(sizes))) == REPORTS


@given(st.binary(max_size=200))
def test_random_bytes_raise_nothing_but_value_errors(data: bytes) -> None:
    try:
        ipc.decode_report(data)
    except ValueError:
        pass


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(ValueError):
        ipc.decode_report(b"\x91" * 5000)


@pytest.mark.parametrize(
    "beyond",
    [
        {"slots": LIMITS.slots_max + 1},
        {"slots": 0},
        {"memory_bytes": 2**60},
        {"memory_bytes": -1},
        {"host_bytes": 2**53},
        {"context_tokens": -1},
        {"device": "c" * 65},
        {"device": "\x1b[2J"},
        {"precision": "p" * 33},
    ],
)
def test_what_a_worker_says_of_itself_is_bounded(beyond: dict[str, Any]) -> None:
    estimate = replace(Estimate(5), **beyond)
    for report in (ipc.Examined(estimate), ipc.Loaded(estimate, "")):
        with pytest.raises(ValueError, match=r"\$\[1\]\."):
            ipc.decode_report(ipc.encode(report)[4:])
    for words in ("w" * 1000, "\x1b[2J"):
        with pytest.raises(ValueError, match=r"\$\[2\]"):
            ipc.decode_report(ipc.encode(ipc.Loaded(Estimate(5), words))[4:])


@pytest.mark.parametrize("said", [-0.001, 1.1e12, float("nan"), float("inf")])
def test_what_a_worker_says_of_times_is_bounded(said: float) -> None:
    for times in ((said, None, 1.0), (0.0, said, 1.0), (0.0, None, said)):
        with pytest.raises(ValueError, match=r"\$\[[345]\]"):
            ipc.decode_report(ipc.encode(ipc.Ended(1, Finish("stop"), *times))[4:])


@pytest.mark.parametrize("name", ["r" * 65, "\x1b[2J"])
def test_what_a_request_is_called_is_bounded(name: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        ipc.decode_order(ipc.encode(ipc.Infer(1, TextRequest(prompt="x"), name))[4:])


def test_a_job_tells_when_what_of_it_happened() -> None:
    now, finish = 5.0, Finish("stop", 1, 2)
    job = Job(now=lambda: now)
    now = 5.25
    assert job.ended(7, finish) == ipc.Ended(7, finish, 250, None, 250)  # nobody was free for it
    job.began()
    now = 5.75
    job.take()
    now = 6.0
    job.take()
    now = 6.5
    assert job.ended(7, finish) == ipc.Ended(7, finish, 250, 750, 1500)


def test_a_frame_that_is_too_large_is_refused_by_its_length_alone() -> None:
    with pytest.raises(ValueError, match="a frame of"):
        ipc.FrameCutter().feed((ipc.FRAME_MAX_BYTES + 1).to_bytes(4, "big"))


def test_a_source_survives_the_wire() -> None:
    made = source(delay_ms=1, flag=True)
    wire = msgspec.msgpack.decode(msgspec.msgpack.encode(ipc.source_to_wire(made)), type=ipc.Source)
    assert ipc.source_from_wire(wire) == made


def test_a_code_that_is_not_known_becomes_a_failure() -> None:
    assert ipc.engine_error(ipc.Failed(1, "nonsense", "x")).code is Code.ENGINE_FAILED


def test_frames_posted_by_many_threads_all_arrive_whole() -> None:
    ours, theirs = socket.socketpair()
    outbox = Outbox(theirs)

    def post(number: int) -> None:
        for index in range(200):
            outbox.post(ipc.encode(ipc.Chunk(number, TextChunk(str(index)))))

    threads = [threading.Thread(target=post, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    cutter = ipc.FrameCutter()
    got: dict[int, list[str]] = {n: [] for n in range(4)}
    while sum(map(len, got.values())) < 800:
        for body in cutter.feed(ours.recv(1 << 16)):
            report = ipc.decode_report(body)
            assert isinstance(report, ipc.Chunk)
            assert isinstance(report.chunk, TextChunk)
            got[report.id].append(report.chunk.text)
    for thread in threads:
        thread.join()
    assert all(texts == [str(n) for n in range(200)] for texts in got.values())
    ours.close()
    theirs.close()


def test_a_job_shows_signs_of_life_where_somebody_waits_for_them() -> None:
    now = 0.0
    job = Job(now=lambda: now)
    assert not job.owes_sign()
    now = LIMITS.sign_of_life_seconds
    assert job.owes_sign()
    assert not job.owes_sign()
    now = 2 * LIMITS.sign_of_life_seconds
    job.take()  # something was said meanwhile
    assert not job.owes_sign()
    signs = 0
    for _ in range(2 * ipc.CHUNK_WINDOW):
        now += LIMITS.sign_of_life_seconds
        signs += job.owes_sign()
    assert signs == ipc.CHUNK_WINDOW - 2  # nobody takes them, so nobody waits
    job.grant(1)
    assert job.owes_sign()


def due(job: Job, chunk: InferChunk) -> bool:
    """Whether frames leave with that of the chunk."""
    job.take()
    job.held.append(b"frame")
    if found := job.is_due(chunk):
        job.held.clear()
    return found


def test_what_nobody_reads_before_its_end_leaves_now_and_then() -> None:
    now, sign, word = 5.0, TextChunk(""), TextChunk("word")
    job = Job(whole=True, now=lambda: now)
    assert due(job, sign)
    assert due(job, word), "the first word tells when the answer began"
    assert not any(due(job, word) for _ in range(10))
    now += LIMITS.worker_hold_seconds
    assert due(job, word)
    in_a_row = [due(job, word) for _ in range(ipc.CHUNK_WINDOW)]
    assert sum(in_a_row) == 4, "the node has to hear of enough to grant more"
    read = Job(now=lambda: now)
    assert all(due(read, word) for _ in range(10))


def test_what_is_held_leaves_with_the_end_however_it_ends() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for engine, last in ((Wordy(), ipc.Ended), (Broken(), ipc.Failed)):
            host = Host(theirs, None)
            host._engine = engine
            job = host._jobs[1] = Job(whole=True)
            host._infer(1, TextRequest(prompt="x"), job)
            bodies = ipc.FrameCutter().feed(ours.recv(1 << 16))
            *chunks, end = map(ipc.decode_report, bodies)
            assert isinstance(end, last)
            assert chunks == [ipc.Chunk(1, TextChunk("one")), ipc.Chunk(1, TextChunk(" two"))]


class Wordy(EchoEngine):
    """Says two words at once."""

    def infer(self, request: InferRequest, cancel: CancelToken) -> Iterator[InferChunk]:
        yield TextChunk("one")
        yield TextChunk(" two")
        yield Finish("stop", 1, 2)


class Broken(Wordy):
    """Says them, and fails."""

    def infer(self, request: InferRequest, cancel: CancelToken) -> Iterator[InferChunk]:
        for chunk in super().infer(request, cancel):
            if isinstance(chunk, Finish):
                raise EngineError("the engine has a fault")
            yield chunk


def test_a_job_waits_for_credit_and_a_cancel_sets_it_free() -> None:
    job, passed = Job(), threading.Semaphore(0)

    def take() -> None:
        for _ in range(ipc.CHUNK_WINDOW + 4):
            job.take()
            passed.release()

    thread = threading.Thread(target=take)
    thread.start()
    for _ in range(ipc.CHUNK_WINDOW):
        assert passed.acquire(timeout=5)
    assert not passed.acquire(timeout=0.05)
    job.grant(1)
    assert passed.acquire(timeout=5)
    assert not passed.acquire(timeout=0.05)
    job.cancel.cancel()
    thread.join(timeout=5)
    assert not thread.is_alive()


class Hooked(EchoEngine):
    """Hooks something large on a request, as runtimes do that have to be told of a cancel."""

    held: ClassVar["list[weakref.ref[Hooked]]"] = []

    def infer(self, request: InferRequest, cancel: CancelToken) -> Iterator[InferChunk]:
        large = Hooked()
        self.held.append(weakref.ref(large))
        cancel.on_cancel(large.unload)
        yield Finish("stop")


def test_a_finished_request_leaves_nothing_to_the_garbage_collector() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        host = Host(theirs, None)
        host._engine = Hooked()
        gc.disable()
        try:
            host._infer(1, TextRequest(prompt="x"), Job())
            assert [one() for one in Hooked.held] == [None]
        finally:
            gc.enable()
