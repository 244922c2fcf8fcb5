"""Status lists: entries for credentials that are issued here, and lists signed here.

A node signs the list of its own DID, of its grid where it holds the authority's key, and of those
that let it, as a delegate. Whoever signs includes everything that is known to be revoked: which
list arrives where, and in which order, does not matter.
"""

from collections.abc import Callable, Sequence

import structlog
import trio

from aigrid.metagraph.graph import Metagraph
from aigrid.metagraph.revocations import STATUS_KINDS, owner_of
from aigrid.node.discovery.grid import NowMs, RandomBytes
from aigrid.protocol.credential_kinds import (
    StatusDelegationBody,
    StatusListBody,
    status_list_of,
)
from aigrid.protocol.errors import AigridError, Code, LocalError, PolicyDeniedError, UsageError
from aigrid.protocol.identity import Identity, public_key_of_did
from aigrid.protocol.kinds import Kind
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.record import Record
from aigrid.protocol.record_status import StatusEntry
from aigrid.protocol.status import Statuses, decode_bits, has_bit, list_body, with_bit

log = structlog.get_logger()
_TRIES = 64  # at a free entry by chance, before they are looked at in order


class StatusKeeper:
    """A service: `run` keeps the lists fresh that others rely on."""

    def __init__(
        self,
        graph: Metagraph,
        *,
        identity: Identity,
        authority: Callable[[], Identity | None],
        now_ms: NowMs,
        random_bytes: RandomBytes,
    ) -> None:
        """`authority` gives the key of the grid, if this node holds it."""
        self._graph = graph
        self._database = graph.store.database
        self._identity = identity
        self._authority = authority
        self._now_ms = now_ms
        self._random_bytes = random_bytes
        self._poke = trio.Event()
        self._late = False
        self._round_ms = self._settled_ms = 0
        graph.listeners.append(self._on_record)

    # --- questions

    def known(self) -> Statuses:
        """What is known of revocations now, for `decide`."""
        return self._graph.revocations.at(self._now_ms())

    def delegates(self, owner: str) -> tuple[tuple[str, ...], int]:
        """Who may sign the status list of `owner` besides it, and the quorum of these; (), 0."""
        found = self._graph.revocations.delegation(owner, self._now_ms())
        body = None if found is None else found.body
        if not isinstance(body, StatusDelegationBody):
            return (), 0
        return body.delegates, body.quorum

    def signs(self, owner: str) -> bool:
        """Whether this node may revoke what `owner` issued."""
        return bool(self._signers(owner))

    # --- changes

    def entry(
        self, signer: str, name: str, max_age_seconds: int = LIMITS.status_age_grant_seconds
    ) -> StatusEntry:
        """A place in the status list of `signer`, whose key is here, for the credential `name`.

        The same name has the same entry, until that is revoked. Others can rely on a list at once.

        Raises:
            PolicyDeniedError: `not_authority`, when the key is not here.
            LocalError: `over_quota`, when every entry was given away.
        """
        identity = self._own_key(signer)
        index = self._entry_of(signer, name)
        if index is None:
            index = self._free_entry(signer)
            self._database.execute(
                "INSERT OR REPLACE INTO status_entries VALUES (?, ?, ?)", (signer, name, index)
            )
        if self._graph.revocations.list_of(signer, identity.did, self._now_ms()) is None:
            self._sign(signer, identity)
        return StatusEntry(signer, index, max_age_seconds)

    def revoke(self, entry: StatusEntry) -> Record:
        """Revoke a credential for good; the signed list that says so.

        Raises:
            PolicyDeniedError: `not_authority`: neither the issuer's key is here, nor is this node
                one of its delegates.
        """
        signers = self._signers(entry.issuer)
        if not signers:
            raise PolicyDeniedError(
                f"it was issued by {entry.issuer}, which is not this node and does not let it"
                " revoke; run `aigrid credential revoke` there; if that is an earlier key of this"
                " node, its retired-*.key did not open when the key was changed",
                Code.NOT_AUTHORITY,
            )
        signed = [self._sign(entry.issuer, identity, entry.index) for identity in signers]
        return signed[0]

    def membership_entry(self, did: str) -> StatusEntry:
        """The entry of a membership that is about to be issued: the one it has, if any."""
        grid, current = self._graph.grid, self._graph.membership_of(did, self._now_ms())
        seconds = LIMITS.status_age_member_seconds
        entry = self.entry(grid, _member(did), seconds)
        kept = None if current is None else current.status
        if kept is None or kept.index == entry.index:
            return entry
        self._database.execute(  # what it was under is not in this database, but counts
            "INSERT OR REPLACE INTO status_entries VALUES (?, ?, ?)",
            (grid, _member(did), kept.index),
        )
        return StatusEntry(grid, kept.index, seconds)

    def revoke_membership(self, did: str) -> Record | None:
        """Revoke the membership of `did`, as the authority or its delegate.

        None where it has no entry, as those that were issued before there were any.

        Raises:
            PolicyDeniedError: `not_member`; and as `revoke`.
        """
        current = self._graph.membership_of(did, self._now_ms())
        if current is None:
            raise PolicyDeniedError(f"{did} is not a member", Code.NOT_MEMBER)
        return None if current.status is None else self.revoke(current.status)

    def delegate(self, owner: str, dids: Sequence[str], quorum: int | None = None) -> Record | None:
        """Let these sign the status list of `owner`, whose key is here; without any, nobody else.

        Without `quorum`, more than half of them have to.

        Raises:
            UsageError: these cannot be delegates.
            PolicyDeniedError: `not_authority`, when the key is not here.
        """
        identity, delegates = self._own_key(owner), tuple(sorted(set(dids)))
        now_ms, name = self._now_ms(), status_list_of(owner)
        if not delegates:
            return self._graph.withdraw(Kind.STATUS_DELEGATION, name, identity, now_ms=now_ms)
        members = self._graph.members(now_ms)
        for did in delegates:
            public_key_of_did(did)
            if did == owner:
                raise UsageError("who issues signs anyway: name others")
            if did not in members:
                raise UsageError(f"{did[:80]} is not a member; `aigrid peers` lists those who are")
        if len(delegates) > LIMITS.status_delegates_max:
            raise UsageError(f"at most {LIMITS.status_delegates_max} may be named")
        needed = len(delegates) // 2 + 1 if quorum is None else quorum
        if not 1 <= needed <= len(delegates):
            raise UsageError(f"the quorum is from 1 to {len(delegates)}")
        self._sign(owner, identity)
        return self._delegate(identity, StatusDelegationBody(name, delegates, needed))

    def may_sponsor(self, record: Record) -> bool:
        """Whether it is the StatusDelegation of somebody outside who names this node."""
        now_ms, issuer = self._now_ms(), record.issuer
        is_outside = issuer != self._graph.grid and issuer not in self._graph.members(now_ms)
        named = self._graph.revocations.named(record, now_ms)
        return is_outside and not record.withdrawn and self._identity.did in named

    def sponsor(self, record: Record) -> None:
        """Sign the status list of somebody outside who names this node, so that both are spread.

        What an actor without a node issues can be relied on then: nobody takes in its own lists.

        Raises:
            LocalError: `busy`, where this node signs for as many as it may.
        """
        now_ms = self._now_ms()
        others = self._naming()
        if len(others) >= LIMITS.status_owners_max and record.issuer not in others:
            raise LocalError("this node signs for as many issuers as it may", Code.BUSY)
        if self._graph.revocations.list_of(record.issuer, self._identity.did, now_ms) is None:
            self._sign(record.issuer, self._identity)

    def speak_for(self, delegations: Sequence[Record]) -> None:
        """Sign the status lists of those who let this node, as its former keys do.

        Failures are logged: at the next start, then.
        """
        for record in delegations:
            if record.valid_until_ms <= self._now_ms():
                continue
            try:
                self.sponsor(record)
                self._graph.ingest(record.raw, now_ms=self._now_ms(), received_from=None)
            except AigridError as error:
                log.warning(
                    "former_key_not_signed_for",
                    former=record.issuer,
                    code=error.code.value,
                    reason=error.message,
                )

    def undelegate(self, did: str) -> None:
        """Let `did` sign the grid's status list no more; the authority's key is here."""
        grid = self._graph.grid
        delegates, quorum = self.delegates(grid)
        if did in delegates:
            left = [one for one in delegates if one != did]
            self.delegate(grid, left, min(quorum, len(left)) if left else None)
            log.warning(
                "delegate_removed", next_step="`aigrid grid delegates` names others", left=left
            )

    # --- the service

    async def run(self, *, task_status: "trio.TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        """Sign what is due: on change at once, else each `status_renew_seconds`."""
        self.keep(settled=self._settled())
        task_status.started()
        while True:
            with trio.move_on_after(LIMITS.status_check_seconds):
                await self._poke.wait()
            self._poke = trio.Event()
            self.keep(settled=self._settled())
            self._warn()

    def _settled(self) -> bool:
        """Whether this node has been there for a while: what a sleeper signs would look recent.

        It first hears what was revoked meanwhile.
        """
        now_ms, last_ms = self._now_ms(), self._round_ms
        self._round_ms = now_ms
        if not 0 <= now_ms - last_ms <= LIMITS.status_settle_seconds * 1000:
            self._settled_ms = now_ms + round(LIMITS.status_check_seconds * 1000)
        return now_ms >= self._settled_ms

    def keep(self, *, settled: bool = True) -> None:
        """Sign every list that is due, and say again what is delegated. Failures are logged.

        Unless this node has `settled`, only lists of what it issued itself.
        """
        for owner in self._owners():
            for identity in self._signers(owner):
                if identity.did != owner and not settled:
                    continue
                try:
                    if self._is_due(owner, identity):
                        self._sign(owner, identity)
                    if identity.did == owner:
                        self._renew_delegation(identity)
                except AigridError as error:  # a full disk, a clock set back: next time, then
                    log.warning(
                        "status_list_not_signed", code=error.code.value, reason=error.message
                    )

    def _warn(self) -> None:
        """Say so while there is time left to wake a machine that signs."""
        status, age_ms = self.known().get(self._graph.grid), LIMITS.status_age_member_seconds * 1000
        as_of_ms = 0 if status is None else status.as_of_ms
        late = self._now_ms() - as_of_ms > age_ms // 2
        if late and not self._late:
            log.warning("status_list_old", next_step="wake a node that may sign one")
        self._late = late

    def _own_keys(self) -> list[Identity]:
        authority = self._authority()
        return [self._identity] if authority is None else [authority, self._identity]

    def _own_key(self, did: str) -> Identity:
        for identity in self._own_keys():
            if identity.did == did:
                return identity
        raise PolicyDeniedError(f"the key of {did[:80]} is not here", Code.NOT_AUTHORITY)

    def _signers(self, owner: str) -> list[Identity]:
        """The keys here that may sign the list of `owner`; its own first."""
        delegates = self._graph.revocations.delegates(owner, self._now_ms())
        keys = self._own_keys()
        return [key for key in keys if key.did == owner] + [
            key for key in keys if key.did in delegates
        ]

    def _owners(self) -> list[str]:
        """Whose lists are signed here: of so many others, the grid's before any."""
        own = [key.did for key in self._own_keys() if self._issues(key.did)]
        grid = self._graph.grid
        naming = sorted(self._naming(), key=lambda owner: (owner != grid, owner))
        return own + [owner for owner in naming[: LIMITS.status_owners_max] if owner not in own]

    def _naming(self) -> list[str]:
        """Those who let this node sign their lists, and for whom that is worth its quota.

        In an open grid any number of keys may name a node: its operator has to have agreed once.
        """
        now_ms, own, graph = self._now_ms(), self._identity.did, self._graph
        members = graph.members(now_ms) | {graph.grid}
        return [
            owner
            for owner in graph.revocations.naming(own, now_ms)
            if owner in members or graph.revocations.list_of(owner, own, now_ms) is not None
        ]

    def _issues(self, did: str) -> bool:
        """Whether anything was ever issued that `did` may have to revoke."""
        if did == self._graph.grid or self.delegates(did)[0]:
            return True
        row = self._database.row("SELECT 1 FROM status_entries WHERE owner = ?", (did,))
        return row is not None

    def _is_due(self, owner: str, identity: Identity) -> bool:
        now_ms, revocations = self._now_ms(), self._graph.revocations
        last = revocations.list_of(owner, identity.did, now_ms)
        if last is None or last.valid_from_ms > now_ms + LIMITS.clock_skew_seconds * 1000:
            return True
        if now_ms - last.valid_from_ms >= LIMITS.status_renew_seconds * 1000:
            return True
        body = last.body
        said = decode_bits(body.encoded_list) if isinstance(body, StatusListBody) else b""
        return said != revocations.bits(owner)

    def _sign(self, owner: str, identity: Identity, index: int | None = None) -> Record:
        """Sign a list with all that is known to be revoked of `owner`, and entry `index`."""
        bits = self._graph.revocations.bits(owner)
        if index is not None:
            bits = with_bit(bits, index)
        return self._graph.issue(
            Kind.STATUS_LIST,
            StatusListBody(**list_body(owner, bits)),
            identity,
            now_ms=self._now_ms(),
            ttl_ms=LIMITS.status_list_ttl_seconds * 1000,
        )

    def _delegate(self, identity: Identity, body: StatusDelegationBody) -> Record:
        return self._graph.issue(
            Kind.STATUS_DELEGATION,
            body,
            identity,
            now_ms=self._now_ms(),
            ttl_ms=LIMITS.status_delegation_ttl_seconds * 1000,
        )

    def _renew_delegation(self, identity: Identity) -> None:
        now_ms = self._now_ms()
        found = self._graph.revocations.delegation(identity.did, now_ms)
        if found is None or not isinstance(found.body, StatusDelegationBody):
            return
        if found.valid_until_ms - now_ms < LIMITS.status_delegation_ttl_seconds * 500:
            self._delegate(identity, found.body)

    def _on_record(self, record: Record) -> None:
        """Whatever else members say of revocations, there is nothing to sign for it."""
        if record.kind in STATUS_KINDS and self.signs(owner_of(record)):
            self._poke.set()

    # --- entries

    def _entry_of(self, signer: str, name: str) -> int | None:
        """The entry that `name` has, unless that was revoked."""
        row = self._database.row(
            "SELECT entry FROM status_entries WHERE owner = ? AND name = ?", (signer, name)
        )
        if row is None or has_bit(self._graph.revocations.bits(signer), row[0]):
            return None
        return int(row[0])

    def _free_entry(self, signer: str) -> int:
        """One that nobody has, by chance: so it tells nothing of how many there are."""
        bits = self._graph.revocations.bits(signer)
        rows = self._database.rows("SELECT entry FROM status_entries WHERE owner = ?", (signer,))
        taken = {int(row[0]) for row in rows}
        if signer == self._graph.grid:
            taken |= self._graph.memberships.indexes()
        chosen = (
            int.from_bytes(self._random_bytes(4)) % LIMITS.status_entries for _ in range(_TRIES)
        )
        for candidates in (chosen, range(LIMITS.status_entries)):
            for index in candidates:
                if index not in taken and not has_bit(bits, index):
                    return index
        raise LocalError(
            f"all {LIMITS.status_entries} entries of the status list are given away",
            Code.OVER_QUOTA,
        )


def _member(did: str) -> str:
    return f"member {did}"
