"""SPARQL in a process that can be killed: it follows the metagraph, and survives what it is asked."""

import json
import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from scripts.hostile_queries import EXPENSIVE, reaching
from tests.metagraph.world import (
    ANN,
    AUTHORITY,
    BEN,
    MINUTE_MS,
    NOW,
    availability,
    manifest,
    membership,
    node_record,
    offer,
    with_members,
    withdrawal,
)
from tests.patience import PATIENCE_SECONDS

from aigrid.metagraph import dataset_ipc as ipc
from aigrid.metagraph.graph import Metagraph
from aigrid.metagraph.query import AnswerFormat
from aigrid.node.query_process import ChildProcess, DatasetLostError, start_child
from aigrid.node.querying import Querying
from aigrid.protocol.errors import AigridError, Code
from aigrid.protocol.kinds import Kind
from aigrid.protocol.limits import MIB, Limits
from aigrid.protocol.record import Record

# The first query waits for a process that imports; under load that takes seconds.
QUICK = Limits(query_seconds=1.0, dataset_memory_bytes=1024 * MIB)
RECORDS = (
    "SELECT ?id WHERE { GRAPH <https://w3id.org/aigrid/ns#provenance>"
    " { ?g <http://purl.org/dc/terms/identifier> ?id } }"
)


class Clock:
    now = NOW


@asynccontextmanager
async def querying(
    graph: Metagraph, *, limits: Limits = QUICK, start: Any = None
) -> AsyncIterator[Querying]:
    service = Querying(
        graph,
        start=start or partial(start_child, limits),
        now_ms=lambda: Clock.now,
        limits=limits,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(service.run)
        yield service
        nursery.cancel_scope.cancel()


@pytest.fixture(autouse=True)
def clock():
    Clock.now = NOW


async def ids(service: Querying) -> set[str]:
    answer = await service.query(RECORDS, [AnswerFormat.CSV])
    return set(answer.body.decode().split()[1:])


def believed(graph: Metagraph) -> set[str]:
    return {record.content_id for record in graph.live_records(Clock.now)}


def take(graph: Metagraph, *records: Record) -> None:
    changed, refused = graph.ingest_batch(
        [record.raw for record in records], now_ms=Clock.now, received_from=None
    )
    assert len(changed) == len(records), refused


async def test_the_dataset_follows_what_is_believed():
    graph = with_members(ANN)
    about = manifest(ANN)
    take(graph, node_record(ANN))
    async with querying(graph) as service:
        assert not service.running
        assert await ids(service) == believed(graph)
        take(graph, about, availability(ANN, offer(about)))
        assert await ids(service) == believed(graph)
        assert len(believed(graph)) == 4
        take(graph, availability(ANN, start=NOW + 1))
        take(graph, withdrawal(Kind.MODEL, about.subject, ANN, NOW + 1, 100 * MINUTE_MS))
        assert await ids(service) == believed(graph)
        assert len(believed(graph)) == 3
        Clock.now = NOW + 6 * MINUTE_MS  # the offers are over, and nobody has called `expire`
        assert await ids(service) == believed(graph)
        assert len(believed(graph)) == 2


async def test_what_a_member_said_goes_and_comes_with_the_membership():
    graph = with_members(ANN)
    take(graph, manifest(ANN))
    async with querying(graph) as service:
        assert len(await ids(service)) == 2
        take(graph, withdrawal(Kind.MEMBERSHIP, ANN.did, AUTHORITY, NOW + 1, 60 * MINUTE_MS))
        assert await ids(service) == set()
        take(graph, membership(ANN, NOW + 2), membership(BEN, life=MINUTE_MS))
        take(graph, manifest(BEN))
        assert await ids(service) == believed(graph)
        assert len(believed(graph)) == 4
        Clock.now = NOW + MINUTE_MS
        assert await ids(service) == believed(graph)
        assert len(believed(graph)) == 2
        graph.switch_grid(BEN.did)
        assert await ids(service) == set()


@pytest.mark.parametrize("what", list(EXPENSIVE))
async def test_an_expensive_query_ends_within_its_limit_and_the_next_is_answered(what):
    graph = with_members(ANN)
    take(graph, node_record(ANN), manifest(ANN))
    async with querying(graph) as service:
        expected = await ids(service)
        start = time.perf_counter()
        with pytest.raises(AigridError) as caught:
            await service.query(EXPENSIVE[what])
        took = time.perf_counter() - start
        assert caught.value.code in (Code.QUERY_TOO_EXPENSIVE, Code.QUERY_MALFORMED)
        assert took < QUICK.query_seconds + 2
        assert await ids(service) == expected
        assert service.replaced == 1


@pytest.mark.parametrize("what", list(reaching()))
async def test_a_query_that_reaches_further_is_refused_before_there_is_a_process(what):
    async def never() -> Any:
        raise AssertionError(what)

    async with querying(with_members(ANN), start=never) as service:
        with pytest.raises(AigridError) as caught:
            await service.query(reaching()[what])
        assert caught.value.code is Code.QUERY_REFUSED


def alive(process: ChildProcess) -> bool:
    return Path(f"/proc/{process.pid}").exists()


def open_files(process: ChildProcess) -> int:
    return len(list(Path(f"/proc/{process.pid}/fd").iterdir()))


async def child() -> ChildProcess:
    return await start_child(QUICK)


async def test_the_process_itself_can_reach_neither_network_nor_files():
    """Were the check on the text to miss something."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        process = await child()
        try:
            texts = reaching(url=f"http://127.0.0.1:{port}/")
            for what in ("a service", "a file"):
                order = ipc.Ask(texts[what], AnswerFormat.CSV)
                report = await process.order(order, seconds=5)
                assert not isinstance(report, ipc.Answer) or b"root:" not in report.body
            with pytest.raises(TimeoutError):
                server.accept()
            assert open_files(process) <= 5
        finally:
            await process.kill()


@pytest.mark.parametrize(("ours", "its"), [(0, 10), (12, 19)])
async def test_the_process_gives_way_to_the_node_however_nice_that_is(monkeypatch, ours, its):
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpriority", lambda *_: ours)
        process = await child()
    try:
        started_at = os.getpriority(os.PRIO_PROCESS, 0)
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == its >= started_at
    finally:
        await process.kill()


@pytest.mark.parametrize("what", ["order", "frame"])
async def test_a_process_that_breaks_the_protocol_is_gone(what):
    process = await child()
    if what == "order":
        await process._stream.send_all(ipc.HEADER.pack(3) + b"\xc1\xc1\xc1")
    else:
        await process._stream.send_all(ipc.HEADER.pack(2**31))
    with pytest.raises(DatasetLostError):
        await process.report(seconds=5)
    assert not alive(process)


async def test_it_dies_with_its_connection_and_leaves_no_zombie():
    process = await child()
    process._stream.socket.shutdown(socket.SHUT_WR)
    with trio.fail_after(PATIENCE_SECONDS):
        with pytest.raises(DatasetLostError):
            await process.report(seconds=5)
    assert not alive(process)


async def test_a_cancelled_query_costs_the_process_and_nothing_else():
    async with querying(with_members(ANN), limits=Limits(query_seconds=30.0)) as service:
        expected = await ids(service)
        with trio.move_on_after(0.2) as scope:
            await service.query(EXPENSIVE["cartesian product"])
        assert scope.cancelled_caught
        assert await ids(service) == expected
        assert service.replaced == 1


async def test_only_so_many_queries_wait():
    limits = Limits(query_seconds=0.5, queries_waiting_max=2)
    codes: list[Code] = []

    async def ask(service: Querying) -> None:
        try:
            await service.query(EXPENSIVE["cartesian product"])
        except AigridError as error:
            codes.append(error.code)

    async with querying(with_members(ANN), limits=limits) as service:
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(ask, service)
    assert sorted(codes) == sorted([Code.BUSY] * 2 + [Code.QUERY_TOO_EXPENSIVE] * 2)


async def test_an_idle_process_is_ended():
    limits = Limits(dataset_idle_seconds=0.2)
    async with querying(with_members(ANN), limits=limits) as service:
        await ids(service)
        with trio.fail_after(PATIENCE_SECONDS):
            while service.running:  # noqa: ASYNC110 - nobody tells
                await trio.sleep(0.05)
        assert len(await ids(service)) == 1


@pytest.mark.parametrize("changed", [False, True])
async def test_a_process_that_died_between_queries_costs_none_of_them(changed):
    graph = with_members(ANN)
    started: list[ChildProcess] = []

    async def start() -> ChildProcess:
        started.append(await child())
        return started[-1]

    async with querying(graph, start=start) as service:
        await ids(service)
        os.kill(started[0].pid, signal.SIGKILL)
        with trio.fail_after(PATIENCE_SECONDS):
            while not started[0].ended:  # noqa: ASYNC110 - nobody tells
                await trio.sleep(0.01)
        if changed:
            take(graph, node_record(ANN))
        assert await ids(service) == believed(graph)
        assert len(started) == 2


async def test_a_node_without_a_way_to_start_one_says_so():
    service = Querying(with_members(ANN), start=None, now_ms=lambda: NOW)
    with pytest.raises(AigridError, match="no RDF dataset"):
        await service.query("ASK {}")


async def test_the_answer_is_in_a_format_that_fits():
    async with querying(with_members(ANN)) as service:
        answer = await service.query("ASK {}", [AnswerFormat.CSV, AnswerFormat.XML])
        assert answer.answer_format is AnswerFormat.XML
        answer = await service.query("ASK {}", [AnswerFormat.TURTLE])
        assert json.loads(answer.body)["boolean"] is True
