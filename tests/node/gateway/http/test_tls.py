"""The gateway over TLS: certificates, what clients see, and clients that stall."""

import hashlib
import os
import ssl
import stat
import warnings
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import trio
from tests.node.gateway.double import (
    HELLO,
    NAME,
    NOW_MS,
    ScriptedMesh,
    authenticator,
    chat_bytes,
    connect,
    gateway,
    head,
    open_access,
)
from tests.node.gateway.http.test_guards import core
from tests.patience import PATIENCE_SECONDS

from aigrid.node.gateway.gateway import Gateway
from aigrid.node.gateway.http.guard import allowed_hosts, check_caller
from aigrid.node.gateway.http.tls import SELF_SIGNED_FILE, ServerTls, load, self_signed
from aigrid.node.policy.limits import ActorLimits
from aigrid.protocol.errors import AigridError, Code, UsageError

DAY_MS = 86_400_000
NOW = int(__import__("datetime").datetime.now().timestamp() * 1000)


def made(folder: Path, *names: str) -> ServerTls:
    return self_signed(folder, names, now_ms=NOW)


def trusting(folder: Path) -> ssl.SSLContext:
    """A client that trusts that one certificate, and checks its name."""
    return ssl.create_default_context(cafile=str(folder / SELF_SIGNED_FILE))


async def test_a_client_that_trusts_the_certificate_is_served(tmp_path: Path) -> None:
    tls = made(tmp_path)
    async with gateway(ScriptedMesh(), tls=tls) as (served, address):
        assert served.scheme == "https"
        assert served.fingerprint == tls.fingerprint
        async with httpx.AsyncClient(verify=trusting(tmp_path)) as client:
            for host in (address, address.replace("127.0.0.1", "localhost")):
                answer = await client.get(f"https://{host}/v1/models")
                assert answer.status_code == 200
            answer = await client.get(
                f"https://{address}/v1/models", headers={"origin": f"https://{address}"}
            )
            assert answer.status_code == 200
            answer = await client.get(
                f"https://{address}/v1/models", headers={"origin": f"http://{address}"}
            )
            assert answer.status_code == 403
        async with httpx.AsyncClient() as client:
            with pytest.raises(httpx.ConnectError):
                await client.get(f"https://{address}/v1/models")


async def test_the_openai_sdk_streams_over_tls(tmp_path: Path) -> None:
    access = open_access()
    _, key = access.keys.create("alice", ActorLimits(), now_ms=NOW_MS)
    messages: Any = [{"role": "user", "content": "hi"}]
    async with gateway(ScriptedMesh(HELLO), tls=made(tmp_path), access=access, keyless=False) as (
        _,
        address,
    ):
        http: Any = openai.DefaultAsyncHttpxClient(verify=trusting(tmp_path))
        async with openai.AsyncOpenAI(
            base_url=f"https://{address}/v1", api_key=key, http_client=http
        ) as client:
            with trio.fail_after(PATIENCE_SECONDS):
                stream = await client.chat.completions.create(
                    model=NAME, messages=messages, stream=True
                )
                parts = [chunk.choices[0].delta.content async for chunk in stream if chunk.choices]
    assert "".join(part or "" for part in parts) == "Hello wörld"


async def _shaken(address: str, context: ssl.SSLContext) -> trio.SSLStream[trio.SocketStream]:
    raw = await connect(address)
    stream = trio.SSLStream(raw, context, server_hostname="localhost", https_compatible=True)
    await stream.do_handshake()
    return stream


async def test_only_http_1_1_over_tls_1_2_or_later(tmp_path: Path) -> None:
    async with gateway(ScriptedMesh(), tls=made(tmp_path)) as (_, address):
        context = trusting(tmp_path)
        context.set_alpn_protocols(["h2", "http/1.1"])
        stream = await _shaken(address, context)
        assert stream.selected_alpn_protocol() == "http/1.1"
        assert stream.version() in ("TLSv1.2", "TLSv1.3")
        await trio.aclose_forcefully(stream)
        old = trusting(tmp_path)
        old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(trio.BrokenResourceError):
            await _shaken(address, old)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_ends_in_a_goodbye(tmp_path: Path, stream: bool) -> None:
    """Without close_notify a client cannot tell an answer from one that was cut off."""
    async with gateway(ScriptedMesh(), tls=made(tmp_path)) as (_, address):
        with trio.fail_after(PATIENCE_SECONDS):
            raw = await connect(address)
            client = trio.SSLStream(
                raw, trusting(tmp_path), server_hostname="localhost", https_compatible=False
            )
            await client.send_all(chat_bytes(stream=stream))
            received = b""
            while data := await client.receive_some(65536):  # raises for an end that is not told
                received += data
    assert received.startswith(b"HTTP/1.1 200")
    assert b"w\xc3\xb6rld" in received


async def test_who_stalls_or_talks_plainly_is_cut(tmp_path: Path) -> None:
    async with gateway(ScriptedMesh(), tls=made(tmp_path), handshake_seconds=0.05) as (
        served,
        address,
    ):
        with trio.fail_after(PATIENCE_SECONDS):
            silent = await connect(address)
            plain = await connect(address, head("GET", "/healthz"))
            assert await silent.receive_some(10) == b""
            answer = await plain.receive_some(65536)  # an alert, or nothing
            assert not answer.startswith(b"HTTP")
        assert served.counters()["connection_failures"] == 0


async def test_a_new_client_takes_the_place_of_one_that_shakes_no_hands(tmp_path: Path) -> None:
    async with gateway(ScriptedMesh(), tls=made(tmp_path), connections_max=40) as (served, address):
        with trio.fail_after(PATIENCE_SECONDS):
            silent = [await connect(address) for _ in range(60)]
            stream = await _shaken(address, trusting(tmp_path))
            await stream.send_all(head("GET", "/healthz"))
            assert (await stream.receive_some(65536)).startswith(b"HTTP/1.1 200")
            assert await silent[0].receive_some(10) == b""
        assert served.counters()["connections_evicted"] >= 20


async def test_keyless_never_applies_on_another_interface(tmp_path: Path) -> None:
    auth = authenticator(keyless=True)
    tls = made(tmp_path, "node.example.org")
    Gateway(core(), "0.0.0.0", 0, auth=auth, tls=tls)
    assert not auth.keyless
    for host in ("0.0.0.0", "::", "192.0.2.7"):
        with pytest.raises(UsageError) as caught:
            Gateway(core(), host, 0, auth=authenticator())
        assert caught.value.code is Code.UNSAFE_BINDING


async def test_on_all_interfaces_callers_need_keys_and_the_right_name(tmp_path: Path) -> None:
    access = open_access()
    _, key = access.keys.create("alice", ActorLimits(), now_ms=NOW_MS)
    tls = made(tmp_path, "node.example.org")
    served = Gateway(core(), "0.0.0.0", 0, auth=authenticator(access), tls=tls)
    async with trio.open_nursery() as nursery:
        address = await nursery.start(served.run)
        base = f"https://127.0.0.1:{address.rpartition(':')[2]}"
        async with httpx.AsyncClient(base_url=base, verify=trusting(tmp_path)) as client:
            assert (await client.get("/v1/models")).status_code == 401
            bearer = {"authorization": f"Bearer {key}"}
            for host, status in (
                ("node.example.org", 200),
                ("192.0.2.9:8080", 200),
                ("evil.example", 403),
            ):
                answer = await client.get("/v1/models", headers={**bearer, "host": host})
                assert answer.status_code == status, host
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("bound", "names", "host", "allowed"),
    [
        ("127.0.0.1", (), "192.0.2.1", False),
        ("192.0.2.1", (), "192.0.2.1:8080", True),
        ("192.0.2.1", (), "192.0.2.2", False),
        ("192.0.2.1", ("Node.Example.org",), "node.example.ORG", True),
        ("2001:db8::1", (), "[2001:db8::1]:80", True),
        ("::", (), "[2001:db8::1]", True),
        ("0.0.0.0", ("::1",), "evil.example", False),
    ],
)
def test_hosts_are_the_bound_address_and_the_names(
    bound: str, names: tuple[str, ...], host: str, allowed: bool
) -> None:
    try:
        check_caller({b"host": host.encode()}, allowed_hosts(bound, names))
        found = True
    except AigridError:
        found = False
    assert found == allowed


def test_a_certificate_of_our_own_is_private_and_stays_the_same(tmp_path: Path) -> None:
    first = made(tmp_path, "192.0.2.1", "node.example.org")
    path = tmp_path / SELF_SIGNED_FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {"localhost", "127.0.0.1", "::1", "192.0.2.1", "node.example.org"} == set(first.names)
    der = ssl.PEM_cert_to_DER_cert(path.read_text().partition("-----BEGIN PRIVATE")[0])
    assert first.fingerprint.replace(":", "").lower() == hashlib.sha256(der).hexdigest()
    assert made(tmp_path, "node.example.org").fingerprint == first.fingerprint
    later = self_signed(tmp_path, (), now_ms=NOW + 370 * DAY_MS)
    more = self_signed(tmp_path, ("other.example.org",), now_ms=NOW)
    assert len({first.fingerprint, later.fingerprint, more.fingerprint}) == 3


def test_addresses_that_come_and_go_are_no_reason_for_another(tmp_path: Path) -> None:
    first = self_signed(tmp_path, ("a.example.org",), also=("192.0.2.1", "::1"), now_ms=NOW)
    assert "192.0.2.1" in first.names
    again = self_signed(tmp_path, ("a.example.org",), also=("192.0.2.2",), now_ms=NOW)
    assert again.fingerprint == first.fingerprint
    named = self_signed(tmp_path, ("192.0.2.2",), also=(), now_ms=NOW)
    assert "192.0.2.2" in named.names


def test_what_is_no_certificate_is_a_sentence(tmp_path: Path) -> None:
    good, other = tmp_path / "a", tmp_path / "b"
    for folder in (good, other):
        folder.mkdir()
        made(folder)
    pem = good / SELF_SIGNED_FILE
    assert load(pem, pem).fingerprint
    (tmp_path / "nonsense").write_bytes(os.urandom(100))
    (tmp_path / "large").write_bytes(bytes(100_000))
    for certificate, key in (
        (pem, other / SELF_SIGNED_FILE),
        (pem, tmp_path / "nonsense"),
        (tmp_path / "nonsense", pem),
        (tmp_path / "large", pem),
        (tmp_path / "missing", pem),
        (pem, tmp_path / "missing"),
        (tmp_path, tmp_path),
    ):
        with pytest.raises(UsageError):
            load(certificate, key)
    pem.chmod(0o640)
    with pytest.raises(UsageError, match="other users") as caught:
        made(good)
    assert caught.value.code is Code.ENVIRONMENT
    pem.chmod(0o600)
    pem.write_bytes(b"damaged")
    with pytest.raises(UsageError, match="no certificate"):
        made(good)
