"""Keeps web pages out: which Host, Origin and fetch metadata a request may carry. Pure.

A page of another site can make a browser send requests to 127.0.0.1. Its Host gives away a name
that was rebound to us, its Origin or Sec-Fetch-Site the page itself. Nothing here ever answers
with CORS headers, so no page can read what it did not serve.
"""

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from aigrid.protocol.errors import Code, InvalidRequestError, PolicyDeniedError, UsageError

LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "[::1]"})
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(?::[0-9]{1,5})?")
_FETCH_SITES = frozenset({"same-origin", "none"})
_BROWSERS = (b"mozilla/", b"opera/")
_OF_PAGES = (b"origin", b"referer", b"sec-fetch-site", b"sec-fetch-mode")


def loopback_address(host: str) -> str:
    """The address to bind for `host`: a loopback literal, or `localhost`.

    Raises:
        UsageError: `unsafe_binding` for anything else; names are not resolved.
    """
    address = _literal("127.0.0.1" if host == "localhost" else host)
    if address is None or not is_loopback(str(address)):
        raise UsageError(
            f"The gateway may not listen on {host!r} without TLS.", Code.UNSAFE_BINDING
        )
    return str(address)


def any_address(host: str) -> str:
    """The address to bind for `host` where there is TLS: any literal, or `localhost`.

    Raises:
        UsageError: `unsafe_binding` for a name; names are not resolved.
    """
    address = _literal("127.0.0.1" if host == "localhost" else host)
    if address is None:
        raise UsageError(f"The gateway cannot listen on {host!r}: give an IP address.")
    return str(address)


def is_loopback(host: str) -> bool:
    """Whether an address is of this machine alone."""
    address = _literal(host)
    if address is None or getattr(address, "ipv4_mapped", None):
        return False
    return address.is_loopback


def _literal(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class Hosts:
    """What a Host header may name, and the scheme of our own pages.

    `any_address` for a gateway on all interfaces: a page whose name was rebound to us does not send
    an address as its Host.
    """

    names: frozenset[str]
    scheme: str = "http"
    any_address: bool = False

    def allows(self, host: str) -> bool:
        """Whether `host`, in lower case and without a port, is one of ours."""
        return host in self.names or (self.any_address and _literal(host) is not None)


def allowed_hosts(bound: str, names: Iterable[str] = (), scheme: str = "http") -> Hosts:
    """What a Host header may name when the gateway listens on `bound` and is called `names`."""
    spelled = {f"[{name}]" if ":" in name else name.lower() for name in (bound, *names)}
    return Hosts(LOOPBACK_HOSTS | spelled, scheme, bound in ("0.0.0.0", "::"))  # noqa: S104 - compared


def check_caller(headers: Mapping[bytes, bytes], hosts: Hosts) -> None:
    """Refuse what a page of another origin sent.

    Raises:
        PolicyDeniedError: `host_not_allowed` or `origin_not_allowed`.
    """
    host = headers.get(b"host", b"").decode("latin-1").lower()
    match = _HOST.fullmatch(host)
    if match is None or not hosts.allows(match[1]):
        raise PolicyDeniedError("The Host header names another machine.", Code.HOST_NOT_ALLOWED)
    origin = headers.get(b"origin")
    if origin is not None and origin.decode("latin-1").lower() != f"{hosts.scheme}://{host}":
        raise PolicyDeniedError(
            "The request comes from a page of another origin.", Code.ORIGIN_NOT_ALLOWED
        )
    site = headers.get(b"sec-fetch-site")
    if site is not None and site.decode("latin-1").lower() not in _FETCH_SITES:
        raise PolicyDeniedError(
            "The request comes from a page of another site.", Code.ORIGIN_NOT_ALLOWED
        )


def check_json(headers: Mapping[bytes, bytes], *, unsaid: bool = False) -> None:
    """Require a JSON body, which no HTML form can send.

    `unsaid`: it may be called anything, or nothing, by what is no browser: those never leave out
    what they are, and a page cannot change it without asking first.

    Raises:
        InvalidRequestError: `unsupported_media_type`.
    """
    kind = headers.get(b"content-type", b"").decode("latin-1")
    is_json = kind.partition(";")[0].strip().lower() == "application/json"
    if not is_json and not (unsaid and not _is_browser(headers)):
        raise InvalidRequestError(
            "The body must be JSON (Content-Type: application/json).", Code.UNSUPPORTED_MEDIA_TYPE
        )
    if headers.get(b"content-encoding", b"identity").strip().lower() != b"identity":
        raise InvalidRequestError("The body must not be compressed.", Code.UNSUPPORTED_MEDIA_TYPE)


def _is_browser(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a page may have sent it; also one of an old browser, which names no origin."""
    agent = headers.get(b"user-agent", b"").strip().lower()
    return agent.startswith(_BROWSERS) or any(name in headers for name in _OF_PAGES)
