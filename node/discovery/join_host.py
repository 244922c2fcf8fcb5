"""The side of the join protocol that lets others in: redeeming, presenting, asking."""

from collections import Counter
from dataclasses import dataclass, field
from typing import NoReturn

import structlog
import trio

from aigrid.metagraph.local import LocalState
from aigrid.metagraph.quota import TokenBucket, TokenBuckets
from aigrid.node.discovery.grid import Grid, NowMs, RandomBytes
from aigrid.node.discovery.join_wire import finish, read_message, write_message
from aigrid.node.discovery.rotation import Succession
from aigrid.node.network.transport import Stream
from aigrid.protocol.errors import (
    AigridError,
    Code,
    PolicyDeniedError,
    RemoteError,
    VerificationError,
)
from aigrid.protocol.identity import did_of_peer_id
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.membership import check_invitation, commitment, short_code
from aigrid.protocol.messages import (
    AskToJoin,
    Challenge,
    JoinAnswer,
    JoinRequest,
    Pending,
    Present,
    Redeem,
    Reveal,
    Rotate,
    Welcome,
    decode_join_request,
    encode,
    refusal,
)

log = structlog.get_logger()


@dataclass(slots=True)
class Asking:
    """Somebody waiting for the operator; `code` is there once its nonce is revealed."""

    request: str
    peer_id: str
    name: str
    commitment: bytes
    nonce: bytes
    expires_seconds: float
    code: str = ""
    decided: trio.Event = field(default_factory=trio.Event)


class JoinHost:
    """Serves `/aigrid/join/1`.

    What proves itself by a signature (a membership, an invitation) costs its host nothing; what
    does not hold, and every step of asking without an invitation, takes from the host's tokens.
    """

    def __init__(
        self,
        grid: Grid,
        local: LocalState,
        *,
        now_ms: NowMs,
        random_bytes: RandomBytes,
        approve_everybody: bool,
    ) -> None:
        self._grid = grid
        self._local = local
        self._succession = Succession(grid, local, now_ms=now_ms)
        self._now_ms = now_ms
        self._random_bytes = random_bytes
        self._approve_everybody = approve_everybody
        self._asking: dict[str, Asking] = {}
        self._each = TokenBuckets(burst=LIMITS.join_burst, per_second=LIMITS.join_per_second)
        self._all = TokenBucket(
            burst=LIMITS.joins_burst, per_second=LIMITS.joins_per_second, now_seconds=0.0
        )
        self.refused: Counter[Code] = Counter()

    async def serve(self, stream: Stream) -> None:
        """One message each way. Errors become `Refused`; the handler never raises for them."""
        try:
            with trio.fail_after(LIMITS.stranger_stream_seconds):
                raw = await read_message(stream)
                try:
                    answer: JoinAnswer = await self._answer(stream, raw)
                except AigridError as error:
                    self.refused[error.code] += 1
                    log.info("join_refused", peer=stream.peer_id, code=error.code.value)
                    answer = refusal(error, self._grid.why_removed(did_of_peer_id(stream.peer_id)))
                await write_message(stream, encode(answer))
                await finish(stream)
        except (RemoteError, trio.TooSlowError):
            await stream.reset()

    def waiting(self) -> tuple[Asking, ...]:
        """Requests that the operator can approve, oldest first."""
        self._forget_expired()
        waiting = self._asking.values()
        return tuple(a for a in waiting if a.code and not a.decided.is_set())

    def approve(self, request: str) -> str:
        """Admit who asked; returns its DID. Raises PolicyDeniedError for an unknown request."""
        self._forget_expired()
        asking = self._asking.get(request)
        if asking is None or not asking.code:
            raise PolicyDeniedError(f"there is no request {request}", Code.JOIN_REFUSED)
        did = did_of_peer_id(asking.peer_id)
        self._grid.admit(did)
        asking.decided.set()
        return did

    async def _answer(self, stream: Stream, raw: bytes) -> JoinAnswer:
        peer_id = stream.peer_id
        try:
            message: JoinRequest = decode_join_request(raw)
        except RemoteError:
            self._limit(stream.remote_host)
            raise
        if isinstance(message, Present | Redeem | Rotate):
            return self._prove(message, stream)
        self._limit(stream.remote_host)
        if isinstance(message, AskToJoin):
            return self._challenge(message, peer_id)
        return await self._decide(message, peer_id)

    def _prove(self, message: Present | Redeem | Rotate, stream: Stream) -> Welcome:
        """Whoever can prove itself gets in, whatever others at its address have sent."""
        try:
            if isinstance(message, Redeem):
                return self._redeem(message, stream.peer_id)
            if isinstance(message, Rotate):
                successor = self._succession.honour(message.rotation, peer_id=stream.peer_id)
                return self._welcome(successor.raw)
            record = self._grid.meet(
                message.membership, peer_id=stream.peer_id, delegation=message.delegation
            )
            self._grid.take_lists(message.lists, peer_id=stream.peer_id)
        except AigridError:
            now_seconds = trio.current_time()
            if not self._each.of(stream.remote_host, now_seconds).take(now_seconds):
                self._refuse_for_rate()
            raise
        return self._welcome(record.raw)

    def _limit(self, host: str) -> None:
        now_seconds = trio.current_time()
        each = self._each.of(host, now_seconds)
        if not (each.take(now_seconds) and self._all.take(now_seconds)):
            self._refuse_for_rate()

    def _refuse_for_rate(self) -> NoReturn:
        raise PolicyDeniedError("too many join messages", Code.RATE_LIMITED)

    def _welcome(self, membership: bytes) -> Welcome:
        own = self._grid.own_membership()
        if own is None:
            raise PolicyDeniedError("this node's own membership has run out", Code.NOT_MEMBER)
        return Welcome(membership, own.raw, self._grid.delegation(), self._grid.lists())

    def _redeem(self, message: Redeem, peer_id: str) -> Welcome:
        did = did_of_peer_id(peer_id)
        invitation, body = check_invitation(message.invitation, did=did, now_ms=self._now_ms())
        if self._grid.authority is None or invitation.issuer != self._grid.did:
            raise VerificationError("the invitation is not to this grid", Code.INVITATION_INVALID)
        removed_ms = self._grid.removed_ms(did)
        if removed_ms is not None and invitation.valid_from_ms <= removed_ms:
            raise VerificationError(
                "the invitation is older than the member's removal", Code.INVITATION_USED
            )
        until_ms = invitation.valid_until_ms
        if self._local.redeem(body.nonce, until_ms=until_ms, now_ms=self._now_ms()):
            return self._welcome(self._grid.admit(did).raw)
        if did not in self._grid.members():
            raise VerificationError("the invitation was redeemed already", Code.INVITATION_USED)
        # The first Welcome may have been lost on the way; saying it again grants nothing.
        return self._welcome(self._grid.membership_of(peer_id).raw)

    def _challenge(self, message: AskToJoin, peer_id: str) -> Challenge:
        if self._grid.authority is None:
            raise PolicyDeniedError("ask a node that holds the authority key", Code.NOT_AUTHORITY)
        self._forget_expired()
        for asking in [a for a in self._asking.values() if a.peer_id == peer_id]:
            del self._asking[asking.request]
        if len(self._asking) >= LIMITS.requests_pending_max:
            raise PolicyDeniedError("too many requests are waiting", Code.RATE_LIMITED)
        asking = Asking(
            request=self._random_bytes(4).hex(),
            peer_id=peer_id,
            name="".join(c for c in message.name if c.isprintable()),
            commitment=message.commitment,
            nonce=self._random_bytes(16),
            expires_seconds=trio.current_time() + LIMITS.request_decision_seconds,
        )
        self._asking[asking.request] = asking
        return Challenge(asking.request, self._grid.did, asking.nonce)

    async def _decide(self, message: Reveal, peer_id: str) -> JoinAnswer:
        self._forget_expired()
        asking = self._asking.get(message.request)
        if asking is None or asking.peer_id != peer_id:
            raise PolicyDeniedError("there is no such request; ask again", Code.JOIN_REFUSED)
        if commitment(message.nonce) != asking.commitment:
            del self._asking[asking.request]
            raise PolicyDeniedError("the nonce is not what was committed to", Code.JOIN_REFUSED)
        if not asking.code:
            asking.code = short_code(
                grid=self._grid.did,
                joiner=peer_id,
                host=self._grid.identity.peer_id,
                joiner_nonce=message.nonce,
                host_nonce=asking.nonce,
            )
            if self._approve_everybody:
                self.approve(asking.request)
            else:
                return Pending()
        with trio.move_on_after(LIMITS.join_poll_seconds):
            await asking.decided.wait()
        if not asking.decided.is_set():
            return Pending()
        member = self._grid.membership_of(peer_id)
        return self._welcome(member.raw)

    def _forget_expired(self) -> None:
        now_seconds = trio.current_time()
        for asking in [a for a in self._asking.values() if a.expires_seconds <= now_seconds]:
            del self._asking[asking.request]
