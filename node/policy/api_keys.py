"""The actors that may call this node's gateway, and their keys.

A bearer key is `aigrid-` and 256 random bits in base64url. It is shown once: kept is its SHA-256,
which for a random key is as good as a slow hash and costs a third of a microsecond. All actors are
in memory, so a wrong key costs one hash and no query; this process alone writes the table.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from aigrid.metagraph.database import Database
from aigrid.node.policy.limits import ActorLimits, Usage
from aigrid.protocol.errors import Code, InvalidRequestError, UsageError, VerificationError
from aigrid.protocol.identity import public_key_of_did
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.timestamp import parse_ms

KEY_PREFIX: Final = "aigrid-"
_KEY_BYTES, _ID_BYTES = 32, 8
_KEY = re.compile(r"aigrid-[A-Za-z0-9_-]{43}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_RESERVED = frozenset({"operator", "loopback"})
_NOBODY = bytes(32)
_LATEST_MS = parse_ms("9999-12-31T23:59:59.999Z")


@dataclass(frozen=True, slots=True)
class Actor:
    """Somebody who may call. `did` is "" for who has a bearer key; `expires_ms` 0 means never."""

    id: str
    name: str
    did: str
    limits: ActorLimits
    created_ms: int
    expires_ms: int

    def live(self, now_ms: int) -> bool:
        """Whether it has not expired."""
        return not self.expires_ms or now_ms < self.expires_ms


class ApiKeys:
    """The table `actors`. Its errors are UsageErrors where the database cannot be used."""

    def __init__(self, database: Database, *, random_bytes: Callable[[int], bytes]) -> None:
        self._database = database
        self._random_bytes = random_bytes
        self._actors: dict[str, Actor] = {}
        self._by_digest: dict[bytes, Actor] = {}
        self._by_did: dict[str, Actor] = {}
        rows = database.rows(
            "SELECT id, name, did, limits, created_ms, expires_ms, digest FROM actors"
        )
        for row in rows:
            limits = msgspec.json.decode(row[3], type=ActorLimits)
            self._add(Actor(row[0], row[1], row[2] or "", limits, row[4], row[5]), row[6])

    def create(
        self, name: str, limits: ActorLimits, *, did: str = "", expires_ms: int = 0, now_ms: int
    ) -> tuple[Actor, str]:
        """A new actor, and its bearer key; "" where it has a key pair of its own.

        Raises:
            UsageError: a name, DID or time that cannot be, or that another actor has.
        """
        self._check(name, did, expires_ms, now_ms)
        actor = Actor(self._random_bytes(_ID_BYTES).hex(), name, did, limits, now_ms, expires_ms)
        key, digest = "", None
        if not did:
            random = base64.urlsafe_b64encode(self._random_bytes(_KEY_BYTES))
            key = KEY_PREFIX + random.decode().rstrip("=")
            digest = _digest(key)
        self._database.execute(
            "INSERT INTO actors (id, name, digest, did, limits, created_ms, expires_ms)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                actor.id,
                name,
                digest,
                did or None,
                msgspec.json.encode(limits).decode(),
                now_ms,
                expires_ms,
            ),
        )
        self._add(actor, digest)
        return actor, key

    def revoke(self, wanted: str) -> Actor:
        """Forget the actor with this id, name or key; no later request of it is served.

        Raises:
            InvalidRequestError: `not_found`; what looks like a key is not repeated.
        """
        if wanted.startswith(KEY_PREFIX):
            actor = self._by_digest.get(_digest(wanted)) if _KEY.fullmatch(wanted) else None
            wanted = "of that kind"
        else:
            actor = self._actors.get(wanted) or self._named(wanted)
            wanted = repr(wanted[:80])
        if actor is None:
            raise InvalidRequestError(
                f"there is no key {wanted}: see `aigrid key list`", Code.NOT_FOUND
            )
        # A key that was taken back must not be good again because the power failed.
        self._database.execute_durably("DELETE FROM actors WHERE id = ?", (actor.id,))
        self._actors.pop(actor.id)
        self._by_did.pop(actor.did, None)
        self._by_digest = {d: a for d, a in self._by_digest.items() if a.id != actor.id}
        return actor

    def all(self) -> tuple[Actor, ...]:
        """Everybody, by name."""
        return tuple(sorted(self._actors.values(), key=lambda actor: actor.name))

    def by_key(self, key: str, now_ms: int) -> Actor | None:
        """Whose key it is, unless it has expired."""
        if not _KEY.fullmatch(key):
            return None
        digest = _digest(key)
        found = self._by_digest.get(digest)
        # What the table's own comparison gives away is of a digest that nobody can choose. Equal
        # is decided in constant time all the same.
        known = digest if found is not None else _NOBODY
        if not hmac.compare_digest(known, digest) or found is None or not found.live(now_ms):
            return None
        return found

    def by_did(self, did: str, now_ms: int) -> Actor | None:
        """Who calls with the key of this DID, unless it has expired."""
        found = self._by_did.get(did)
        return found if found is not None and found.live(now_ms) else None

    def holds(self, actor: Actor) -> bool:
        """Whether it has not been revoked."""
        return actor.id in self._actors

    def usage(self, actor: Actor) -> Usage:
        """What was kept of its use."""
        row = self._database.row("SELECT day, day_tokens FROM actors WHERE id = ?", (actor.id,))
        return Usage() if row is None else Usage(day=int(row[0]), day_tokens=int(row[1]))

    def keep_usage(self, actor: Actor, usage: Usage) -> None:
        """Keep the tokens of the day, so that they count after a restart."""
        self._database.execute(
            "UPDATE actors SET day = ?, day_tokens = ? WHERE id = ?",
            (usage.day, usage.day_tokens, actor.id),
        )

    def _check(self, name: str, did: str, expires_ms: int, now_ms: int) -> None:
        if not _NAME.fullmatch(name) or name in _RESERVED or name.startswith(KEY_PREFIX):
            raise UsageError(
                "that cannot be a name: use up to 64 letters, digits, dots and dashes, and "
                f"none of {KEY_PREFIX}..., {', '.join(sorted(_RESERVED))}"
            )
        if self._named(name) is not None:
            raise UsageError(f"{name!r} has a key already: `aigrid key revoke {name}` removes it")
        if len(self._actors) >= LIMITS.actors_max:
            raise UsageError(
                f"there are {LIMITS.actors_max} keys already: revoke one first", Code.OVER_QUOTA
            )
        if expires_ms and not now_ms < expires_ms <= _LATEST_MS:
            raise UsageError("a key expires later than now, and no later than in the year 9999")
        if did:
            try:
                public_key_of_did(did)
            except VerificationError:
                raise UsageError(f"{did[:80]!r} is no DID such as did:key:z6Mk...") from None
            if did in self._by_did:
                raise UsageError(f"that DID is listed already, as {self._by_did[did].name!r}")

    def _named(self, name: str) -> Actor | None:
        return next((actor for actor in self._actors.values() if actor.name == name), None)

    def _add(self, actor: Actor, digest: bytes | None) -> None:
        self._actors[actor.id] = actor
        if digest is not None:
            self._by_digest[bytes(digest)] = actor
        else:
            self._by_did[actor.did] = actor


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("ascii")).digest()
