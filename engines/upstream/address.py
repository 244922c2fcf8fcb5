"""Where a server is, and whether one may connect to it.

The name is resolved once and the addresses are kept: whoever controls it cannot point the engine
elsewhere later. An address that only this machine's own surroundings answer at, such as a cloud's
metadata service, has to be written down as it is; no name leads there.
"""

import ipaddress
import re
import socket
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.limits import LIMITS

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

# Metadata and management services of clouds beside those at link-local addresses.
_METADATA: Final = frozenset(
    ipaddress.ip_address(text)
    for text in ("100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254")
)
# What stands before the `+` of an address: the engine, what its models do unless somebody says
# otherwise, and the path where none is given.
DIALECTS: Final = {
    "openai": ("openai_api", "text-generation", "/v1"),
    "oip": ("open_inference", "tensor", ""),
}
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_PATH: Final = re.compile(r"(/[A-Za-z0-9._~@:+-]+)*")
_ADDRESSES_MAX: Final = 4
_DNS_PORT: Final = 53  # over TCP where an answer is too long for UDP


@dataclass(frozen=True, slots=True)
class Location:
    """A server's URL in parts; `path` has no slash at its end."""

    secure: bool
    host: str
    port: int
    path: str

    @property
    def root(self) -> str:
        """The path without the version of OpenAI's API at its end."""
        return self.path.removesuffix("/v1")

    @property
    def authority(self) -> str:
        """What the Host header says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = 443 if self.secure else 80
        return host if self.port == usual else f"{host}:{self.port}"


def ports_of(url: str) -> tuple[int, ...]:
    """The TCP ports that asking a server takes: its own, and for a name that of DNS.

    Raises:
        EngineError: `usage`.
    """
    location = locate(url)
    return (location.port,) if _literal(location.host) else (location.port, _DNS_PORT)


def is_server(text: str) -> bool:
    """Whether a text is meant as a server's address, such as openai+http://HOST:PORT/v1."""
    dialect, plus, rest = text.partition("+")
    return bool(plus) and dialect in DIALECTS and rest.startswith(("http://", "https://"))


def locate(url: str) -> Location:
    """Take a URL apart: `http` or `https`, a host, perhaps a port and a path, nothing else.

    Raises:
        EngineError: `usage`.
    """
    wrong = EngineError("a server's address looks like http://HOST:PORT/PATH", Code.USAGE)
    if len(url) > LIMITS.upstream_url_max_chars or not url.isascii() or not url.isprintable():
        raise wrong
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise wrong from None
    if parts.scheme not in ("http", "https") or not host or port == 0 or " " in url:
        raise wrong
    if "@" in parts.netloc:
        raise EngineError("a key belongs in a file of its own: --key-file", Code.USAGE)
    path = parts.path.rstrip("/")
    if parts.query or parts.fragment or not _PATH.fullmatch(path):
        raise wrong
    secure = parts.scheme == "https"
    return Location(secure, host, port or (443 if secure else 80), path)


def resolve(location: Location) -> tuple[str, ...]:
    """The addresses that may be connected to, in the order to try them.

    Raises:
        EngineError: `unreachable` for a name that means nothing, `usage` for one that leads to an
            address that is refused.
    """
    try:
        found = socket.getaddrinfo(location.host, location.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise EngineError("the server's name cannot be resolved", Code.UNREACHABLE) from None
    addresses = tuple(dict.fromkeys(str(entry[4][0]) for entry in found))
    named = _literal(location.host)
    allowed = tuple(a for a in addresses if may_connect(_plain(a), named))
    if not allowed:
        raise EngineError(
            "the server's name leads to an address that is refused (link-local, or of a metadata "
            "service); write the address itself if it is really meant",
            Code.USAGE,
        )
    return allowed[:_ADDRESSES_MAX]


def may_connect(address: IpAddress, named: IpAddress | None) -> bool:
    """Whether an address that a name led to may be used; `named` is the one written down."""
    inner = _inner(address)
    if address.is_multicast or inner.is_multicast or inner.is_unspecified:
        return False
    if named is not None and named == address:
        return True
    if inner.is_loopback:
        return True
    return not (inner.is_link_local or inner.is_reserved or inner in _METADATA)


def _inner(address: IpAddress) -> IpAddress:
    """The IPv4 address within an IPv6 address that stands for one."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _plain(address: str) -> IpAddress:
    return ipaddress.ip_address(address.partition("%")[0])


def _literal(host: str) -> IpAddress | None:
    try:
        return _plain(host)
    except ValueError:
        return None
