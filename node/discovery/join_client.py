"""The side of the join protocol that wants in, or greets a fellow member."""

from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog
import trio

from aigrid.node.discovery.grid import Grid, NowMs, RandomBytes
from aigrid.node.discovery.join_wire import finish, read_message, write_message
from aigrid.node.network.transport import JOIN_PROTOCOL, PeerAddress, Transport
from aigrid.protocol.errors import (
    AigridError,
    Code,
    PolicyDeniedError,
    RemoteError,
    VerificationError,
)
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.membership import (
    check_invitation,
    check_membership,
    commitment,
    parse_invitation,
    short_code,
)
from aigrid.protocol.messages import (
    AskToJoin,
    Challenge,
    JoinAnswer,
    JoinRequest,
    Pending,
    Present,
    Redeem,
    Refused,
    Reveal,
    Rotate,
    Welcome,
    code_of,
    decode_join_answer,
    encode,
)

log = structlog.get_logger()
ShowCode = Callable[[str], Awaitable[None]]


class JoinClient:
    """Redeems invitations, asks to be let in, and presents our membership to peers."""

    def __init__(
        self,
        grid: Grid,
        transport: Transport,
        *,
        now_ms: NowMs,
        random_bytes: RandomBytes,
        name: str,
        remember: Callable[[PeerAddress], object],
    ) -> None:
        """`remember` is told where the host is that let us in: at first it is all we know."""
        self._grid = grid
        self._transport = transport
        self._now_ms = now_ms
        self._random_bytes = random_bytes
        self._name = name
        self._remember = remember

    async def redeem(self, text: str) -> str:
        """Join by invitation; returns the grid's DID.

        Raises:
            VerificationError, PolicyDeniedError: what is wrong with it, or what the host says.
            RemoteError: the inviting node cannot be reached.
        """
        parsed, _ = parse_invitation(text)
        own = self._grid.identity
        invitation, body = check_invitation(parsed.raw, did=own.did, now_ms=self._now_ms())
        self._grid.check_can_join(body.grid)
        host = PeerAddress(body.peer_id, body.addresses)
        answer = await self._exchange(host, Redeem(invitation.raw))
        self._adopt(body.grid, answer, host)
        return body.grid

    async def rotate(self, rotation: bytes, host: PeerAddress) -> None:
        """Have our key take the place of the one that named it, at a node with the authority's key.

        Raises:
            VerificationError, PolicyDeniedError: what the host says.
            RemoteError: it cannot be reached.
        """
        self._adopt(self._grid.did, await self._exchange(host, Rotate(rotation)), host)

    async def ask(self, host: PeerAddress, grid: str, show_code: ShowCode) -> None:
        """Ask to be let into `grid`, and wait until the operator there decides.

        `show_code` gets the digits that both ends compare. What mDNS says of a host is hearsay, so
        one that turns out to be of another grid is left before anything is revealed.
        """
        self._grid.check_can_join(grid)
        nonce = self._random_bytes(16)
        answer = await self._exchange(host, AskToJoin(self._name, commitment(nonce)))
        if not isinstance(answer, Challenge):
            raise RemoteError("an unexpected answer", peer=host.peer_id)
        if answer.grid != grid:
            raise VerificationError("the host is of another grid than announced", Code.NOT_MEMBER)
        request = answer.request
        code = short_code(
            grid=grid,
            joiner=self._grid.identity.peer_id,
            host=host.peer_id,
            joiner_nonce=nonce,
            host_nonce=answer.nonce,
        )
        answer = await self._exchange(host, Reveal(request, nonce))
        await show_code(code)
        with trio.move_on_after(LIMITS.request_decision_seconds):
            while isinstance(answer, Pending):
                answer = await self._poll(host, Reveal(request, nonce))
        if isinstance(answer, Pending):
            raise PolicyDeniedError("nobody approved the request in time", Code.JOIN_PENDING)
        self._adopt(grid, answer, host)

    async def greet(self, peer: PeerAddress) -> None:
        """Present our membership to a peer, and check its own: after this both serve each other.

        Raises:
            RemoteError: it cannot be reached, or its answer is no membership.
            VerificationError, PolicyDeniedError: its membership does not hold, or it refused ours.
        """
        own = self._grid.own_membership()
        if own is None:
            raise PolicyDeniedError("our membership has run out", Code.NOT_MEMBER)
        answer = await self._exchange(
            peer, Present(own.raw, self._grid.delegation(), self._grid.lists())
        )
        if not isinstance(answer, Welcome):
            raise RemoteError("an unexpected answer", peer=peer.peer_id)
        self._grid.meet(answer.ours, peer_id=peer.peer_id, delegation=answer.delegation)
        self._grid.take_lists(answer.lists, peer_id=peer.peer_id)

    def _adopt(self, grid: str, answer: JoinAnswer, host: PeerAddress) -> None:
        if not isinstance(answer, Welcome):
            raise RemoteError("an unexpected answer", peer=host.peer_id)
        own = self._grid.identity.peer_id
        check_membership(answer.membership, grid=grid, peer_id=own, now_ms=self._now_ms())
        self._grid.adopt(
            grid, answer.membership, answer.ours, host=host.peer_id, delegation=answer.delegation
        )
        self._grid.take_lists(answer.lists, peer_id=host.peer_id)
        self._remember(host)

    async def _poll(self, host: PeerAddress, message: Reveal) -> JoinAnswer:
        """Ask again; a host that is away or busy for a moment is no reason to give up."""
        try:
            return await self._exchange(host, message)
        except AigridError as error:
            if not (isinstance(error, RemoteError) or error.info.retry):
                raise
            log.info("join_poll_failed", peer=host.peer_id, code=error.code.value)
            await trio.sleep(LIMITS.join_poll_seconds)
            return Pending()

    async def _exchange(self, peer: PeerAddress, message: JoinRequest) -> JoinAnswer:
        self._transport.allow_dial(peer.peer_id)
        with trio.move_on_after(LIMITS.dial_timeout_seconds + LIMITS.stranger_stream_seconds):
            await self._transport.connect(peer)
            stream = await self._transport.open_stream(peer.peer_id, JOIN_PROTOCOL)
            try:
                await write_message(stream, encode(message))
                answer = decode_join_answer(await read_message(stream))
                if isinstance(answer, Refused) and isinstance(message, Present):
                    self._grid.take_lists(answer.records, peer_id=peer.peer_id)
                with suppress(RemoteError):  # we have the answer: a lost connection is no matter
                    await finish(stream)
            except BaseException:
                with trio.CancelScope(shield=True), trio.move_on_after(1):
                    await stream.reset()
                raise
            return _accepted(answer, peer.peer_id)
        raise RemoteError("the peer does not answer", Code.TIMEOUT, peer=peer.peer_id)


def _accepted(answer: JoinAnswer, peer_id: str) -> JoinAnswer:
    if not isinstance(answer, Refused):
        return answer
    code = code_of(answer.code)
    message = "".join(c for c in answer.message if c.isprintable())
    if code.value.startswith("invitation"):
        raise VerificationError(message, code)
    error: AigridError = PolicyDeniedError(message, code)
    if code in (Code.TIMEOUT, Code.INTERNAL):
        error = RemoteError(message, code, peer=peer_id)
    raise error
