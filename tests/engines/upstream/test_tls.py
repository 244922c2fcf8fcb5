"""TLS to a server is verified: who signed it, and for which name."""

import datetime as dt
import ipaddress
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.engines.upstream.servers import Server, running

from aigrid.engines.base import Endpoint
from aigrid.engines.upstream.http import Client, brief
from aigrid.protocol.errors import EngineError
from aigrid.protocol.limits import LIMITS


def certificate(path: Path, name: x509.GeneralName) -> Path:
    """A key and a certificate that it signed for itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a server")])
    now = dt.datetime.now(dt.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([name]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + signed.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture(params=["right", "wrong"])
def secured(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Server, Path, str]]:
    right = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    name = right if request.param == "right" else x509.DNSName("other.example")
    path = certificate(tmp_path / "server.pem", name)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    with running() as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        yield server, path, request.param


def ask(server: Server) -> int:
    client = Client(Endpoint(f"https://127.0.0.1:{server.server_address[1]}/v1", "k3y"))
    with client.open("GET", "/models", bounds=brief(LIMITS)) as answer:
        answer.read()
        return answer.status


def test_a_certificate_that_nobody_trusts_is_refused(secured):
    server, _, _ = secured
    with pytest.raises(EngineError, match="not trusted"):
        ask(server)


def test_a_trusted_certificate_has_to_be_for_the_servers_name(secured, monkeypatch):
    server, path, name = secured
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    if name == "right":
        assert ask(server) == 200
        return
    with pytest.raises(EngineError, match="not trusted"):
        ask(server)


def test_a_server_without_tls_is_refused(server):
    with pytest.raises(EngineError, match="does not speak TLS"):
        ask(server)
