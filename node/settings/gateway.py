"""The settings of the gateway, and what is wrong with a value: `config` puts them together."""

import ipaddress
import re
from pathlib import Path
from typing import Any

from aigrid.node.settings.setting import BadValueError, Spelled, kind_of, of_user, port_of, texts
from aigrid.protocol.errors import Code, UsageError
from aigrid.protocol.host_names import HOST_NAME
from aigrid.protocol.limits import LIMITS

DEFAULT_GATEWAY_HOST = "127.0.0.1"
SELF_SIGNED = "self-signed"

_NAME = re.compile(HOST_NAME)
_WORDS = {"1": True, "true": True, "yes": True, "on": True} | {
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}


def boolean(value: Any) -> bool:
    """Raises BadValueError."""
    if isinstance(value, bool):
        return value
    if isinstance(value, Spelled) and value.lower() in _WORDS:
        return _WORDS[value.lower()]
    if isinstance(value, Spelled):
        raise BadValueError("must be true or false")
    raise BadValueError(f"must be true or false, and is {kind_of(value)}")


def gateway_address(value: Any) -> tuple[str, int]:
    """HOST:PORT. Raises BadValueError."""
    host, colon, text = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    host, port = host.removeprefix("[").removesuffix("]"), port_of(text)
    if not colon or port is None:
        raise BadValueError("is not of the form 127.0.0.1:8080 (port 0 means any)")
    if host == "localhost":
        host = DEFAULT_GATEWAY_HOST
    try:
        return str(ipaddress.ip_address(host)), port
    except ValueError:
        raise BadValueError(
            "must be on 127.0.0.1, or with TLS on another address of this machine",
            Code.UNSAFE_BINDING,
        ) from None


def host_names(value: Any) -> tuple[str, ...]:
    """DNS names and addresses, each in its usual spelling. Raises BadValueError."""
    names = tuple(dict.fromkeys(map(_spelled, texts(value, "a list of names of this machine"))))
    if len(names) > LIMITS.config_addresses_max or "" in names:
        raise BadValueError(
            f"must be at most {LIMITS.config_addresses_max} names such as node.example.org"
        )
    return names


def tls_mode(value: Any) -> str:
    """`self-signed`, or "" for none. Raises BadValueError."""
    if value not in ("", SELF_SIGNED):
        raise BadValueError(f"must be {SELF_SIGNED}; or give tls_cert and tls_key")
    return str(value)


def file_path(value: Any) -> Path:
    """Raises BadValueError."""
    if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
        raise BadValueError("must be the path of a file")
    try:
        return of_user(value).absolute()
    except UsageError as error:
        raise BadValueError(f"is wrong: {error.message}") from None


def patience(value: Any) -> float:
    """Seconds. Raises BadValueError."""
    must = f"must be seconds, from 0 to {LIMITS.patience_max_seconds:g}"
    if isinstance(value, bool) or not isinstance(value, int | float | Spelled):
        raise BadValueError(f"{must}, and is {kind_of(value)}")
    try:
        seconds = float(value)
    except (OverflowError, ValueError):
        seconds = float("nan")
    if not 0 <= seconds <= LIMITS.patience_max_seconds:
        raise BadValueError(must)
    return seconds


def check_gateway(host: str, tls: str, certificate: Path | None, key: Path | None) -> None:
    """Whether the settings go together.

    Raises:
        UsageError: `usage`, or `unsafe_binding`.
    """
    if (certificate is None) != (key is None):
        raise UsageError("a certificate needs its key: give tls_cert and tls_key")
    if tls and certificate is not None:
        raise UsageError("a gateway has one certificate: give tls, or tls_cert and tls_key")
    if not tls and certificate is None and host not in (DEFAULT_GATEWAY_HOST, "::1"):
        raise UsageError(
            f"a gateway on {host} that other machines reach needs TLS: `--tls self-signed`, or "
            "tls_cert and tls_key; its callers need keys: `aigrid key create NAME`",
            Code.UNSAFE_BINDING,
        )


def _spelled(name: str) -> str:
    """As certificates and clients spell it; "" for what is no name."""
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name.lower() if _NAME.fullmatch(name) else ""
    # A zone means something on this machine alone.
    return "" if getattr(address, "scope_id", None) else str(address)
