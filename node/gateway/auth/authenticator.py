"""Who calls the gateway: a bearer key, a signed request, or nobody in particular on loopback.

The rule for keys: whatever begins with `aigrid-` is a key of ours and has to hold, however it is
introduced in `Authorization` or `x-api-key`. What else a client sends as its key ("unused", as SDKs
demand one) counts as none: on a loopback gateway without keys it is passed over, anywhere else the
request is refused. A signature has to hold wherever one is sent. So no credential that fails ever
falls back to a weaker way in.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import trio

from aigrid.node.discovery.grid import NowMs
from aigrid.node.gateway.http.request import Request
from aigrid.node.policy.access import Access
from aigrid.node.policy.api_keys import KEY_PREFIX, Actor
from aigrid.node.policy.caller import LOOPBACK, Caller
from aigrid.protocol.credential_kinds import PURPOSE as PURPOSE_FORM
from aigrid.protocol.errors import AigridError, Code, InvalidRequestError, PolicyDeniedError
from aigrid.protocol.identity import public_key_of_did
from aigrid.protocol.limits import LIMITS

PURPOSE, ACCEPTS = "x-aigrid-purpose", "x-aigrid-accept-license"
_CARRIERS: Final = frozenset({b"authorization", b"x-api-key"})
_FORWARDED: Final = frozenset({b"forwarded", b"x-forwarded-for", b"x-real-ip", b"via"})
_SIGNED: Final = frozenset({b"signature", b"signature-input"})
_PURPOSE = re.compile(rf"(?=.{{1,{LIMITS.purpose_max_chars}}}\Z){PURPOSE_FORM}")
_LICENSE = re.compile(rf"[A-Za-z0-9][A-Za-z0-9.+-]{{0,{LIMITS.name_max_chars - 1}}}")


@dataclass(frozen=True, slots=True)
class Authenticated:
    """Who calls, by which actor's key, and the SHA-256 that the body must have if it is signed."""

    caller: Caller
    actor: Actor | None = None
    digest: bytes | None = None


class Authenticator:
    """Decides who calls. `keyless` serves callers without a key: for loopback only.

    Attributes:
        meter: what the callers have used.
        refused: how many requests were `unauthenticated`.
    """

    def __init__(self, access: Access, *, keyless: bool, now_ms: NowMs) -> None:
        self.keyless = keyless
        self.meter = access.meter
        self.refused = 0
        self._keys = access.keys
        self._nonces = access.nonces
        self._now_ms = now_ms
        self._held = 0
        self._next_seconds = -math.inf

    async def authenticate(self, request: Request) -> Authenticated:
        """Who sent a request, by its header.

        Whoever guesses keys is slowed down: beyond a rate, the refusal waits. Those who have a key
        never do.

        Raises:
            AigridError: `unauthenticated`, or what is wrong with the headers.
        """
        try:
            return self.check(request)
        except AigridError as error:
            if error.code is Code.UNAUTHENTICATED:
                self.refused += 1
                await self._wait_turn()
            raise

    def check(self, request: Request) -> Authenticated:
        """The same, at once."""
        fields = request.headers
        keys = _keys_in(fields)
        if any(name in _SIGNED for name, _ in fields):
            if keys:
                raise _refused("A request has one credential: a key or a signature.")
            found = self._signed(request)
        elif keys:
            found = self._keyed(keys)
        elif self.keyless and not any(name in _FORWARDED for name, _ in fields):
            found = Authenticated(LOOPBACK)
        elif self.keyless:  # the proxy is on this machine, its clients are anywhere
            raise _refused("Who comes through a proxy needs a key.")
        else:
            raise _refused("This gateway serves nobody without a key.")
        return _with_wishes(found, fields)

    def _keyed(self, keys: set[str]) -> Authenticated:
        actor = self._keys.by_key(keys.pop(), self._now_ms()) if len(keys) == 1 else None
        if actor is None:
            raise _refused("The key is not valid here, or not any more.")
        return Authenticated(Caller(actor.name, "key"), actor)

    def _signed(self, asked: Request) -> Authenticated:
        from aigrid.node.gateway.auth import message_signatures  # late: only where somebody signs

        now_ms = self._now_ms()
        actors: list[Actor] = []

        def key_of(keyid: str) -> bytes | None:
            did, _, fragment = keyid.partition("#")
            actor = self._keys.by_did(did, now_ms)
            if actor is None or (fragment and f"did:key:{fragment}" != did):
                return None
            actors.append(actor)
            return public_key_of_did(did)

        request = message_signatures.SignedRequest(
            asked.method,
            _url_of(asked),
            message_signatures.Headers(
                tuple((n.decode("latin-1"), v.decode("latin-1")) for n, v in asked.headers)
            ),
        )
        signature = message_signatures.verify(
            request, key_of, now_seconds=now_ms // 1000, covered=(PURPOSE, ACCEPTS)
        )
        actor = actors[0]
        until_ms = (signature.created_seconds + LIMITS.signature_age_seconds + 1) * 1000
        # Those of presentations, which the same key may sign, are counted apart.
        if not self._nonces.use(
            f"http {actor.did}", signature.nonce, until_ms=until_ms, now_ms=now_ms
        ):
            raise message_signatures.unauthenticated("its nonce was used before")
        caller = Caller(actor.name, "signature", actor.did)
        return Authenticated(caller, actor, signature.digest)

    async def _wait_turn(self) -> None:
        """Refusals leave evenly spaced, so that a flood of them is no burst of work either."""
        now, apart = trio.current_time(), 1 / LIMITS.auth_failures_per_second
        turn = max(self._next_seconds, now - LIMITS.auth_failures_burst * apart) + apart
        if turn > now and self._held >= LIMITS.auth_failures_held_max:
            return  # who waits holds a connection: the others get some, too
        self._next_seconds = turn
        self._held += 1
        try:
            await trio.sleep_until(turn)
        finally:
            self._held -= 1


def _keys_in(fields: Iterable[tuple[bytes, bytes]]) -> set[str]:
    """Every key of ours in the header, whatever word stands before it."""
    words = (
        word
        for name, value in fields
        if name in _CARRIERS
        for word in re.split(r"[\s,;]+", value.decode("latin-1"))
    )
    return {word for word in words if word.startswith(KEY_PREFIX)}


def _with_wishes(found: Authenticated, fields: Iterable[tuple[bytes, bytes]]) -> Authenticated:
    """With the purpose and the licences that the headers name. Raises InvalidRequestError."""
    wishes = [(n, v.decode("latin-1")) for n, v in fields if n.startswith(b"x-aigrid-")]
    purposes = [value.strip() for name, value in wishes if name == PURPOSE.encode()]
    accepts = [
        item.strip()
        for name, value in wishes
        if name == ACCEPTS.encode()
        for item in value.split(",")
    ]
    if not purposes and not accepts:
        return found
    if len(purposes) > 1 or not all(map(_PURPOSE.fullmatch, purposes)):
        raise InvalidRequestError(
            f"`{PURPOSE}` is up to {LIMITS.purpose_max_chars} of a-z and 0-9, with `-` between.",
            param=PURPOSE,
        )
    if len(accepts) > LIMITS.accepts_max or not all(map(_LICENSE.fullmatch, accepts)):
        raise InvalidRequestError(
            f"`{ACCEPTS}` lists up to {LIMITS.accepts_max} ids such as Apache-2.0.", param=ACCEPTS
        )
    caller = found.caller
    said = Caller(
        caller.actor, caller.kind, caller.did, "".join(purposes), tuple(dict.fromkeys(accepts))
    )
    return Authenticated(said, found.actor, found.digest)


def _url_of(request: Request) -> str:
    host = request.fields.get(b"host", b"").decode("latin-1")
    path = request.raw_path.decode("latin-1")
    query = request.query.decode("latin-1")
    return f"{request.scheme}://{host}{path}{'?' if query else ''}{query}"


def _refused(message: str) -> PolicyDeniedError:
    return PolicyDeniedError(message, Code.UNAUTHENTICATED)
