"""What clients of the gateway send before the body counts: HTTP/1.1, its guards, signatures."""

import base64
import hashlib
from collections.abc import Sequence
from typing import Any

import trio
from scripts.fuzzing.mutations import Text
from scripts.fuzzing.target import RefusedError, Target
from tests.node.gateway.signing import Draft
from trio.testing import MockClock

from aigrid.node.gateway.auth import message_signatures
from aigrid.node.gateway.http.bodies import BodyReader
from aigrid.node.gateway.http.connection import Connection
from aigrid.node.gateway.http.guard import allowed_hosts, check_caller
from aigrid.node.gateway.http.json_io import json_body
from aigrid.node.gateway.http.request import ClientGoneError, Request
from aigrid.node.gateway.http.response import Response
from aigrid.node.gateway.limits import GatewayLimits
from aigrid.protocol.errors import AigridError, PolicyDeniedError
from aigrid.protocol.identity import Identity

_HOSTS = allowed_hosts("127.0.0.1")
_LIMITS = GatewayLimits(body_max_bytes=4096, headers_max_bytes=8192)


class _Client:
    """A socket on which a client says this in pieces, then waits, and leaves."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = [piece for piece in pieces if piece]
        self.heard = bytearray()

    async def receive_some(self, count: int) -> bytes:
        await trio.lowlevel.checkpoint()
        if not self._pieces:
            await trio.sleep(1)  # nothing more comes, and whatever is due is answered first
            return b""
        piece = self._pieces.pop(0)
        if len(piece) > count:
            self._pieces.insert(0, piece[count:])
        return piece[:count]

    async def send_all(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.heard += data

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        pass

    def setsockopt(self, *_: object) -> None:
        pass


class _Server:
    """What connections share, with an app that reads a body and tells what it took it for."""

    def __init__(self) -> None:
        self.limits, self.tls, self.stopping = _LIMITS, None, False
        self.connections: dict[Any, None] = {}
        self.quiet: dict[Any, None] = {}
        self.counters = {"slow_readers_cut": 0}
        self._bodies = BodyReader(_LIMITS)
        self.asked: list[str] = []

    def now_seconds(self) -> int:
        return 1_790_000_000

    def refusal(self, status: int, reason: str) -> Response:
        assert reason.isprintable()
        return Response(reason.encode(), status, {"connection": "close"})

    async def app(self, request: Request) -> None:
        self.asked.append(f"{request.method} {request.path}")
        if request.method == "CONNECT":  # no route has it, so it never succeeds
            await Response(b"", 405)(request)
            return
        try:
            check_caller(request.fields, _HOSTS)
            body = await json_body(self._bodies, request, unsaid=True)
        except ClientGoneError:
            return
        except AigridError as error:
            error.message.encode()
            await Response(b"{}", error.info.http)(request)
            return
        assert len(body) <= _LIMITS.body_max_bytes
        await Response(str(len(body)).encode())(request)


async def _served(pieces: Sequence[bytes]) -> tuple[bytes, list[str]]:
    client, server = _Client(pieces), _Server()
    await Connection(server, client).run()  # type: ignore[arg-type]
    assert not server.connections
    assert not server.quiet
    return bytes(client.heard), server.asked


async def _twice(data: bytes) -> None:
    heard, asked = await _served([data])
    at = len(data) // 2
    cut, again = await _served([data[:at], data[at:]])
    both_ways = f"{again} when cut, {asked} when whole"
    assert again == asked or _closed(cut, again, asked), both_ways
    assert not heard or heard.startswith(b"HTTP/1.1 "), heard[:40]
    # An answer, or a "100 Continue" before it, for each request, and one refusal behind them.
    assert heard.count(b"HTTP/1.1 ") <= 2 * len(asked) + 1
    if b"HTTP/1.1 200 " not in heard:
        raise RefusedError


def _closed(heard: bytes, again: list[str], asked: list[str]) -> bool:
    """Whether a request was refused, and none taken behind it."""
    status = heard[heard.rfind(b"HTTP/1.1 ") :][9:12]
    return again == asked[: len(again)] and status >= b"400"


def _http(data: bytes) -> None:
    """Answers are HTTP, one for each request; cut elsewhere, bytes are the same requests.

    Or fewer, where the connection is closed behind a refusal: what is left of a body that nobody
    reads is not waited for.
    """
    trio.run(_twice, data, clock=MockClock(autojump_threshold=0))


_BODY = b'{"model":"echo","messages":[{"role":"user","content":"Hi"}]}'
_REQUESTS = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n"
    b"Content-Type: application/json\r\nContent-Length: 60\r\n\r\n" + _BODY,
    (
        b"GET /v1/models?a=b%20c HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n"
        b"GET /%E2%82%AC HTTP/1.1\r\nHost: [::1]:1\r\nConnection: close\r\n\r\n"
    ),
    (
        b"POST /x HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n"
        b"Expect: 100-continue\r\nContent-Type: application/json\r\n\r\n"
        b"5\r\nhello\r\n3;a=b\r\nabc\r\n0\r\nX: y\r\n\r\n"
    ),
    (
        b"HEAD http://127.0.0.1/a HTTP/1.1\r\nHost: example.org\r\nOrigin: http://127.0.0.1\r\n\r\n"
        b"OPTIONS * HTTP/1.0\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n"
    ),
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
)
_WORDS = (
    *(b"Content-Length", b"Transfer-Encoding", b"chunked", b"identity", b"gzip, chunked", b"Host"),
    *(b"Connection", b"close", b"keep-alive", b"Expect", b"100-continue", b"Upgrade", b"HTTP/1.0"),
    *(b"HTTP/1.1", b"HTTP/2.0", b"GET", b"POST", b"HEAD", b"CONNECT", b"*", b"http://a/", b"//a"),
    *(b": ", b":", b" :", b"\r\n ", b"\r", b"\n", b"\x0b", b"%2f", b"%C0%AF", b"%", b"0\r\n\r\n"),
    *(b"ffffffffffffffff", b"+5", b"5, 5", b"5 ", b"Sec-Fetch-Site", b"cross-site", b"Origin"),
    *(b"Content-Encoding", b"User-Agent", b"Mozilla/5.0", b"X-Request-Id"),
)

_WHO = Identity(bytes(range(32)))


def _signature(data: bytes) -> None:
    """Lines of headers; the first line is method and URL."""
    first, *lines = data.split(b"\n")
    method, _, url = first.decode("latin-1").partition(" ")
    pairs = [line.decode("latin-1").partition(": ") for line in lines]
    headers = message_signatures.Headers(tuple((name, value) for name, _, value in pairs))
    asked = message_signatures.SignedRequest(method, url, headers)
    found = message_signatures.verify(
        asked, lambda keyid: _WHO.public_key if keyid == _WHO.did else None, now_seconds=_SIGNED
    )
    assert found.digest == hashlib.sha256(_BODY).digest()
    assert found.keyid == _WHO.did


_SIGNED = 1_700_000_000


def _signature_seeds() -> list[bytes]:
    draft = Draft(_WHO, "127.0.0.1:8080", "/v1/chat/completions", "POST", _BODY)
    draft.parameters["created"] = _SIGNED
    lines = [f"{name}: {value}" for name, value in draft.signed().items()]
    empty = base64.b64encode(bytes(32)).decode()
    other = [*lines[1:], f"content-digest: sha-256=:{empty}:"]
    first = "POST http://127.0.0.1:8080/v1/chat/completions"
    return ["\n".join([first, *said]).encode("latin-1") for said in (lines, other)]


_SIGNED_WORDS = (
    *(
        b"created",
        b"expires",
        b"keyid",
        b"nonce",
        b"alg",
        b"ed25519",
        b";bs",
        b";sf",
        b";tr",
        b";req",
    ),
    *(
        b'"@path"',
        b'"@query"',
        b'"@query-param";name="a"',
        b'"@status"',
        b"sig1",
        b"sig2",
        b", ",
        b"()",
    ),
    *(b":AAAA:", b"?1", b"1.5", b"99999999999999999999"),
)

TARGETS = (
    Target("http", lambda: Text(_REQUESTS, _WORDS, b"\r\n"), _http, ()),
    Target(
        "http-signatures",
        lambda: Text(_signature_seeds(), _SIGNED_WORDS),
        _signature,
        (PolicyDeniedError,),
    ),
)
