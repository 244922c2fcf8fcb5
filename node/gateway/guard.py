"""Keeps web pages out: which Host, Origin and fetch metadata a request may carry. Pure.

A page of another site can make a browser send requests to 127.0.0.1. Its Host gives away a name
that was rebound to us, its Origin or Sec-Fetch-Site the page itself. Nothing here ever answers
with CORS headers, so no page can read what it did not serve.
"""

import ipaddress
import re
from collections.abc import Mapping

from aigrid.protocol.errors import Code, InvalidRequestError, PolicyDeniedError, UsageError

LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "[::1]"})
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(?::[0-9]{1,5})?")
_FETCH_SITES = frozenset({"same-origin", "none"})


def loopback_address(host: str) -> str:
    """The address to bind for `host`: a loopback literal, or `localhost`.

    Raises:
        UsageError: `unsafe_binding` for anything else; names are not resolved.
    """
    if host == "localhost":
        return "127.0.0.1"
    try:
        address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        address = None
    if address is None or not address.is_loopback or getattr(address, "ipv4_mapped", None):
        raise UsageError(
            f"The gateway may not listen on {host!r}: it has no keys and no TLS yet.",
            Code.UNSAFE_BINDING,
        )
    return str(address)


def allowed_hosts(bound: str) -> frozenset[str]:
    """What a Host header may name when the gateway listens on `bound`."""
    return LOOPBACK_HOSTS | {f"[{bound}]" if ":" in bound else bound}


def check_caller(headers: Mapping[bytes, bytes], hosts: frozenset[str]) -> None:
    """Refuse what a page of another origin sent.

    Raises:
        PolicyDeniedError: `host_not_allowed` or `origin_not_allowed`.
    """
    host = headers.get(b"host", b"").decode("latin-1").lower()
    match = _HOST.fullmatch(host)
    if match is None or match[1] not in hosts:
        raise PolicyDeniedError("The Host header names another machine.", Code.HOST_NOT_ALLOWED)
    origin = headers.get(b"origin")
    if origin is not None and origin.decode("latin-1").lower() != f"http://{host}":
        raise PolicyDeniedError(
            "The request comes from a page of another origin.", Code.ORIGIN_NOT_ALLOWED
        )
    site = headers.get(b"sec-fetch-site")
    if site is not None and site.decode("latin-1").lower() not in _FETCH_SITES:
        raise PolicyDeniedError(
            "The request comes from a page of another site.", Code.ORIGIN_NOT_ALLOWED
        )


def check_json(headers: Mapping[bytes, bytes]) -> None:
    """Require a JSON body, which no HTML form can send.

    Raises:
        InvalidRequestError: `unsupported_media_type`.
    """
    kind = headers.get(b"content-type", b"").decode("latin-1")
    if kind.partition(";")[0].strip().lower() != "application/json":
        raise InvalidRequestError(
            "The body must be JSON (Content-Type: application/json).", Code.UNSUPPORTED_MEDIA_TYPE
        )
    if headers.get(b"content-encoding", b"identity").strip().lower() != b"identity":
        raise InvalidRequestError("The body must not be compressed.", Code.UNSUPPORTED_MEDIA_TYPE)
