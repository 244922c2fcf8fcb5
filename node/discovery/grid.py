"""This node's place in its grid: its membership, the authority key if it holds it, and the gate.

The metagraph says who is a member; this keeps the transport's gate in step with it, so that a
member admitted is served on the connection it already has and one removed is cut off at once.
Memberships are renewed here, by the authority or those to which it delegated that.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import structlog
import trio

from aigrid.metagraph.graph import Metagraph
from aigrid.node.discovery.grid_needs import GridKeys, MemberStatuses
from aigrid.node.network.transport import Transport
from aigrid.protocol.errors import AigridError, Code, PolicyDeniedError, VerificationError
from aigrid.protocol.identity import Identity, did_of_peer_id, peer_id_of_did, public_key_of_did
from aigrid.protocol.kinds import Kind, MembershipBody
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.membership import (
    check_membership,
    delegates_in,
    issue_invitation,
    renewal_body,
)
from aigrid.protocol.record import Record
from aigrid.protocol.status import Standing, standing

log = structlog.get_logger()
NowMs = Callable[[], int]
RandomBytes = Callable[[int], bytes]
_HALF_MS = LIMITS.membership_default_seconds * 500


@dataclass(frozen=True, slots=True)
class Membership:
    """Who this node is in which grid. `authority` is there on the node that founded it."""

    grid: str
    authority: Identity | None


class Grid:
    """See the module. `run` must be running for removals to take effect."""

    def __init__(
        self,
        *,
        identity: Identity,
        membership: Membership,
        graph: Metagraph,
        statuses: MemberStatuses,
        transport: Transport,
        keys: GridKeys,
        now_ms: NowMs,
        random_bytes: RandomBytes,
    ) -> None:
        self.identity = identity
        self._membership = membership
        self._graph = graph
        self.statuses = statuses
        self._transport = transport
        self.keys = keys
        self._now_ms = now_ms
        self._random_bytes = random_bytes
        self._poke = trio.Event()
        self.on_switched: Callable[[], None] = lambda: None
        self._shifted = False
        self._in_step: tuple[frozenset[str], frozenset[str]] = (frozenset(), frozenset())
        graph.listeners.append(self._on_record)
        graph.shift_listeners.append(self._on_shift)

    @property
    def did(self) -> str:
        return self._membership.grid

    @property
    def authority(self) -> Identity | None:
        return self._membership.authority

    def own_membership(self) -> Record | None:
        """Our membership in force."""
        return self.membership_by_did(self.identity.did)

    def membership_by_did(self, did: str) -> Record | None:
        """The membership of `did` in force."""
        return self._graph.membership_of(did, self._now_ms())

    def membership_of(self, peer_id: str) -> Record:
        """The membership in force of a peer. Raises PolicyDeniedError(`not_member`)."""
        record = self._graph.membership_of(did_of_peer_id(peer_id), self._now_ms())
        if record is None:
            raise PolicyDeniedError(f"{peer_id} is not a member", Code.NOT_MEMBER)
        return record

    def members(self) -> frozenset[str]:
        """DIDs of everybody in the grid, ourselves included."""
        return self._graph.members(self._now_ms())

    def found(self) -> None:
        """Make sure the founder of a grid has its own membership."""
        if self.authority is not None and self.own_membership() is None:
            self.admit(self.identity.did, role="authority")

    def admit(self, did: str, *, role: str = "member") -> Record:
        """Issue a membership. Raises PolicyDeniedError(`not_authority`)."""
        authority = self._require_authority()
        body = MembershipBody(
            id=did, grid=authority.did, role="authority" if role == "authority" else "member"
        )
        return self._graph.issue(
            Kind.MEMBERSHIP,
            body,
            authority,
            now_ms=self._now_ms(),
            ttl_ms=LIMITS.membership_default_seconds * 1000,
            status=self.statuses.membership_entry(did),
        )

    def remove(self, did: str) -> None:
        """Revoke a membership, as the authority or a delegate; the former withdraws it, too.

        Every node cuts the member off when it learns of either.
        """
        delegates = self._graph.revocations.delegates(self.did, self._now_ms())
        if self.authority is None and self.identity.did not in delegates:
            who = f" or at a delegate: {', '.join(delegates)}" if delegates else ""
            text = f"this node removes nobody: run `aigrid remove` at the founder's node{who}"
            raise PolicyDeniedError(text, Code.NOT_AUTHORITY)
        authority = self.authority
        record = self._graph.membership_of(did, self._now_ms())
        if record is None:
            text = f"{did[:80]} is not a member; `aigrid peers` lists those who are"
            raise PolicyDeniedError(text, Code.NOT_MEMBER)
        founds = isinstance(record.body, MembershipBody) and record.body.role == "authority"
        if did == self.identity.did and authority is None:
            text = "a delegate does not remove itself: run `aigrid remove` on the founder's node"
            raise PolicyDeniedError(text, Code.DENIED)
        if did == self.identity.did or (founds and authority is None):
            text = "the founder's own node cannot be removed; `aigrid peers` lists the others"
            raise PolicyDeniedError(text, Code.DENIED)
        if authority is None and record.status is None:
            text = "this membership cannot be revoked yet, only withdrawn by the authority"
            raise PolicyDeniedError(text, Code.NOT_AUTHORITY)
        self.statuses.revoke_membership(did)
        if authority is not None:
            self._graph.withdraw(Kind.MEMBERSHIP, did, authority, now_ms=self._now_ms())
            self.statuses.undelegate(did)

    def removed_ms(self, did: str) -> int | None:
        """When the membership of `did` was withdrawn, if that is the last word on it.

        Now, where it is revoked and about to be withdrawn for that: who was removed by a delegate
        does not slip in again between the two.
        """
        newest = self._graph.store.newest((self.did, Kind.MEMBERSHIP.value, did))
        if newest is None:
            return None
        if newest.withdrawn:
            return newest.valid_from_ms
        return self._now_ms() if self._graph.revocations.revoked(newest.status) else None

    def why_removed(self, did: str) -> tuple[bytes, ...]:
        """The records by which `did` is no member any more; () where it is one, or never was.

        Whoever was cut off before it heard of them would take itself for a member for good.
        """
        if self.removed_ms(did) is None:
            return ()
        newest = self._graph.store.newest((self.did, Kind.MEMBERSHIP.value, did))
        withdrawal = () if newest is None or not newest.withdrawn else (newest.raw,)
        return (*withdrawal, *self.lists())[: LIMITS.status_delegates_max + 1]

    def invite(self, did: str, *, valid_seconds: int | None = None) -> Record:
        """An invitation bound to `did`, redeemable here."""
        authority = self._require_authority()
        public_key_of_did(did)
        seconds = valid_seconds or LIMITS.invitation_default_seconds
        return issue_invitation(
            authority,
            did,
            peer_id=self.identity.peer_id,
            addresses=self._transport.listen_addresses,
            nonce=self._random_bytes(16).hex(),
            now_ms=self._now_ms(),
            valid_ms=min(seconds, LIMITS.invitation_ttl_seconds) * 1000,
        )

    def check_can_join(self, grid: str) -> None:
        """Raise PolicyDeniedError(`grid_not_empty`) unless we may become a member of `grid`.

        We may leave a grid of which we are the only member, and return to one that removed us or
        let our membership run out.
        """
        if grid == self.did:
            if self.own_membership() is not None:
                raise PolicyDeniedError("this node is in that grid already", Code.GRID_NOT_EMPTY)
            return
        others = self.members() - {self.identity.did}
        if others or self.authority is None:
            raise PolicyDeniedError(
                "this data directory already belongs to a grid with other members",
                Code.GRID_NOT_EMPTY,
            )

    def adopt(
        self, grid: str, membership: bytes, ours: bytes, *, host: str, delegation: bytes = b""
    ) -> None:
        """Become a member of `grid`, to which `host` (a PeerId) admitted us.

        It is another grid, for which we leave our grid of one, or our own, which had removed us.
        `delegation` is that of the grid, if `host` has one.

        Raises:
            VerificationError: when the membership or the host's own does not hold; `revoked`, when
                ours is known here to be, of which `host` may not have heard.
            PolicyDeniedError: `grid_not_empty`.
        """
        now_ms, own = self._now_ms(), self.identity.peer_id
        record = check_membership(membership, grid=grid, peer_id=own, now_ms=now_ms)
        if self._graph.revocations.revoked(record.status):
            raise VerificationError("this membership was revoked", Code.REVOKED)
        delegates = delegates_in(delegation, grid=grid, now_ms=now_ms)
        check_membership(ours, grid=grid, peer_id=host, now_ms=now_ms, delegates=delegates)
        returning = grid == self.did  # our membership may have come by another way meanwhile
        if not returning:
            self.check_can_join(grid)
            self._graph.switch_grid(grid)
            self._membership = Membership(grid, None)
        said = (delegation, membership, ours) if delegation else (membership, ours)
        _, refusals = self._graph.ingest_batch(said, now_ms=now_ms, received_from=host)
        if self.own_membership() is None:
            unknown = VerificationError("this membership does not count", Code.NOT_MEMBER)
            raise refusals[0] if refusals else unknown
        log.info("joined", grid=grid, host=host)
        self.on_switched()
        if not returning:
            self._retire_authority()

    def _retire_authority(self) -> None:
        """Last of all: until the new grid is on the disk, the key of the old one is needed."""
        try:
            self.keys.retire_authority()
        except AigridError as error:  # unused from now on, wherever it lies
            log.warning("authority_key_not_retired", code=error.code.value, reason=error.message)

    def meet(self, raw: bytes, *, peer_id: str, delegation: bytes = b"") -> Record:
        """Take note of the membership that `peer_id` presents, which admits it.

        With it comes the `delegation` of the grid, by which it may have been renewed: we may have
        slept through that, and the authority may be asleep now.

        Raises:
            VerificationError: it does not hold, or has been withdrawn (`superseded`) or revoked.
        """
        now_ms = self._now_ms()
        if delegation and delegation != self.delegation():
            with suppress(VerificationError):  # an older one than ours, for all we know
                delegates_in(delegation, grid=self.did, now_ms=now_ms)
                self._graph.ingest(delegation, now_ms=now_ms, received_from=peer_id)
        delegates = self._graph.revocations.delegates(self.did, now_ms)
        record = check_membership(
            raw, grid=self.did, peer_id=peer_id, now_ms=now_ms, delegates=delegates
        )
        self._graph.ingest(raw, now_ms=now_ms, received_from=peer_id)
        current = self._graph.membership_of(record.subject, now_ms)
        if current is None:
            raise VerificationError("this membership was withdrawn or revoked", Code.NOT_MEMBER)
        return current

    def sought(self) -> frozenset[str]:
        """PeerIds to which a connection is wanted: members, and delegates of the authority.

        Who wakes after weeks knows only of memberships that have run out; delegates renewed them.
        """
        delegates = self._graph.revocations.delegates(self.did, self._now_ms())
        return self._transport.members | {peer_id_of_did(did) for did in delegates}

    def delegation(self) -> bytes:
        """The grid's StatusDelegation in force, as it is shown beside memberships; b"" for none."""
        found = self._graph.revocations.delegation(self.did, self._now_ms())
        return b"" if found is None else found.raw

    def lists(self) -> tuple[bytes, ...]:
        """The grid's newest status lists, as far as they fit beside a membership."""
        revocations, now_ms, left = self._graph.revocations, self._now_ms(), LIMITS.join_lists_bytes
        signers = (self.did, *revocations.delegates(self.did, now_ms))
        known = (revocations.list_of(self.did, signer, now_ms) for signer in signers)
        chosen = []
        for one in sorted(filter(None, known), key=lambda one: -one.valid_from_ms):
            left -= len(one.raw)
            if left >= 0:
                chosen.append(one.raw)
        return tuple(chosen)

    def take_lists(self, raws: Sequence[bytes], *, peer_id: str) -> None:
        """Status lists that a member showed beside its membership; what is wrong is counted."""
        self._graph.ingest_batch(raws, now_ms=self._now_ms(), received_from=peer_id)

    async def run(self, *, task_status: "trio.TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the gate in step with the members; renew memberships if we are the authority."""
        self._admit_all()
        task_status.started()
        while True:
            try:
                await self._shut_out()
                self._renew()
                self._renew_as_delegate()
            except AigridError as error:  # a full disk, a clock set back: next time, then
                log.warning("memberships_not_kept", code=error.code.value, reason=error.message)
            with trio.move_on_after(1.0):
                await self._poke.wait()
            self._poke = trio.Event()

    def _require_authority(self) -> Identity:
        if self.authority is None:
            raise PolicyDeniedError(
                "this node does not hold the authority key of its grid", Code.NOT_AUTHORITY
            )
        return self.authority

    def _on_record(self, record: Record) -> None:
        if record.kind is Kind.MEMBERSHIP:
            if self._graph.membership_of(record.subject, self._now_ms()) is not None:
                self._transport.admit([peer_id_of_did(record.subject)])
            self._poke.set()

    def _on_shift(self) -> None:
        self._shifted = True
        self._poke.set()

    def _admit_all(self) -> None:
        self._transport.admit(peer_id_of_did(did) for did in self.members())

    async def _shut_out(self) -> None:
        if self._shifted:
            self._shifted = False
            self._admit_all()
        # Both are the same objects until they change, which is seldom: this is done every second.
        members, admitted = self.members(), self._transport.members
        if self._in_step[0] is members and self._in_step[1] is admitted:
            return
        expected = {peer_id_of_did(did) for did in members}
        expected.add(self.identity.peer_id)
        for peer_id in admitted - expected:
            log.info("member_removed", peer=peer_id)
            await self._transport.remove(peer_id)
        if not admitted - expected:
            self._in_step = members, admitted

    def _renew(self) -> None:
        """Reissue memberships that are past half their life; our own even after a long sleep.

        Also those that cannot be revoked yet, and those that delegates renewed meanwhile. What
        delegates revoked is withdrawn: so older invitations do not bring it back.
        """
        if self.authority is None:
            return
        self.found()
        now_ms = self._now_ms()
        for did in self.members():
            record = self._graph.membership_of(did, now_ms)
            if record is None:
                continue
            past_half = record.valid_until_ms - now_ms < _HALF_MS
            if past_half or record.status is None or record.issuer != self.did:
                role = "authority" if did == self.identity.did else "member"
                self.admit(did, role=role)
        for record in self._graph.memberships.revoked(now_ms):
            if record.subject != self.identity.did:
                self._graph.withdraw(Kind.MEMBERSHIP, record.subject, self.authority, now_ms=now_ms)

    def _renew_as_delegate(self) -> None:
        """Renew what is past half its life, while the authority is away: each in its turn.

        Only what is known not to be revoked: who hears of no other signer renews nothing.
        """
        now_ms = self._now_ms()
        delegates = self._graph.revocations.delegates(self.did, now_ms)
        if self.identity.did not in delegates or self.authority is not None:
            return
        turn_ms = (1 + delegates.index(self.identity.did)) * LIMITS.renewal_turn_seconds * 1000
        statuses = self._graph.revocations.at(now_ms)
        for did in self._graph.memberships.ending_before(now_ms + _HALF_MS - turn_ms, now_ms):
            original = self._graph.memberships.original(did, now_ms)
            if original is None or standing(original, statuses, now_ms) is not Standing.GOOD:
                continue
            self._graph.issue(
                Kind.MEMBERSHIP,
                renewal_body(original),
                self.identity,
                now_ms=now_ms,
                ttl_ms=LIMITS.membership_default_seconds * 1000,
                status=original.status,
            )
