"""TLS of the gateway: a certificate of the operator's, or one that the node makes for itself.

TLS 1.2 or later, HTTP/1.1 alone. A certificate of our own is of P-256, which every client knows; it
vouches for nothing by itself, so its fingerprint is shown wherever the node says where it is.
"""

import datetime as dt
import ipaddress
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aigrid.node.key_store.keys import write_private
from aigrid.protocol.errors import Code, UsageError
from aigrid.protocol.limits import LIMITS

if TYPE_CHECKING:
    from cryptography import x509

SELF_SIGNED_FILE = "gateway.pem"
_ALWAYS = ("localhost", "127.0.0.1", "::1")
_VALID = dt.timedelta(days=397)
_RENEW_BEFORE = dt.timedelta(days=30)
_CLOCKS_DIFFER = dt.timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class ServerTls:
    """What a server needs. `fingerprint` is the SHA-256 of the certificate, as browsers show it."""

    context: ssl.SSLContext
    fingerprint: str
    names: tuple[str, ...]


def load(certificate: Path, key: Path) -> ServerTls:
    """The operator's certificate, with its chain, and its key: both PEM.

    Raises:
        UsageError: what is wrong with the files; nothing of what they hold.
    """
    raw = _read(certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        # A key behind a passphrase is refused rather than asked for: nobody may be there.
        context.load_cert_chain(certificate, key, password=_no_passphrase)
    except OSError as error:  # an SSLError is one
        reason = (
            "not a certificate and its key" if isinstance(error, ssl.SSLError) else "unreadable"
        )
        raise UsageError(f"{certificate} and {key}: {reason} (PEM, no passphrase)") from None
    leaf = _parsed(certificate, raw)
    return ServerTls(context, fingerprint_of(leaf), names_of(leaf))


def self_signed(
    data_dir: Path, names: Iterable[str], *, also: Iterable[str] = (), now_ms: int
) -> ServerTls:
    """The node's own certificate for `names`, which are DNS names and addresses.

    It is kept, so that a client may remember its fingerprint, and made anew only when it ends soon
    or lacks a name. What is in `also` gets into it then: a machine's addresses come and go.

    Raises:
        UsageError: the data directory cannot be used, or the files in it.
    """
    path = data_dir / SELF_SIGNED_FILE  # both in one: nothing can come between them
    now = dt.datetime.fromtimestamp(now_ms / 1000, tz=dt.UTC)
    wanted = tuple(dict.fromkeys([*_ALWAYS, *names]))
    if not _serves(path, wanted, now):
        try:
            write_private(path, b"".join(_make(tuple(dict.fromkeys([*wanted, *also])), now)))
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror}") from None
    return load(path, path)


def fingerprint_of(certificate: "x509.Certificate") -> str:
    """SHA-256 of the certificate, in pairs of hexadecimal digits."""
    from cryptography.hazmat.primitives import hashes  # late: only with TLS

    return certificate.fingerprint(hashes.SHA256()).hex(":").upper()


def names_of(certificate: "x509.Certificate") -> tuple[str, ...]:
    """The DNS names and addresses that a certificate is for; patterns are left out."""
    from cryptography import x509

    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return ()
    dns = [name for name in found.get_values_for_type(x509.DNSName) if "*" not in name]
    return (*dns, *map(str, found.get_values_for_type(x509.IPAddress)))


def _serves(path: Path, names: tuple[str, ...], now: dt.datetime) -> bool:
    if not path.exists():
        return False
    if path.stat().st_mode & 0o077:
        raise UsageError(
            f"other users may read the gateway's key in {path}: remove it, and the node makes"
            " another; or run `chmod 600` if nobody did",
            Code.ENVIRONMENT,
        )
    leaf = _parsed(path, _read(path))
    lasts = leaf.not_valid_before_utc <= now <= leaf.not_valid_after_utc - _RENEW_BEFORE
    return lasts and set(names) <= set(names_of(leaf))


def _make(names: tuple[str, ...], now: dt.datetime) -> tuple[bytes, bytes]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    secret = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "AIGrid node")])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(secret.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCKS_DIFFER)
        .not_valid_after(now + _VALID)
        .add_extension(
            x509.SubjectAlternativeName([_general(name) for name in names]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(secret, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    return made.public_bytes(pem), secret.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _general(name: str) -> "x509.GeneralName":
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _parsed(path: Path, raw: bytes) -> "x509.Certificate":
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificate(raw)
    except ValueError:
        raise UsageError(f"{path} is no certificate (PEM)") from None


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(LIMITS.config_max_bytes + 1)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    if len(raw) > LIMITS.config_max_bytes:
        raise UsageError(f"{path} is larger than {LIMITS.config_max_bytes} bytes")
    return raw


def _no_passphrase() -> str:
    return ""
