"""How the members are: telling one's own vitals, and asking those of others.

Nobody is asked unless somebody here looks. What was heard is kept, so that who falls silent is
still shown, with the age of its figures.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog
import trio

from aigrid.metagraph.quota import TokenBuckets
from aigrid.node.discovery.peers import Peers
from aigrid.node.network.streams import RpcClient, Send
from aigrid.node.network.transport import Transport
from aigrid.protocol.errors import (
    AigridError,
    Code,
    LocalError,
    PolicyDeniedError,
    RemoteError,
)
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.messages import decode_rpc_answer, encode
from aigrid.protocol.vitals import Examine, Vitals

log = structlog.get_logger()
_EXAMINE: Final = encode(Examine())


@dataclass(slots=True)
class Heard:
    """What is known of one member. Times are monotonic seconds, minus infinity for never.

    Attributes:
        vitals: the last ones, `heard_seconds` ago at the most; None where there are none.
        code: why there are no newer ones; None where the last answer was good, or none came yet.
    """

    vitals: Vitals | None = None
    heard_seconds: float = float("-inf")
    asked_seconds: float = float("-inf")
    code: Code | None = None


class VitalSigns:
    """Both sides: `serve` answers a member, `gather` asks members.

    `measure` says how this node is; `told`: whether its operator lets members know.
    """

    def __init__(
        self,
        measure: Callable[[], Vitals],
        transport: Transport,
        rpc: RpcClient,
        peers: Peers,
        *,
        told: bool,
    ) -> None:
        self._measure = measure
        self._transport = transport
        self._rpc = rpc
        self._peers = peers
        self._told = told
        self._own: tuple[float, Vitals] | None = None
        self._asks = TokenBuckets(burst=LIMITS.vitals_burst, per_second=LIMITS.vitals_per_second)
        self._heard: dict[str, Heard] = {}
        self._gathering = trio.Lock()
        self._gathered_seconds = float("-inf")

    def own(self) -> Vitals:
        """How this node is; measured no more often than others may know."""
        now = trio.current_time()
        if self._own is None or now - self._own[0] >= LIMITS.vitals_cache_seconds:
            self._own = (now, self._measure())
        return self._own[1]

    async def serve(self, peer_id: str, message: Examine, send: Send) -> None:
        """Tell a member.

        Raises:
            PolicyDeniedError: `not_member`, or `denied` where the operator keeps it private.
            LocalError: `rate_limited`.
        """
        if peer_id not in self._transport.members:  # in an open grid strangers get this far
            raise PolicyDeniedError("vitals are for members", Code.NOT_MEMBER)
        if not self._told:
            raise PolicyDeniedError("this node keeps its vitals to itself", Code.DENIED)
        wait_seconds = self._asks.take(peer_id, trio.current_time())
        if wait_seconds:
            raise LocalError(
                "vitals were asked for too often",
                Code.RATE_LIMITED,
                retry_after_seconds=wait_seconds,
            )
        await send(encode(self.own()))

    async def gather(self) -> dict[str, Heard]:
        """Ask live members, so many as are asked for one table; PeerId -> what is known of it.

        Those that left lately are still in it. Whoever looks at the same time shares a round.
        """
        async with self._gathering:
            now = trio.current_time()
            if now - self._gathered_seconds >= LIMITS.vitals_cache_seconds:
                alive = self._peers.alive_members()
                self._forget(alive, now)
                await self._ask(self._chosen(alive))
                self._gathered_seconds = trio.current_time()
            members = self._transport.members
            return {peer: heard for peer, heard in self._heard.items() if peer in members}

    def _chosen(self, alive: frozenset[str]) -> list[str]:
        """Those who were not asked for the longest time; the silent after them."""
        room = LIMITS.vitals_members_max - len(self._heard)
        new = sorted(alive - self._heard.keys())[: max(0, room)]
        self._heard.update((peer, Heard()) for peer in new)

        def turn(peer: str) -> tuple[float, bool, str]:
            heard = self._heard[peer]
            return heard.asked_seconds, heard.code is Code.TIMEOUT, peer

        chosen = sorted(alive & self._heard.keys(), key=turn)[: LIMITS.vitals_asked_max]
        return sorted(chosen, key=lambda peer: self._heard[peer].code is Code.TIMEOUT)

    def _forget(self, alive: frozenset[str], now: float) -> None:
        """Those who left: at once where there are no figures to show, else after a while."""
        for peer in self._heard.keys() - alive:
            heard = self._heard[peer]
            if heard.vitals is None or now - heard.heard_seconds > LIMITS.vitals_kept_seconds:
                del self._heard[peer]
            else:
                heard.code = Code.CONNECTION_LOST

    async def _ask(self, peers: list[str]) -> None:
        turns = trio.CapacityLimiter(LIMITS.vitals_at_once_max)
        with trio.move_on_after(LIMITS.vitals_round_seconds):
            async with trio.open_nursery() as nursery:
                for peer in peers:
                    nursery.start_soon(self._ask_one, peer, turns)

    async def _ask_one(self, peer: str, turns: trio.CapacityLimiter) -> None:
        heard = self._heard[peer]
        async with turns:
            heard.asked_seconds = trio.current_time()
            try:
                with trio.fail_after(LIMITS.vitals_seconds):
                    vitals = await self._vitals_of(peer)
            except trio.TooSlowError:
                heard.code = Code.TIMEOUT
            except AigridError as error:
                heard.code = error.code
                if error.code is Code.DENIED:  # nor is what it told before it changed its mind
                    heard.vitals = None
                log.debug("vitals_not_told", peer=peer, code=error.code.value)
            else:
                heard.vitals, heard.code = vitals, None
                heard.heard_seconds = trio.current_time()

    async def _vitals_of(self, peer: str) -> Vitals:
        body = await self._rpc.ask(peer, _EXAMINE, silence_seconds=LIMITS.vitals_seconds)
        answer = decode_rpc_answer(body)
        if not isinstance(answer, Vitals):
            raise RemoteError("an answer that was not asked for", peer=peer)
        return answer
