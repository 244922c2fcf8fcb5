"""Headers of a request that the gateway itself reads: who asks, how patiently, for which trace."""

from contextlib import suppress
from types import SimpleNamespace
from typing import Any, cast

from scripts.fuzzing.mutations import Text
from scripts.fuzzing.target import RefusedError, Target

from aigrid.node.gateway.auth.authenticator import Authenticator
from aigrid.node.gateway.http.guard import allowed_hosts, check_caller
from aigrid.node.gateway.http.request import Request
from aigrid.node.gateway.limits import GatewayLimits
from aigrid.node.gateway.patience import wish_of
from aigrid.node.gateway.sparql import accepted
from aigrid.node.observing.trace import traceparent_of
from aigrid.node.policy.api_keys import KEY_PREFIX
from aigrid.protocol.errors import AigridError
from aigrid.protocol.limits import LIMITS

_KEY = f"{KEY_PREFIX}one"
_ACTOR: Any = SimpleNamespace(name="somebody", did="did:key:z6Mk")
_NOW_MS = 1_790_000_000_000


def _authenticator(*, keyless: bool) -> Authenticator:
    keys = SimpleNamespace(
        by_key=lambda key, _now_ms: _ACTOR if key == _KEY else None, by_did=lambda *_: None
    )
    access = SimpleNamespace(meter=None, keys=keys, nonces=None)
    return Authenticator(cast("Any", access), keyless=keyless, now_ms=lambda: _NOW_MS)


_ASKED = tuple(_authenticator(keyless=keyless) for keyless in (True, False))
_HOSTS = allowed_hosts("127.0.0.1")
_LIMITS = GatewayLimits()


def _request(data: bytes) -> Request | None:
    """The first line is the target, the others are headers; None for a path that is none."""
    target, *lines = data.split(b"\n")
    pairs = [line.partition(b": ") for line in lines]
    headers = [(name.lower(), value) for name, _, value in pairs]
    try:
        return Request(cast("Any", None), b"POST", target, headers)
    except ValueError:
        return None


def _headers(data: bytes) -> None:
    """Nobody who has no key is let in where one is needed; raises what the last of all refused."""
    request = _request(data)
    if request is None:
        raise RefusedError
    traceparent_of(request.fields)
    accepted(request.fields.get(b"accept", b"").decode("latin-1"))
    with suppress(AigridError):
        wish = wish_of(request.fields, None, _LIMITS)
        assert 0 <= wish.patience_seconds <= LIMITS.patience_max_seconds
        assert wish.keep_alive_seconds is None or wish.keep_alive_seconds >= 0
    with suppress(AigridError):
        check_caller(request.fields, _HOSTS)
    for one in _ASKED:
        try:
            found = one.check(request)
        except AigridError:
            if not one.keyless:
                raise
            continue
        assert one.keyless or found.actor is _ACTOR
        assert found.actor is None or _KEY.encode() in data
        assert len(found.caller.purpose) <= LIMITS.purpose_max_chars


_LINES = (
    b"/v1/chat/completions?a=b",
    b"host: 127.0.0.1:8080",
    b"authorization: Bearer " + _KEY.encode(),
    b"x-api-key: " + _KEY.encode(),
    b"x-aigrid-patience: 12.5",
    b"x-aigrid-keep-alive: 5m",
    b"x-aigrid-purpose: research",
    b"x-aigrid-accept-license: Apache-2.0, MIT",
    b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    b"origin: http://127.0.0.1:8080",
    b"sec-fetch-site: same-origin",
    b"accept: application/sparql-results+json;q=0.9, text/turtle, */*;q=0.1",
)
_SIGNED = (
    b"/v1/chat/completions",
    b"host: 127.0.0.1",
    b'signature-input: sig1=("@method" "@path");created=1790000000;keyid="did:key:z"',
    b"signature: sig1=:AAAA:",
    b"content-digest: sha-256=:AAAA:",
    b"via: 1.1 proxy",
    b"x-forwarded-for: 192.0.2.1",
)
_WORDS = (
    *(b"authorization", b"x-api-key", b"Bearer", b"Basic", _KEY.encode(), b"aigrid-", b"-1", b"1h"),
    *(b"forwarded", b"via", b"x-aigrid-purpose", b"x-aigrid-accept-license", b"cross-site", b"%2f"),
    *(
        b"http://[::1]",
        b"http://a/",
        b"null",
        b"999999.999999",
        b"-1ms",
        b"1e5",
        b", ",
        b";q=",
        b";",
        b"*",
    ),
)
TARGETS = (
    Target(
        "gateway-headers",
        lambda: Text([b"\n".join(_LINES), b"\n".join(_LINES[:5]), b"\n".join(_SIGNED)], _WORDS),
        _headers,
        (AigridError,),
    ),
)
