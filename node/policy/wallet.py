"""The credentials that this node holds, and those that it has issued.

What it holds are chains that end at its own DID: they say what it may do elsewhere. What others
hold is only remembered here if this node signed it, so that it can be shown and revoked. Who hands
credentials over without being asked has little room, and the operator's own imports come first.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from aigrid.metagraph.database import Database
from aigrid.node.policy.links import Chain, chain_of, on_behalf_of, parent_of, shortest
from aigrid.protocol.chain import check_form, check_link
from aigrid.protocol.credential_kinds import (
    DelegationBody,
    GrantBody,
    Permission,
    check_permission,
)
from aigrid.protocol.errors import (
    Code,
    InvalidRequestError,
    LocalError,
    PolicyDeniedError,
    VerificationError,
)
from aigrid.protocol.identity import Identity, public_key_of_did
from aigrid.protocol.kinds import Kind
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.record import Record, build, check_time, verify_form_and_signature
from aigrid.protocol.record_status import StatusEntry

_KINDS = frozenset({Kind.GRANT, Kind.DELEGATION})
_ENDING = re.compile(r"[a-z0-9]{8,64}")  # enough of an id to be named by
_Ready = dict[tuple[bool, str], tuple[Chain, ...]]  # by whether they have ended, and behalf
_COLUMNS = "raw, held, issued, given_by, received_ms"


class Entries(Protocol):
    """Where a credential gets its place in a status list: see `StatusKeeper`."""

    def entry(self, signer: str, name: str, max_age_seconds: int) -> StatusEntry:
        """A place in the list of the DID `signer` for what is called `name`."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A credential that is held here, was issued here, or both.

    `given_by` is the PeerId that sent it unasked, or "". Times are milliseconds since the epoch.
    """

    record: Record
    held: bool
    issued: bool
    given_by: str
    received_ms: int


@dataclass(frozen=True, slots=True)
class Terms:
    """How long a new credential is valid, how old its status may be, how often it is passed on."""

    valid_ms: int = LIMITS.grant_default_seconds * 1000
    status_age_seconds: int = LIMITS.status_age_grant_seconds
    delegable: int = 0


class Wallet:
    """Over the table `credentials`; what is held is in memory, for `chains` is asked per request.

    Only `did`, the key of this node, holds anything here.
    """

    def __init__(
        self,
        database: Database,
        identity: Identity,
        *,
        entries: Entries,
        now_ms: Callable[[], int],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._database = database
        self._identity = identity
        self._entries = entries
        self._now_ms = now_ms
        self._random_bytes = random_bytes
        self._drop_expired(now_ms() - LIMITS.grant_default_seconds * 1000)
        self._held = {kept.record.content_id: kept for kept in self._found("WHERE held", ())}
        self._chains: _Ready = {}
        self._until_ms: float = 0.0  # when `_chains` has to be made anew

    # --- what this node may do elsewhere

    def chains(self, behalf_of: str = "", *, ended: bool = False) -> tuple[Chain, ...]:
        """Complete chains that end at this node and have not expired, fewest links first.

        With `behalf_of`, a DID that has proved itself here, only those whose last link that DID
        signed for its own requests; without, only those that are for anybody's. `ended`: instead
        those that have expired and are not dropped yet, for a refusal to name.
        """
        now_ms = self._now_ms()
        if now_ms >= self._until_ms:
            self._chains, self._until_ms = self._ready_chains(now_ms)
        return self._chains.get((ended, behalf_of), ())

    def take(self, raws: Sequence[bytes], *, given_by: str = "") -> Chain:
        """Keep a chain that ends at this node; links that are held need not come again.

        Args:
            raws: its credentials as they were signed, in any order.
            given_by: the PeerId that sent them, or "" where the operator brings them.

        Returns:
            The records of `raws`, all of which are held now.

        Raises:
            VerificationError: one does not hold by itself, or has expired.
            PolicyDeniedError: they are no chain that ends here, and nothing else.
            LocalError: `over_quota`.
        """
        if not 1 <= len(raws) <= LIMITS.chain_max:
            text = f"not 1 to {LIMITS.chain_max} credentials"
            raise PolicyDeniedError(text, Code.CHAIN_TOO_LONG)
        records = tuple(self._verified(raw) for raw in raws)
        self._check_ends_here(records)
        self._make_room(records, given_by)
        with self._database.transaction():
            for record in records:
                self._put(record, held=True, given_by=given_by)
        return records

    def forget(self, content_id: str) -> bool:
        """Hold a credential no longer, nor what was passed on from it; whether it was held."""
        if content_id not in self._held:
            return False
        gone = [content_id]
        for one in gone:  # grows while it is walked
            gone += [name for name, kept in self._held.items() if parent_of(kept.record) == one]
        with self._database.transaction():
            for one in gone:
                self._held.pop(one, None)
                self._database.execute(
                    "UPDATE credentials SET held = 0 WHERE content_id = ?", (one,)
                )
            self._database.execute("DELETE FROM credentials WHERE NOT held AND NOT issued")
        self._until_ms = 0.0
        return True

    # --- what others may do

    def issue(self, signer: Identity, to: str, permission: Permission, terms: Terms) -> Record:
        """Sign a grant to the DID `to`, with this node's key or the authority's.

        Raises:
            VerificationError: it would be refused elsewhere.
        """
        public_key_of_did(to)
        check_permission(permission)
        grant = self._sign(Kind.GRANT, GrantBody(to, permission, terms.delegable), signer, terms)
        self._put(grant, held=to == self._identity.did, issued=True)
        return grant

    def delegate(
        self,
        parent: str,
        to: str,
        permission: Permission,
        terms: Terms,
        *,
        on_behalf: bool = False,
    ) -> Chain:
        """Pass on to the DID `to` part of what is held; the whole chain, for it to present.

        Never valid for longer than what it comes from. `parent`: see `get`.

        Raises:
            InvalidRequestError: `not_found`: no such credential is held.
            PolicyDeniedError: it may not be passed on, or not this much of it.
            VerificationError: it would be refused elsewhere.
        """
        links = self.chain(parent)
        if links[-1].subject != self._identity.did:
            raise PolicyDeniedError("only its holder can pass it on", Code.NOT_HOLDER)
        if on_behalf_of(links[-1]):
            text = "it is for its issuer's own requests here, and is not passed on"
            raise PolicyDeniedError(text, Code.NOT_DELEGABLE)
        public_key_of_did(to)
        check_permission(permission)
        body = DelegationBody(to, links[-1].content_id, permission, terms.delegable, on_behalf)
        until_ms = links[-1].valid_until_ms
        link = self._sign(Kind.DELEGATION, body, self._identity, terms, until_ms=until_ms)
        problem = check_link(links[-1], link)
        if problem is not None:
            raise PolicyDeniedError(problem.text, problem.code)
        self._put(link, held=to == self._identity.did, issued=True)
        return (*links, link)

    # --- what there is

    def get(self, content_id: str) -> Kept:
        """A credential that is held or was issued here, by its id, or the only one that ends so.

        Raises InvalidRequestError: `not_found`; `invalid_request` where several ids end so.
        """
        kept = self._held.get(content_id)
        if kept is not None:
            return kept
        found = self._found("WHERE content_id = ?", (content_id,))
        if not found and _ENDING.fullmatch(content_id):
            found = self._found("WHERE content_id LIKE ? LIMIT 2", (f"%{content_id}",))
        if not found:
            raise InvalidRequestError(
                f"no credential {content_id[:64]} is held or was issued here; `aigrid credential "
                "list` shows those that are",
                Code.NOT_FOUND,
            )
        if len(found) > 1:
            text = f"several credentials end in {content_id[:64]}: give more of it"
            raise InvalidRequestError(text)
        return found[0]

    def chain(self, last: str | Record) -> Chain:
        """A credential after all that it comes from, as far as these are here.

        Raises as `get` does, for an id.
        """
        last = self.get(last).record if isinstance(last, str) else last
        if not parent_of(last):
            return (last,)
        links = chain_of(last, {name: kept.record for name, kept in self._held.items()})
        return links or (last,)

    def all(self, *, held: bool = False, issued: bool = False) -> list[Kept]:
        """The newest `credentials_listed_max`, oldest first; what has expired for a while yet.

        Only what is `held`, or `issued` here, where that is said.
        """
        return self._newest("held >= ? AND issued >= ?", (held, issued))

    def is_stray(self, content_id: str) -> bool:
        """Whether a chain that is held ends with it, and at a key that this node had before."""
        kept = self._held.get(content_id)
        if kept is None or kept.record.subject == self._identity.did:
            return False
        return all(parent_of(other.record) != content_id for other in self._held.values())

    def issued_to(self, did: str) -> tuple[Chain, ...]:
        """Chains whose last link this node issued to `did`, the newest `credentials_listed_max`."""
        named = self._newest("issued AND instr(raw, ?)", (did.encode("ascii"),))
        ends = [kept.record for kept in named if kept.record.subject == did]
        return tuple(self.chain(record) for record in ends)

    def _newest(self, which: str, values: tuple[Any, ...]) -> list[Kept]:
        last = f"WHERE {which} ORDER BY received_ms DESC, content_id LIMIT ?"
        return self._found(last, (*values, LIMITS.credentials_listed_max))[::-1]

    def _found(self, which: str, values: tuple[Any, ...]) -> list[Kept]:
        rows = self._database.rows(
            f"SELECT {_COLUMNS} FROM credentials {which}",  # noqa: S608 - ours
            values,
        )
        return [
            Kept(verify_form_and_signature(bytes(raw)), bool(held), bool(issued), given_by, at_ms)
            for raw, held, issued, given_by, at_ms in rows
        ]

    # --- inside

    def _sign(
        self,
        kind: Kind,
        body: GrantBody | DelegationBody,
        signer: Identity,
        terms: Terms,
        *,
        until_ms: int | None = None,
    ) -> Record:
        """Valid from now, and not beyond `until_ms`."""
        now_ms = self._now_ms()
        name = f"{kind.value} {self._random_bytes(16).hex()}"
        valid_until_ms = now_ms + terms.valid_ms
        return build(
            kind,
            body,
            signer,
            valid_from_ms=now_ms,
            valid_until_ms=valid_until_ms if until_ms is None else min(valid_until_ms, until_ms),
            status=self._entries.entry(signer.did, name, terms.status_age_seconds),
        )

    def _verified(self, raw: bytes) -> Record:
        record = verify_form_and_signature(raw)
        if record.kind not in _KINDS:
            text = f"a {record.kind.value} is no grant or delegation"
            raise VerificationError(text, Code.UNKNOWN_KIND)
        check_time(record, self._now_ms())
        return record

    def _check_ends_here(self, records: Chain) -> None:
        """Raise PolicyDeniedError unless each record is needed for a chain to this node."""
        did = self._identity.did
        known = {name: kept.record for name, kept in self._held.items()}
        known |= {record.content_id: record for record in records}
        ends = [record for record in records if record.subject == did]
        if not ends:
            raise PolicyDeniedError("it was issued to another key", Code.NOT_HOLDER)
        needed: set[str] = set()
        for end in ends:
            links = chain_of(end, known)
            if links is None:
                text = "what it was passed on from is missing"
                raise PolicyDeniedError(text, Code.CHAIN_BROKEN)
            problem = check_form(links, did)
            if problem is not None:
                raise PolicyDeniedError(problem.text, problem.code)
            if any(map(on_behalf_of, links[:-1])):
                text = "what was for its issuer's own requests alone has been passed on"
                raise PolicyDeniedError(text, Code.NOT_DELEGABLE)
            needed |= {link.content_id for link in links}
        if any(record.content_id not in needed for record in records):
            text = "one of the credentials does not belong to the chain"
            raise PolicyDeniedError(text, Code.CHAIN_BROKEN)

    def _make_room(self, records: Chain, given_by: str) -> None:
        """Raise LocalError(`over_quota`) unless there is room, once what has expired is gone."""
        news = {record.content_id for record in records} - self._held.keys()
        if self._has_room(len(news), given_by):
            return
        self._drop_expired(self._now_ms())
        now_ms = self._now_ms()
        live = {n: k for n, k in self._held.items() if k.record.valid_until_ms > now_ms}
        self._held = live
        if not self._has_room(len(news), given_by):
            whose = "of this peer" if given_by else "of others"
            text = f"this node keeps no more credentials {whose}: `aigrid credential forget` some"
            raise LocalError(text, Code.OVER_QUOTA)

    def _has_room(self, news: int, given_by: str) -> bool:
        if not news:
            return True
        held = self._held.values()
        if len(held) + news > LIMITS.credentials_held_max:
            return False
        if not given_by:
            return True
        given = [kept.given_by for kept in held if kept.given_by]
        return (
            len(given) + news <= LIMITS.credentials_given_max
            and given.count(given_by) + news <= LIMITS.credentials_of_one_max
        )

    def _put(self, record: Record, *, held: bool, issued: bool = False, given_by: str = "") -> None:
        before = self._held.get(record.content_id)
        if before is not None:  # what the operator has brought as well counts as the operator's
            issued = issued or before.issued
            given_by = given_by and before.given_by
        kept = Kept(record, held, issued, given_by, self._now_ms())
        self._database.execute(
            "INSERT INTO credentials (content_id, valid_until_ms, raw, held, issued, given_by,"
            " received_ms) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (content_id) DO UPDATE"
            " SET held = excluded.held, issued = issued OR excluded.issued,"
            " given_by = excluded.given_by",
            (
                record.content_id,
                record.valid_until_ms,
                record.raw,
                held,
                issued,
                given_by,
                kept.received_ms,
            ),
        )
        if held:
            self._held[record.content_id] = kept
            self._until_ms = 0.0

    def _drop_expired(self, now_ms: int) -> None:
        self._database.execute("DELETE FROM credentials WHERE valid_until_ms <= ?", (now_ms,))

    def _ready_chains(self, now_ms: int) -> tuple[dict[tuple[bool, str], tuple[Chain, ...]], float]:
        """The answers of `chains`, and when they change because something expires."""
        did, until_ms = self._identity.did, math.inf
        held = {name: kept.record for name, kept in self._held.items()}
        found: dict[tuple[bool, str], list[Chain]] = {}
        for end in held.values():
            links = chain_of(end, held) if end.subject == did else None
            if links is None or check_form(links, did) or any(map(on_behalf_of, links[:-1])):
                continue
            ends_ms = min(link.valid_until_ms for link in links)
            found.setdefault((ends_ms <= now_ms, on_behalf_of(end)), []).append(links)
            until_ms = min(until_ms, ends_ms if ends_ms > now_ms else math.inf)
        ready = {who: tuple(sorted(chains, key=shortest)) for who, chains in found.items()}
        return ready, until_ms
