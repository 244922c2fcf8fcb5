"""Who is there: connections to members, liveness by ping, and what was observed of each.

A peer is *alive* from its connection until that ends or a ping goes unanswered for
`ping_timeout_seconds`; a frozen process keeps its connection, so only the ping tells.
"""

import math
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import structlog
import trio

from aigrid.metagraph.selection import Observation
from aigrid.node.discovery.grid import NowMs
from aigrid.node.discovery.observed import Observed
from aigrid.node.discovery.trouble import TURNED_AWAY
from aigrid.node.network.streams import RpcClient
from aigrid.node.network.transport import PeerAddress, PeerChange, Transport
from aigrid.protocol.errors import AigridError, Code, PolicyDeniedError, RemoteError
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.messages import Ping, Pong, decode_rpc_answer, encode

log = structlog.get_logger()
_GRACE_SECONDS = 0.05


@dataclass(slots=True)
class PeerState:
    """What this node has seen of a peer. Times are monotonic seconds.

    `replaced`: it is on a new connection, and `on_alive` has not been told yet. `moved`: it has
    said that it is elsewhere since it was reached last.
    """

    alive: bool = False
    replaced: bool = False
    moved: bool = False
    seen_seconds: float = 0.0
    observed: Observed = field(default_factory=Observed)
    clock_ahead_ms: int = 0
    redial_seconds: float = 0.0
    dial_after_seconds: float = 0.0


class Peers:
    """Keeps connections to members and says who is alive.

    `greet` makes both sides members of each other's view; `on_alive` is awaited for each peer that
    became alive (sync hangs on it).
    """

    def __init__(
        self,
        transport: Transport,
        rpc: RpcClient,
        *,
        greet: Callable[[PeerAddress], Awaitable[None]],
        known_addresses: Callable[[], tuple[PeerAddress, ...]],
        address_of: Callable[[str], PeerAddress | None],
        now_ms: NowMs,
        rng: random.Random,
    ) -> None:
        self._transport = transport
        self._rpc = rpc
        self._greet = greet
        self._known_addresses = known_addresses
        self._address_of = address_of
        self._now_ms = now_ms
        self._rng = rng
        self._states: dict[str, PeerState] = {}
        self._lost_members: dict[str, None] = {}
        self._redial = trio.Event()
        self._contacting: dict[str, trio.Event] = {}
        self._pinging: set[str] = set()
        self._waiting: dict[str, set[trio.CancelScope]] = {}
        self._nursery: trio.Nursery | None = None
        self._refused = False
        self.on_alive: Callable[[str], Awaitable[None]] = _nothing

    def alive(self, peer_id: str) -> bool:
        state = self._states.get(peer_id)
        return peer_id == self._transport.peer_id or (state is not None and state.alive)

    def alive_members(self) -> frozenset[str]:
        """Live members, ourselves excluded."""
        members = self._transport.members
        return frozenset(p for p, state in self._states.items() if state.alive and p in members)

    def observation(self, peer_id: str) -> Observation:
        """What selection may know of a peer.

        One never met counts as alive, for a dial will tell; one that was dialled in vain does not.
        """
        state = self._states.get(peer_id)
        if peer_id == self._transport.peer_id or state is None:
            return Observation(alive=True)
        alive = state.alive or not (state.seen_seconds or state.redial_seconds)
        return state.observed.observation(trio.current_time(), alive=alive)

    def seen(self, peer_id: str) -> Observed:
        """What is remembered of requests to a peer; whoever asks it notes there how it went."""
        return self._states.setdefault(peer_id, PeerState()).observed

    @contextmanager
    def asking(self, peer_id: str) -> Iterator[Observed]:
        """Count a request to the peer at once; its own word on its load is seconds old."""
        observed = self.seen(peer_id)
        observed.in_flight += 1
        try:
            yield observed
        finally:
            observed.in_flight -= 1

    def failed(self, peer_id: str, asked_seconds: float = math.inf, *, broke: bool = False) -> None:
        """A request that the peer was asked then failed for a reason that is the peer's.

        `broke`: what it answered broke the protocol.
        """
        self.seen(peer_id).failed(trio.current_time(), asked_seconds, broke=broke)

    def turned_away(self) -> bool:
        """Whether nobody is alive, and who was reached last does not take us for a member."""
        return self._refused and not self.alive_members()

    def poke(self) -> None:
        """There may be somebody new to dial."""
        self._redial.set()

    def moved(self, peer_id: str) -> None:
        """It is elsewhere now: that it was dialled in vain where it was says nothing any more.

        It still waits the shortest pause, and that once until it was reached: whoever says so again
        and again would be dialled as often, wherever that is.
        """
        state = self._states.get(peer_id)
        if state is not None and not state.moved:
            state.moved = True
            soon = trio.current_time() + LIMITS.redial_seconds
            state.dial_after_seconds = min(state.dial_after_seconds, soon)
            state.redial_seconds = min(state.redial_seconds, LIMITS.redial_seconds)

    def forget(self) -> None:
        """Everything about peers of a grid that was left."""
        self._states.clear()
        self._lost_members.clear()
        self._refused = False

    async def run(self, *, task_status: "trio.TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery, self._transport.events() as events:
            self._nursery = nursery
            nursery.start_soon(self._ping_all, nursery)
            nursery.start_soon(self._keep_connected, nursery)
            task_status.started()
            async for event in events:
                if event.change is PeerChange.CONNECTED:
                    nursery.start_soon(self._contact, PeerAddress(event.peer_id, ()))
                else:
                    self._lost(event.peer_id)

    async def contact(self, peer: PeerAddress) -> bool:
        """Connect to a peer and greet it; whether it is alive now. Nothing is synced before.

        Who and where it is may be anybody's word: a failure is not held against it.
        """
        await self._contact(peer, postpone=False)
        return self.alive(peer.peer_id)

    async def _contact(self, peer: PeerAddress, *, postpone: bool = True) -> None:
        contact = self._contacting.get(peer.peer_id)
        if contact is not None:
            await contact.wait()
            return
        if not peer.addresses and peer.peer_id not in self._transport.members:
            return  # a stranger has connected: it is for it to say what it wants
        contact = self._contacting[peer.peer_id] = trio.Event()
        try:
            await self._greet(peer)
            if self._revive(peer.peer_id) and self._nursery is not None:
                self._nursery.start_soon(self.on_alive, peer.peer_id)
        except AigridError as error:
            log.info("peer_not_reached", peer=peer.peer_id, code=error.code.value)
            refused = isinstance(error, PolicyDeniedError) and error.code in TURNED_AWAY
            if refused and peer.peer_id in self._transport.members:  # anybody may say so
                self._refused = True
            if postpone:
                self._postpone(peer.peer_id)
        finally:
            del self._contacting[peer.peer_id]
            contact.set()

    def _revive(self, peer_id: str) -> bool:
        """Whether the peer was not alive before."""
        if peer_id not in self._transport.connected():
            return False
        self._refused = False
        state = self._states.setdefault(peer_id, PeerState())
        state.seen_seconds = trio.current_time()
        state.redial_seconds = 0.0
        state.moved = False
        self._lost_members.pop(peer_id, None)
        if state.alive and not state.replaced:
            return False
        state.alive, state.replaced = True, False
        state.observed.failures_in_row = 0
        log.info("peer_alive", peer=peer_id)
        return True

    def _lost(self, peer_id: str) -> None:
        state = self._states.get(peer_id)
        if state is None:
            return  # a stranger has gone: nothing is kept of those, or they could fill the memory
        if peer_id in self._transport.connected():
            # Events may come late and name no connection: this one has been replaced meanwhile.
            state.replaced = True
            return
        if state.alive:
            state.alive = False
            log.info("peer_lost", peer=peer_id)
        if state.seen_seconds and peer_id in self._transport.members:
            self._lost_members[peer_id] = None
        self._postpone(peer_id)

    def _postpone(self, peer_id: str) -> None:
        state = self._states.setdefault(peer_id, PeerState())
        pause = min(max(LIMITS.redial_seconds, 2 * state.redial_seconds), LIMITS.redial_max_seconds)
        state.redial_seconds = pause
        state.dial_after_seconds = trio.current_time() + pause * self._rng.uniform(0.8, 1.2)

    async def _keep_connected(self, nursery: trio.Nursery) -> None:
        while True:
            for peer in self._to_dial():
                nursery.start_soon(self._contact, peer)
            with trio.move_on_after(1.0):
                await self._redial.wait()
            self._redial = trio.Event()

    def _to_dial(self) -> Iterator[PeerAddress]:
        """Whom to contact now: members while there are too few, and whoever was lost.

        Those are sought again though others have taken their places. Otherwise the halves of a grid
        that was cut in two, each with as many peers as it wants, would never meet again.
        """
        room = LIMITS.connections_wanted - len(self._transport.connected())
        chosen = set[str]()
        for peer in self._known_addresses() if room > 0 else ():
            if len(chosen) < room and self._is_due(peer.peer_id):
                chosen.add(peer.peer_id)
                yield peer
        room += LIMITS.connections_regained
        for peer_id in tuple(self._lost_members):
            address = self._address_of(peer_id)
            if peer_id not in self._transport.members or address is None:
                del self._lost_members[peer_id]
            elif len(chosen) < room and peer_id not in chosen and self._is_due(peer_id):
                chosen.add(peer_id)
                yield address

    def _is_due(self, peer_id: str) -> bool:
        state = self._states.get(peer_id)
        waits = state is not None and state.dial_after_seconds > trio.current_time()
        return not (waits or peer_id in self._transport.connected() or peer_id in self._contacting)

    @contextmanager
    def while_alive(self, peer_id: str, *, silence_seconds: float = math.inf) -> Iterator[None]:
        """Give up what is awaited inside once the peer falls silent, or after `silence_seconds`.

        A frozen process keeps its connection, so waiting for its answer would take the whole
        silence limit, although the ping knows better. Of one that is silent already, only what has
        come is taken.

        Raises:
            RemoteError: `timeout`.
        """
        patience_seconds = silence_seconds if self.alive(peer_id) else _GRACE_SECONDS
        with trio.move_on_after(patience_seconds) as scope:
            waiting = self._waiting.setdefault(peer_id, set())
            waiting.add(scope)
            try:
                yield
            finally:
                waiting.discard(scope)
                if not waiting and self._waiting.get(peer_id) is waiting:
                    del self._waiting[peer_id]
        if scope.cancelled_caught:
            raise RemoteError("the node fell silent", Code.TIMEOUT, peer=peer_id)

    async def _ping_all(self, nursery: trio.Nursery) -> None:
        while True:
            # With the time limit of a ping, a frozen node is noticed within 5 s.
            await trio.sleep(LIMITS.ping_interval_seconds * self._rng.uniform(0.8, 1.2))
            members = self._transport.members - {self._transport.peer_id}
            # A peer that is slow to answer, or to sync, holds up nobody else's ping.
            for peer_id in sorted(self._transport.connected() & members - self._pinging):
                nursery.start_soon(self._ping, peer_id)

    def clock_ahead_ms(self) -> int:
        """How far our clock is ahead of the others': the median over live peers.

        Beyond `clock_skew_seconds` our records are refused as from the future.
        """
        seen = sorted(state.clock_ahead_ms for state in self._states.values() if state.alive)
        return seen[len(seen) // 2] if seen else 0

    async def _ping(self, peer_id: str) -> None:
        self._pinging.add(peer_id)
        try:
            revived = await self._hear(peer_id)
        finally:
            self._pinging.discard(peer_id)
        if revived:
            await self.on_alive(peer_id)

    async def _hear(self, peer_id: str) -> bool:
        """Ping once; whether the peer was not alive before."""
        sent_ms = self._now_ms()
        try:
            body = await self._rpc.ask(
                peer_id,
                encode(Ping()),
                silence_seconds=LIMITS.ping_timeout_seconds,
                urgent=True,  # requests may take every other stream, and the peer is alive
            )
            answer = decode_rpc_answer(body)
        except AigridError as error:
            state = self._states.get(peer_id)
            if state is not None and state.alive:
                state.alive = False
                log.info("peer_silent", peer=peer_id, code=error.code.value)
                for scope in tuple(self._waiting.get(peer_id, ())):
                    scope.cancel()
            return False
        if not isinstance(answer, Pong) or peer_id not in self._transport.members:
            return False
        state = self._states.setdefault(peer_id, PeerState())
        state.observed.heard(answer.running)
        state.clock_ahead_ms = (sent_ms + self._now_ms()) // 2 - answer.wall_ms
        return self._revive(peer_id)


async def _nothing(peer_id: str) -> None:
    pass
