"""A member's key changes: honouring its rotation, and presenting one's own.

The grid knows members by their keys. So a node with a new key is a stranger, until a node that
holds the authority's key has taken the old key's word for it: then the new key is admitted and the
old one removed, and everybody learns of both as of any admission and removal.
"""

import random

import structlog
import trio

from aigrid.metagraph.local import Honoured, LocalState
from aigrid.node.discovery.grid import Grid, NowMs
from aigrid.node.discovery.join_client import JoinClient
from aigrid.node.discovery.known import KnownPeers
from aigrid.node.network.transport import PeerAddress
from aigrid.protocol.errors import AigridError, Code, PolicyDeniedError
from aigrid.protocol.identity import peer_id_of_did
from aigrid.protocol.kinds import MembershipBody
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.membership import check_presented_rotation
from aigrid.protocol.record import Record
from aigrid.protocol.rotation import RotationBody
from aigrid.protocol.timestamp import format_ms

log = structlog.get_logger()


class Succession:
    """Puts successors in the place of members' keys, where the authority's key is."""

    def __init__(self, grid: Grid, local: LocalState, *, now_ms: NowMs) -> None:
        self._grid = grid
        self._local = local
        self._now_ms = now_ms

    def honour(self, raw: bytes, *, peer_id: str) -> Record:
        """The membership of the successor, who presents the rotation.

        Once per key: again for the same successor it changes nothing. What is decided is
        remembered before anything is issued, so that it can be finished after a crash.

        Raises:
            VerificationError: the rotation does not hold.
            PolicyDeniedError: `not_authority`; `not_member`, where the old key is none (any more);
                `rotation_refused`, after another rotation or where the successor was removed;
                `rate_limited`, where the old key came by rotation itself just now.
        """
        now_ms = self._now_ms()
        rotation, body = check_presented_rotation(raw, peer_id=peer_id, now_ms=now_ms)
        old, new = rotation.issuer, body.successor
        if self._grid.authority is None:
            raise PolicyDeniedError("ask a node that holds the authority key", Code.NOT_AUTHORITY)
        if old == self._grid.identity.did:
            raise PolicyDeniedError("this node changes its key itself", Code.ROTATION_REFUSED)
        known = self._local.rotation_of(old)
        if known is not None and known.successor != new:
            raise PolicyDeniedError("the key has another successor", Code.ROTATION_REFUSED)
        if self._grid.removed_ms(new) is not None:
            raise PolicyDeniedError("the successor was removed", Code.ROTATION_REFUSED)
        if known is None:
            self._check_may_rotate(old, now_ms)
            known = Honoured(new, now_ms, rotation.valid_until_ms)
            self._local.note_rotation(old, known)
            log.info("member_key_changed", old=old, new=new)
        former = self._grid.membership_by_did(old)
        if former is not None and former.valid_from_ms <= known.at_ms:  # not invited again since
            self._grid.remove(old)
        return self._grid.membership_by_did(new) or self._grid.admit(new)

    def _check_may_rotate(self, old: str, now_ms: int) -> None:
        if self._grid.membership_by_did(old) is None:
            raise PolicyDeniedError("the old key is not a member's", Code.NOT_MEMBER)
        came_ms = self._local.rotated_to_ms(old)
        # Or one member could fill every node with the memberships of the keys it has had.
        next_ms = 0 if came_ms is None else came_ms + LIMITS.rotation_interval_seconds * 1000
        if now_ms < next_ms:
            text = (
                f"the old key has only just come by rotation, which counts at {format_ms(next_ms)}"
            )
            raise PolicyDeniedError(text, Code.RATE_LIMITED)


class Rotating:
    """Presents this node's own rotation until the grid has taken it; a service that then ends.

    `pending` says whether it does, and `waits_for` in words what for.
    """

    def __init__(
        self,
        grid: Grid,
        client: JoinClient,
        known: KnownPeers,
        now_ms: NowMs,
        rng: random.Random,
    ) -> None:
        self._grid = grid
        self._client = client
        self._known = known
        self._now_ms = now_ms
        self._rng = rng
        self.pending = False
        self.waits_for = ""

    async def run(self, *, task_status: "trio.TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        self._speak_for_former_keys()
        rotation = self._own()
        self.pending = rotation is not None
        task_status.started()
        if rotation is not None:
            try:
                await self._finish(rotation)
            except AigridError as error:  # the disk is full: at the next start, then
                log.warning("rotation_not_finished", code=error.code.value, reason=error.message)

    async def _finish(self, rotation: Record) -> None:
        if self._grid.authority is not None:
            self._succeed_ourselves(rotation.issuer)
        else:
            await self._present(rotation)
        self._grid.keys.clear_rotation()
        self.pending, self.waits_for = False, ""

    def _speak_for_former_keys(self) -> None:
        """Say what was revoked of what they issued: they say nothing themselves any more."""
        try:
            self._grid.statuses.speak_for(self._grid.keys.of_former_keys())
        except AigridError as error:
            log.warning("former_keys_not_read", code=error.code.value, reason=error.message)

    def _own(self) -> Record | None:
        """The rotation to the key that we have."""
        try:
            rotation = self._grid.keys.pending_rotation()
        except AigridError as error:
            log.warning("rotation_not_read", code=error.code.value, reason=error.message)
            return None
        if rotation is None or not isinstance(rotation.body, RotationBody):
            return None
        if rotation.body.successor != self._grid.identity.did:
            log.warning("rotation_broken_off", next_step="run `aigrid id rotate` again")
            return None
        return rotation

    def _succeed_ourselves(self, old: str) -> None:
        """On the authority's own node, which has admitted its new key already."""
        if self._grid.membership_by_did(old) is not None:
            self._grid.remove(old)
        log.info("own_key_changed", old=old)

    async def _present(self, rotation: Record) -> None:
        """Until it is taken, or its time is over, or we are a member by another way."""
        pause = LIMITS.rotation_retry_seconds
        while self._grid.own_membership() is None and self._now_ms() < rotation.valid_until_ms:
            if await self._present_once(rotation):
                log.info("own_key_changed", old=rotation.issuer)
                return
            await trio.sleep(pause * self._rng.uniform(0.8, 1.2))
            pause = min(2 * pause, LIMITS.rotation_retry_max_seconds)
        if self._grid.own_membership() is None:
            log.warning(
                "rotation_expired", next_step="ask the grid's operator to invite the new key"
            )

    async def _present_once(self, rotation: Record) -> bool:
        self.waits_for = self.waits_for or "the founder's node, which was not reached yet"
        for peer in self._hosts():
            try:
                await self._client.rotate(rotation.raw, peer)
            except AigridError as error:
                log.info(
                    "rotation_not_taken",
                    peer=peer.peer_id,
                    code=error.code.value,
                    reason=error.message,
                )
                if isinstance(error, PolicyDeniedError) and error.code is not Code.NOT_AUTHORITY:
                    self.waits_for = f"{error.code.value}: {error.message}"
                continue
            return True
        return False

    def _hosts(self) -> list[PeerAddress]:
        """Who may hold the authority's key: those who founded the grid, then some others."""
        peers = self._known.addresses(frozenset(map(peer_id_of_did, self._grid.members())))
        founders = [peer for peer in peers if self._is_founder(peer.peer_id)]
        others = [peer for peer in peers if peer not in founders]
        return founders + self._rng.sample(others, min(len(others), LIMITS.find_peers_max))

    def _is_founder(self, peer_id: str) -> bool:
        try:
            body = self._grid.membership_of(peer_id).body
        except AigridError:
            return False
        return isinstance(body, MembershipBody) and body.role == "authority"
