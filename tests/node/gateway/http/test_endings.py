"""Clients that leave, clients that do not read, and a node that stops."""

import json
import socket

import pytest
import trio
import trio.testing
from tests.node.gateway.double import (
    BROKEN,
    HELLO,
    NODE,
    ScriptedMesh,
    chat_bytes,
    connect,
    gateway,
    head,
    read_all,
    read_until,
    text,
)
from tests.patience import PATIENCE_SECONDS

from aigrid.protocol.errors import Code, NoCandidateError, RemoteError
from aigrid.protocol.inference import Finish, TextChunk
from aigrid.protocol.limits import LIMITS

pytestmark = pytest.mark.trio
FOREVER = float("inf")
RESET = b"\1\0\0\0\0\0\0\0"
FLOOD = (TextChunk("x" * 60_000, (1,)),)


def flooding() -> ScriptedMesh:
    """An answer far larger than what sockets buffer."""
    return ScriptedMesh((FLOOD,) * 2000)


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("when", ["plain", "before_first", "mid_stream"])
async def test_a_client_that_leaves_cancels_its_request(when: str, reset: bool) -> None:
    if when == "mid_stream":
        mesh = ScriptedMesh((text("Hello"), FOREVER))
    else:
        mesh = ScriptedMesh(before_first=FOREVER)
    async with gateway(mesh) as (_, address):
        with trio.fail_after(PATIENCE_SECONDS):
            stream = await connect(address, chat_bytes(stream=when != "plain"))
            await mesh.entered.wait()
            if when == "mid_stream":
                await read_until(stream, b"Hello")
            if reset:
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            await trio.aclose_forcefully(stream)
            await mesh.left.wait()  # or it would not end, ever
            assert mesh.ended == ["cancelled"]
            # The gateway is well: the next client is served.
            mesh.before_first, mesh.script = None, HELLO
            assert b"200" in await read_all(await connect(address, chat_bytes()))


async def test_a_client_that_leaves_in_its_body_leaves_nothing_behind() -> None:
    mesh = ScriptedMesh()
    async with gateway(mesh) as (_, address):
        with trio.fail_after(PATIENCE_SECONDS):
            await trio.aclose_forcefully(await connect(address, chat_bytes()[:-5]))
            assert b"200" in await read_all(await connect(address, chat_bytes()))
            assert len(mesh.asked) == 1


async def test_a_client_that_does_not_read_is_cut_and_its_request_cancelled() -> None:
    mesh = flooding()
    async with gateway(mesh, write_seconds=0.2) as (served, address):
        with trio.fail_after(PATIENCE_SECONDS):
            stream = await connect(address, chat_bytes(stream=True))
            await mesh.left.wait()
            assert served.counters()["slow_readers_cut"] == 1
            await trio.aclose_forcefully(stream)
    assert mesh.ended == ["cancelled"]


async def test_a_plain_answer_that_is_not_read_is_cut() -> None:
    mesh = ScriptedMesh((*[FLOOD] * 300, (Finish("stop"),)))
    async with gateway(mesh, write_seconds=0.2) as (served, address):
        with trio.fail_after(PATIENCE_SECONDS):
            stream = await connect(address, chat_bytes())
            await mesh.left.wait()
            await trio.testing.wait_all_tasks_blocked(0.3)
            assert served.counters()["slow_readers_cut"] == 1
            await trio.aclose_forcefully(stream)


async def test_live_streams_may_finish_when_the_node_stops() -> None:
    mesh = ScriptedMesh((text("Hello"), 0.2, *HELLO))
    async with gateway(mesh, drain_seconds=PATIENCE_SECONDS) as (served, address):
        with trio.fail_after(PATIENCE_SECONDS):
            stream = await connect(address, chat_bytes(stream=True))
            await read_until(stream, b"Hello")
            await served.stop()
            assert b"data: [DONE]" in await read_all(stream)
    assert mesh.ended == ["clean"]


async def test_new_work_is_refused_while_live_streams_finish() -> None:
    more = trio.Event()
    mesh = ScriptedMesh((text("Hello"), more, *HELLO))
    async with gateway(mesh, drain_seconds=PATIENCE_SECONDS) as (served, address):
        with trio.fail_after(PATIENCE_SECONDS):
            live = await connect(address, chat_bytes(stream=True))
            await read_until(live, b"Hello")
            # A request whose body is still on its way when the node begins to stop.
            data = chat_bytes()
            late = await connect(address, data[:-3])
            await trio.testing.wait_all_tasks_blocked(0.05)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(served.stop)
                await trio.testing.wait_all_tasks_blocked()
                await late.send_all(data[-3:])
                answer = await read_all(late)
                assert b"503" in answer
                assert Code.SHUTTING_DOWN.value.encode() in answer
                with pytest.raises(OSError, match="connect"):
                    await connect(address)
                more.set()
            assert b"data: [DONE]" in await read_all(live)


async def test_streams_that_outlive_the_drain_end_in_an_error_event() -> None:
    mesh = ScriptedMesh((text("Hello"), FOREVER))
    async with gateway(mesh, drain_seconds=0.1) as (served, address):
        with trio.fail_after(PATIENCE_SECONDS):
            stream = await connect(address, chat_bytes(stream=True))
            await read_until(stream, b"Hello")
            await served.stop()
            rest = await read_all(stream)
    assert b'"code":"shutting_down"' in rest
    assert b"[DONE]" not in rest
    assert rest.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("streaming", [False, True])
async def test_requests_without_a_first_chunk_get_503_when_the_node_stops(streaming: bool) -> None:
    mesh = ScriptedMesh(before_first=FOREVER)
    async with gateway(mesh, drain_seconds=0.1) as (served, address):
        with trio.fail_after(PATIENCE_SECONDS):
            stream = await connect(address, chat_bytes(stream=streaming))
            await mesh.entered.wait()
            await served.stop()
            answer = await read_all(stream)
    assert answer.startswith(b"HTTP/1.1 503")
    assert b"retry-after" in answer


async def test_cancelling_the_gateway_still_says_goodbye() -> None:
    mesh = ScriptedMesh((text("Hello"), FOREVER))
    with trio.fail_after(PATIENCE_SECONDS):
        async with gateway(mesh) as (_, address):
            stream = await connect(address, chat_bytes(stream=True))
            await read_until(stream, b"Hello")
        assert b'"code":"shutting_down"' in await read_all(stream)


async def test_a_client_that_does_not_read_does_not_hang_the_stop() -> None:
    mesh = flooding()
    async with gateway(mesh, drain_seconds=0.1, farewell_seconds=0.2) as (served, address):
        stream = await connect(address, chat_bytes(stream=True))
        await mesh.entered.wait()
        await trio.testing.wait_all_tasks_blocked(0.1)  # the sockets' buffers are full now
        with trio.fail_after(LIMITS.http_write_seconds / 2):
            await served.stop()
        await trio.aclose_forcefully(stream)


async def test_silent_connections_are_closed_at_once_when_the_node_stops() -> None:
    async with gateway(ScriptedMesh()) as (served, address):
        silent = await connect(address)
        kept = await connect(
            address, head("GET", "/healthz").replace(b"Connection: close\r\n", b"")
        )
        with trio.fail_after(LIMITS.keep_alive_seconds / 2):
            await read_until(kept, b"ok")
            await served.stop()
            assert await read_all(silent) == b""
            assert await read_all(kept) == b""


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_names_what_is_kept_of_the_answer_that_it_ends(
    stream: bool, begun: bool
) -> None:
    error = RemoteError("It died.", Code.CONNECTION_LOST)
    if begun:
        mesh = ScriptedMesh((text("Hello", " you"), error))
    else:
        mesh = ScriptedMesh(before_first=error)
    async with gateway(mesh) as (_, address):
        with trio.fail_after(PATIENCE_SECONDS):
            answer = await read_all(await connect(address, chat_bytes(stream=stream)))
    start = answer.rindex(b'{"error"')
    body = json.loads(answer[start : answer.rindex(b"}") + 1])
    assert body["error"]["code"] == "connection_lost"
    (segment,) = body["aigrid"]["segments"]
    assert (segment["receipt"], segment["receipted"]) == (BROKEN, False)
    assert (segment["node"], segment["tokens"]) == (NODE, 2 if begun else 0)


async def test_an_error_of_what_nobody_began_names_nothing() -> None:
    mesh = ScriptedMesh(before_first=NoCandidateError("Nobody."))
    async with gateway(mesh) as (_, address):
        with trio.fail_after(PATIENCE_SECONDS):
            assert b'"aigrid"' not in await read_all(await connect(address, chat_bytes()))


@pytest.mark.parametrize("stream", [False, True])
async def test_a_header_leaves_with_what_follows_it(stream: bool, monkeypatch) -> None:
    writes: list[bytes] = []
    send_all = trio.SocketStream.send_all

    async def noted(self: trio.SocketStream, data: bytes) -> None:
        writes.append(bytes(data))
        await send_all(self, data)

    monkeypatch.setattr(trio.SocketStream, "send_all", noted)
    async with gateway(ScriptedMesh((text("Hello"), *HELLO[-1:]))) as (_, address):
        with trio.fail_after(PATIENCE_SECONDS):
            await read_all(await connect(address, chat_bytes(stream=stream)))
    first = next(data for data in writes if data.startswith(b"HTTP/1.1 200"))
    assert b"Hello" in first
