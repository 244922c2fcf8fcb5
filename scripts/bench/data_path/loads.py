"""The loads, put to a column's `Peer`. What they found has the keys of `table.ROWS`."""

import time
from functools import partial

import trio
from scripts.bench.data_path.figures import (
    MIB,
    REQUEST,
    TOGETHER,
    WRITES,
    Amounts,
    CpuMeter,
    Found,
    quantile,
    token_age_ms,
)
from scripts.bench.data_path.peer import Ask, Peer

WARM_UP_REQUESTS = 50
SETTLE_SECONDS = 1.2  # what the two ends of a new connection tell each other by themselves


class WrongAnswerError(Exception):
    """A column brought back something else."""


async def all_loads(peer: Peer, server_pid: int, amounts: Amounts) -> Found:
    """One after the other; the connection stays."""
    found = {"connect_ms": await connecting(peer, amounts.connects)}
    await trio.sleep(SETTLE_SECONDS)
    found |= await one_at_a_time(peer, server_pid, amounts.requests)
    found |= await together(peer, server_pid, amounts.requests_together)
    found |= await fresh_streams(peer, amounts.fresh)
    for name, write_bytes in WRITES.items():
        found[name] = await writing(peer, write_bytes, amounts.write_mib * MIB)
    found |= await paced(peer, amounts.tokens, amounts.interval_ms)
    return found | await burst(peer, server_pid, amounts.burst)


async def connecting(peer: Peer, times: int) -> float:
    """The median in milliseconds; connected in the end."""
    took = []
    for number in range(times):
        if number:
            await peer.disconnect()
            await trio.sleep(0.2)  # until the other end has noticed
        began = time.perf_counter()
        await peer.connect()
        took.append((time.perf_counter() - began) * 1000)
    return quantile(took, 0.5)


async def _some(ask: Ask, left: list[int], took_ms: list[float]) -> None:
    """Requests until none is left of a number that is shared."""
    while left[0] > 0:
        left[0] -= 1
        began = time.perf_counter()
        answer = await ask(REQUEST)
        took_ms.append((time.perf_counter() - began) * 1000)
        if answer != REQUEST:
            raise WrongAnswerError


async def one_at_a_time(peer: Peer, server_pid: int, count: int) -> Found:
    took_ms: list[float] = []
    async with peer.asking() as ask:
        await _some(ask, [WARM_UP_REQUESTS], [])
        cpu = CpuMeter(server_pid)
        await _some(ask, [count], took_ms)
        client, server = cpu.per(count)
    return {
        "rpc_p50_ms": quantile(took_ms, 0.5),
        "rpc_p99_ms": quantile(took_ms, 0.99),
        "rpc_client_cpu_ms": client,
        "rpc_server_cpu_ms": server,
    }


async def together(peer: Peer, server_pid: int, count: int) -> Found:
    """So many callers, each with its stream, until all requests are answered."""
    ready, started, left = [0], trio.Event(), [count]

    async def caller() -> None:
        async with peer.asking() as ask:
            await _some(ask, [2], [])
            ready[0] += 1
            await started.wait()
            await _some(ask, left, [])

    async with trio.open_nursery() as nursery:
        for _ in range(TOGETHER):
            nursery.start_soon(caller)
        while ready[0] < TOGETHER:  # noqa: ASYNC110 - before anything is measured
            await trio.sleep(0.01)
        cpu, began = CpuMeter(server_pid), time.perf_counter()
        started.set()
    took = time.perf_counter() - began
    client, server = cpu.per(count)
    return {
        "many_per_second": count / took,
        "many_client_cpu_ms": client,
        "many_server_cpu_ms": server,
    }


async def fresh_streams(peer: Peer, count: int) -> Found:
    took_ms: list[float] = []
    if await peer.ask_fresh(REQUEST) is None:
        return {}
    await _some(partial(_fresh, peer), [count], took_ms)
    return {"fresh_p50_ms": quantile(took_ms, 0.5)}


async def _fresh(peer: Peer, body: bytes) -> bytes:
    return await peer.ask_fresh(body) or b""


async def writing(peer: Peer, write_bytes: int, total_bytes: int) -> float:
    """MB/s, until the last byte has arrived."""
    await peer.write(write_bytes, write_bytes)
    began = time.perf_counter()
    await peer.write(write_bytes, total_bytes)
    return total_bytes / (time.perf_counter() - began) / 1e6


async def paced(peer: Peer, count: int, interval_ms: int) -> Found:
    async with peer.tokens(count, interval_ms) as tokens:
        ages = [token_age_ms(made) async for made in tokens]
    return {"token_p50_ms": quantile(ages, 0.5), "token_p99_ms": quantile(ages, 0.99)}


async def burst(peer: Peer, server_pid: int, count: int) -> Found:
    """CPU of a token, in microseconds."""
    cpu, seen = CpuMeter(server_pid), 0
    async with peer.tokens(count, 0) as tokens:
        async for _ in tokens:
            seen += 1
    if seen != count:
        raise WrongAnswerError
    client, server = cpu.per(count)
    return {"burst_client_cpu_us": client * 1000, "burst_server_cpu_us": server * 1000}
