"""What raw clients and web pages may not do."""

import json
import socket
from typing import Any

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs
from tests.node.gateway.double import (
    NAME,
    ScriptedMesh,
    authenticator,
    chat_bytes,
    connect,
    gateway,
    head,
    read_all,
    read_until,
    tokens,
)
from tests.patience import PATIENCE_SECONDS

from aigrid.node.gateway.core import GatewayCore
from aigrid.node.gateway.gateway import Gateway
from aigrid.node.gateway.http.guard import loopback_address
from aigrid.node.observing.observer import Observer
from aigrid.protocol.errors import Code, UsageError
from aigrid.protocol.limits import LIMITS

pytestmark = pytest.mark.trio
JSON = "Content-Type: application/json"
CHUNKED = ("Transfer-Encoding: chunked",)


async def exchange(data: bytes, *, mesh: ScriptedMesh | None = None, **limits: Any) -> bytes:
    """Everything the gateway says to `data` until it closes."""
    async with gateway(mesh or ScriptedMesh(), **limits) as (_, address):
        with trio.fail_after(PATIENCE_SECONDS):
            return await read_all(await connect(address, data))


def parts(answer: bytes) -> tuple[int, dict[str, str], Any]:
    header, _, body = answer.partition(b"\r\n\r\n")
    status, *fields = header.decode().split("\r\n")
    headers = dict(field.lower().split(": ", 1) for field in fields)
    return int(status.split()[1]), headers, json.loads(body or b"{}")


async def refused(data: bytes, **limits: Any) -> tuple[int, str]:
    status, headers, body = parts(await exchange(data, **limits))
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert headers["x-request-id"]
    assert not any(name.startswith("access-control") for name in headers)
    return status, body["error"]["code"]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST:80", "[::1]:8080"])
async def test_loopback_hosts_are_served(host: str) -> None:
    status, _, body = parts(await exchange(head("GET", "/healthz", host=host)))
    assert (status, body) == (200, {"status": "ok"})


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.",
        "[::1",
        "",
        "0.0.0.0:80",
        "a@localhost",
    ],
)
async def test_other_hosts_are_refused(host: str) -> None:
    assert await refused(head("GET", "/v1/models", host=host)) == (403, "host_not_allowed")


@pytest.mark.parametrize(
    "header",
    [
        "Origin: https://evil.example",
        "Origin: null",
        "Origin: http://localhost:3000",
        "Origin: https://localhost",
        "Sec-Fetch-Site: cross-site",
        "Sec-Fetch-Site: same-site",
    ],
)
async def test_pages_of_other_origins_are_refused(header: str) -> None:
    mesh = ScriptedMesh()
    assert await refused(chat_bytes(header), mesh=mesh) == (403, "origin_not_allowed")
    assert not mesh.asked


@pytest.mark.parametrize("header", ["Origin: http://localhost", "Sec-Fetch-Site: same-origin"])
async def test_pages_of_our_own_are_served(header: str) -> None:
    status, headers, _ = parts(await exchange(chat_bytes(header)))
    assert status == 200
    assert not any(name.startswith("access-control") for name in headers)


async def test_a_preflight_gets_no_permission() -> None:
    data = head("OPTIONS", "/v1/models", "Access-Control-Request-Method: POST")
    assert await refused(data) == (405, "method_not_allowed")


@pytest.mark.parametrize(
    "headers",
    [
        ("Content-Length: 2",),
        ("Content-Type: text/plain", "Content-Length: 2"),
        ("Content-Type: application/x-www-form-urlencoded", "Content-Length: 2"),
        (JSON, "Content-Encoding: gzip", "Content-Length: 2"),
    ],
)
async def test_a_body_must_be_plain_json(headers: tuple[str, ...]) -> None:
    data = head("POST", "/v1/chat/completions", *headers) + b"{}"
    assert await refused(data) == (415, "unsupported_media_type")


OLLAMA = f'{{"model":"{NAME}","messages":[{{"role":"user","content":"hi"}}]}}'.encode()
FORM = "Content-Type: application/x-www-form-urlencoded"


def ollama_bytes(*headers: str) -> bytes:
    return head("POST", "/api/chat", f"Content-Length: {len(OLLAMA)}", *headers) + OLLAMA


@pytest.mark.parametrize("kind", ["", "Content-Type:", FORM, "Content-Type: text/plain", JSON])
async def test_clients_of_ollama_need_not_say_that_they_send_json(kind: str) -> None:
    headers = [kind] if kind else []
    answer = await exchange(ollama_bytes("User-Agent: curl/8.5.0", *headers))
    assert answer.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("kind", ["", "Content-Type:", FORM, "Content-Type: text/plain"])
@pytest.mark.parametrize(
    "header",
    [
        "Origin: http://evil.example",
        "Origin: null",
        "Origin: http://localhost",
        "Referer: http://evil.example/page",
        "Sec-Fetch-Site: cross-site",
        "Sec-Fetch-Mode: no-cors",
        "User-Agent: Mozilla/5.0 (X11; Linux x86_64) Firefox/60.0",
        "Host: evil.example",
    ],
)
async def test_what_a_page_may_send_unasked_is_refused_there_too(kind: str, header: str) -> None:
    mesh = ScriptedMesh()
    data = ollama_bytes(header, *([kind] if kind else []))
    if header.startswith("Host"):
        data = data.replace(b"Host: localhost\r\n", b"", 1)
    answer = await exchange(data, mesh=mesh)
    assert answer.split()[1] in (b"403", b"415")
    assert not mesh.asked


async def test_a_page_of_our_own_asks_there_with_json() -> None:
    answer = await exchange(ollama_bytes(JSON, "Origin: http://localhost", "User-Agent: Mozilla/5"))
    assert answer.startswith(b"HTTP/1.1 200")


async def test_unknown_paths_and_methods_are_refused_in_kind() -> None:
    assert await refused(head("GET", "/v0/x")) == (404, "not_found")
    assert await refused(head("GET", "/v1/models/no/such")) == (404, "model_not_found")
    status, headers, _ = parts(await exchange(head("GET", "/v1/chat/completions")))
    assert (status, headers["allow"]) == (405, "post")


async def test_models_with_slashes_and_colons_have_a_path() -> None:
    for path in (NAME, NAME.replace("/", "%2F").replace(":", "%3A")):
        status, _, body = parts(await exchange(head("GET", f"/v1/models/{path}")))
        assert (status, body["id"]) == (200, NAME)


async def test_head_has_no_body_and_status_has_the_nodes_own() -> None:
    header, _, body = (await exchange(head("HEAD", "/v1/models"))).partition(b"\r\n\r\n")
    assert header.startswith(b"HTTP/1.1 200")
    assert not body
    _, _, status = parts(await exchange(head("GET", "/aigrid/v1/status")))
    assert status["peers"] == 2


@pytest.mark.parametrize("method", ["HeAD", "get"])
async def test_methods_are_as_they_are_written(method: str) -> None:
    status, _, body = parts(await exchange(head(method, "/v1/models")))
    assert status == 405
    assert body["error"]["message"]


async def test_a_declared_length_over_the_cap_is_refused_at_once_and_heard() -> None:
    # The client goes on sending: without a lingering close the answer would be lost to a reset.
    data = head("POST", "/v1/chat/completions", JSON, "Content-Length: 3000000") + b" " * 3_000_000
    assert await refused(data, body_max_bytes=1000) == (413, "body_too_large")


async def test_a_declared_length_over_the_cap_is_refused_unseen() -> None:
    data = head("POST", "/v1/chat/completions", JSON, "Content-Length: 3000000")
    assert await refused(data, body_max_bytes=1000) == (413, "body_too_large")


async def test_a_chunked_body_over_the_cap_is_refused() -> None:
    data = head("POST", "/v1/chat/completions", JSON, "Transfer-Encoding: chunked")
    data += (b"200\r\n" + b" " * 512 + b"\r\n") * 3
    assert await refused(data, body_max_bytes=1000) == (413, "body_too_large")


async def test_large_bodies_together_are_bounded() -> None:
    data = head("POST", "/v1/chat/completions", JSON, "Content-Length: 900") + b" " * 900
    assert await refused(data, bodies_max_bytes=500) == (503, "busy")


@pytest.mark.parametrize("sent", [b"", b'{"model":'])
async def test_a_stalled_body_is_cut_off(sent: bytes) -> None:
    data = head("POST", "/v1/chat/completions", JSON, "Content-Length: 100") + sent
    assert await refused(data, body_seconds=0.1) == (408, "request_timeout")


async def test_a_trickled_body_is_cut_off() -> None:
    data = head("POST", "/v1/chat/completions", JSON, "Content-Length: 100000")
    async with gateway(ScriptedMesh(), body_seconds=0.3) as (_, address):
        stream = await connect(address, data)
        with trio.fail_after(PATIENCE_SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trickle, stream)
                answer = await read_all(stream)
                nursery.cancel_scope.cancel()
    assert parts(answer)[0] == 408


async def trickle(stream: trio.SocketStream) -> None:
    """A byte now and then, until the other side is gone."""
    try:
        while True:
            await stream.send_all(b"x")
            await trio.sleep(0.02)
    except trio.BrokenResourceError:
        pass


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\nHost: loc"])
async def test_a_slow_header_is_cut_off(sent: bytes) -> None:
    assert await exchange(sent, header_seconds=0.1) == b""


async def test_a_trickled_header_is_cut_off() -> None:
    async with gateway(ScriptedMesh(), header_seconds=0.2) as (_, address):
        stream = await connect(address, b"GET /healthz HTTP/1.1\r\nx: ")
        with trio.fail_after(PATIENCE_SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trickle, stream)
                assert await read_all(stream) == b""
                nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("requests", "seconds"), [(2, LIMITS.keep_alive_seconds), (1, 0.1)])
async def test_an_answered_connection_is_kept_then_closed_when_silent(
    requests: int, seconds: float
) -> None:
    request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with gateway(ScriptedMesh(), keep_alive_seconds=seconds) as (_, address):
        stream = await connect(address)
        with trio.fail_after(PATIENCE_SECONDS):
            for _ in range(requests):
                await stream.send_all(request)
                await read_until(stream, b'{"status":"ok"}')
            if seconds < LIMITS.keep_alive_seconds:
                assert await read_all(stream) == b""


@pytest.mark.parametrize("behind_another", [False, True])
async def test_the_next_header_on_a_kept_connection_has_its_own_time(behind_another: bool) -> None:
    request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with gateway(ScriptedMesh(), header_seconds=0.5) as (_, address):
        with trio.fail_after(PATIENCE_SECONDS):
            if behind_another:
                stream = await connect(address, request + request[:10])
            else:
                stream = await connect(address, request)
                await read_until(stream, b'{"status":"ok"}')
                await trio.testing.wait_all_tasks_blocked(0.02)
                await stream.send_all(request[:10])
            await read_all(stream)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"NONSENSE\r\n\r\n", b"400"),
        (head("GET", "/healthz", *[f"x{n}: y" for n in range(120)]), b"431"),
        (head("GET", "/healthz", "x: " + "y" * 20_000), b"431"),
        (b"GET /healthz HTTP/1.1\r\nx: " + b"y" * 200_000, b"431"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"505"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nsec\x01ret: key\r\n\r\n", b"400"),
        (head("GET", "/v1/models/%ff"), b"400"),
        (head("GET", "/v1/models/%zz"), b"400"),
        (head("GET", "/" + "x" * 60_000), b"431"),
        (head("X" * 60_000, "/"), b"431"),
        (head("POST", "/v1/chat/completions", "Content-Length: 2", "Content-Length: 3"), b"400"),
        (head("POST", "/v1/chat/completions", JSON, *CHUNKED) + b"ZZ\r\n", b"400"),
        (head("POST", "/v1/chat/completions", JSON, *CHUNKED, "Content-Length: 5"), b"400"),
        (head("POST", "/v1/chat/completions", JSON, "Transfer-Encoding: gzip"), b"400"),
    ],
)
async def test_what_is_no_http_1_is_refused_in_kind(data: bytes, status: bytes) -> None:
    answer = await exchange(data)
    assert answer.split()[1] == status
    _, headers, body = parts(answer)
    assert set(body["error"]) == {"message", "type", "param", "code"}
    codes = {b"431": "header_too_large", b"505": "http_version", b"400": "invalid_request"}
    assert body["error"]["code"] == codes[status]
    assert headers["x-request-id"].startswith("req_")
    assert b"b'" not in answer
    assert b"key" not in answer


async def test_what_is_no_http_behind_a_head_is_told_why() -> None:
    with capture_logs() as logs:
        asked = b"HEAD /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nNONSENSE\r\n\r\n"
        answer = await exchange(asked)
    _, refusal = answer.split(b"\r\n\r\n", 1)
    assert answer.startswith(b"HTTP/1.1 200")
    status, _, body = parts(refusal)
    assert (status, body["error"]["code"]) == (400, "invalid_request")
    assert not [log for log in logs if log["event"] == "connection_failed"]


async def test_what_is_no_http_is_counted() -> None:
    observer = Observer()
    async with gateway(ScriptedMesh(), observer=observer) as (_, address):
        with trio.fail_after(PATIENCE_SECONDS):
            await read_all(await connect(address, b"NONSENSE\r\n\r\n"))
            counted = await observer.render()
    assert b'aigrid_requests_total{code="invalid_request"' in counted


@pytest.mark.parametrize(
    ("target", "host", "status"),
    [
        ("http://localhost/healthz", "localhost", 200),
        ("HTTP://localhost:80/healthz?x", "evil.example", 200),
        ("http://evil.example/healthz", "localhost", 403),
        ("http://a@localhost/healthz", "localhost", 403),
        ("http:///healthz", "localhost", 403),
        ("http://localhost", "localhost", 200),
        ("localhost:80", "localhost", 404),
    ],
)
async def test_a_target_may_name_its_host_and_is_held_to_it(
    target: str, host: str, status: int
) -> None:
    answer = await exchange(head("GET", target, host=host))
    assert int(answer.split()[1]) == status


async def test_a_body_that_is_none_does_not_get_in_the_way_of_an_answer() -> None:
    expecting = ("Transfer-Encoding: chunked", "Expect: 100-continue")
    data = head("GET", "/healthz", *expecting) + b"ZZZ\r\n"
    with capture_logs() as logs:
        async with gateway(ScriptedMesh(), linger_seconds=0.05) as (_, address):
            with trio.fail_after(PATIENCE_SECONDS):
                for _ in range(50):  # each order of what is ready at once is as likely
                    assert (await read_all(await connect(address, data))).startswith(b"HTTP/1.1")
    assert {entry["event"] for entry in logs} == {"request"}


@pytest.mark.parametrize("upgrade", ["websocket", "h2c"])
async def test_upgrades_are_ignored(upgrade: str) -> None:
    data = head("GET", "/healthz", f"Upgrade: {upgrade}", "Connection: upgrade, close")
    data = data.replace(b"Connection: close\r\n", b"")
    assert parts(await exchange(data))[0] == 200


async def test_a_new_client_takes_the_place_of_the_longest_silent_one() -> None:
    async with gateway(ScriptedMesh(), connections_max=3) as (served, address):
        with trio.fail_after(PATIENCE_SECONDS):
            silent = [await connect(address) for _ in range(5)]
            answer = await read_all(await connect(address, head("GET", "/healthz")))
            assert parts(answer)[0] == 200
            assert await read_all(silent[0]) == b""
            assert served.counters()["connections_evicted"] >= 3


async def test_too_many_busy_connections_are_told_so() -> None:
    limits: dict[str, Any] = {"connections_max": 2, "first_chunk_seconds": 0.01}
    async with gateway(ScriptedMesh((float("inf"),)), **limits) as (served, address):
        with trio.fail_after(PATIENCE_SECONDS):
            busy = [await connect(address, chat_bytes(stream=True)) for _ in range(2)]
            for stream in busy:
                await read_until(stream, b"\r\n")
            status, headers, body = parts(await read_all(await connect(address)))
    assert (status, body["error"]["code"]) == (503, "busy")
    assert int(headers["retry-after"]) >= 1
    assert served.counters()["connections_refused"] == 1


async def test_many_connects_and_resets_leave_the_gateway_well() -> None:
    async with gateway(ScriptedMesh()) as (served, address):
        with trio.fail_after(PATIENCE_SECONDS):
            for _ in range(200):
                stream = await connect(address, b"POST /v1/chat/completions HTTP/1.1\r\n")
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                await trio.aclose_forcefully(stream)
            assert parts(await read_all(await connect(address, chat_bytes())))[0] == 200
            assert not any(served.counters().values())


def core() -> GatewayCore:
    return GatewayCore(ScriptedMesh(), status=dict, now_ms=lambda: 0, token=tokens())


async def test_only_loopback_may_be_bound() -> None:
    for host in ("127.0.0.1", "127.5.5.5", "::1", "[::1]", "localhost"):
        assert loopback_address(host)
    for host in ("0.0.0.0", "::", "192.168.1.2", "example.org", "", "::ffff:127.0.0.1"):
        with pytest.raises(UsageError) as caught:
            Gateway(core(), host, 0, auth=authenticator())
        assert caught.value.code is Code.UNSAFE_BINDING


async def test_a_port_in_use_is_a_usage_error() -> None:
    async with gateway(ScriptedMesh()) as (_, address):
        second = Gateway(core(), "127.0.0.1", int(address.rpartition(":")[2]), auth=authenticator())
        async with trio.open_nursery() as nursery:
            with pytest.raises(UsageError) as caught:
                await nursery.start(second.run)
    assert caught.value.code is Code.PORT_IN_USE
