"""Repair: two nodes compare what they hold, and send each other what is missing.

The side that asks keeps the state of the conversation; the other answers each request by itself.
"""

import random
from typing import TypeVar

import structlog
import trio

from aigrid.metagraph.graph import Metagraph
from aigrid.metagraph.quota import TokenBuckets
from aigrid.node.discovery.batches import batches, send_records, take_in
from aigrid.node.discovery.grid import NowMs
from aigrid.node.discovery.interests import Interests
from aigrid.node.discovery.peers import Peers
from aigrid.node.network.streams import RpcClient, Send
from aigrid.protocol.errors import AigridError, Code, LocalError, RemoteError
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.messages import (
    Fetch,
    Push,
    Pushed,
    Reconcile,
    Reconciled,
    Records,
    RpcAnswer,
    decode_rpc_answer,
    encode,
)
from aigrid.protocol.reconcile import NOTHING_TO_COMPARE, Reconciler

log = structlog.get_logger()
T = TypeVar("T", bound=RpcAnswer)


class RecordSync:
    """Both sides: `serve` answers a peer's requests, `sync` makes ours."""

    def __init__(
        self,
        graph: Metagraph,
        rpc: RpcClient,
        peers: Peers,
        interests: Interests,
        *,
        now_ms: NowMs,
        rng: random.Random,
    ) -> None:
        self._graph = graph
        self._rpc = rpc
        self._peers = peers
        self._interests = interests
        self._now_ms = now_ms
        self._rng = rng
        self._nursery: trio.Nursery | None = None
        self._rates = TokenBuckets(burst=LIMITS.syncs_burst, per_second=LIMITS.syncs_per_second)
        self._talking: set[str] = set()

    async def serve(self, peer_id: str, message: Reconcile | Fetch | Push, send: Send) -> None:
        """Answer one request of a conversation."""
        wait_seconds = self._rates.take(peer_id, trio.current_time())
        if wait_seconds:
            raise LocalError(
                "too many sync requests", Code.RATE_LIMITED, retry_after_seconds=wait_seconds
            )
        if isinstance(message, Fetch):
            found = self._graph.raws(message.ids, now_ms=self._now_ms())
            await send_records(send, found)
        elif isinstance(message, Push):
            now_ms = self._now_ms()
            changed = take_in(self._graph, message.records, now_ms=now_ms, peer_id=peer_id)
            await send(encode(Pushed(changed)))
        else:
            await send(encode(Reconciled(self._compared(message))))

    def _compared(self, request: Reconcile) -> bytes:
        if request.branch is not None and not self._interests.takes_part(request.branch):
            return NOTHING_TO_COMPARE
        items = self._graph.items(self._now_ms(), branch=request.branch)
        step = Reconciler(items).reconcile(request.message)
        return step.reply or NOTHING_TO_COMPARE  # a responder always has one

    async def sync(self, peer_id: str, *, push: bool) -> int:
        """Reconcile with a peer what both replicate; how many of its records were news.

        Where `push` is set it is sent what it lacks, too. Failures are the peer's, and logged; one
        that never ends is left after `sync_seconds`, with what it sent so far.
        """
        if peer_id in self._talking:
            return 0
        self._talking.add(peer_id)
        conversation = _Conversation(self._graph, self._rpc, peer_id, now_ms=self._now_ms)
        try:
            with trio.move_on_after(LIMITS.sync_seconds):
                for branch in self._interests.shared(peer_id):
                    have = await conversation.compare_and_fetch(branch)
                    if push and self._interests.may_push(peer_id, branch):
                        await conversation.push(have)
        except AigridError as error:
            log.info("sync_failed", peer=peer_id, code=error.code.value)
        finally:
            self._talking.discard(peer_id)
        return conversation.news

    async def on_alive(self, peer_id: str) -> None:
        """A peer is back: take what it has now, and again shortly what it announced meanwhile.

        The second time covers the moment before GossipSub has the newcomer in its mesh. At first
        each side only takes, since both ask at the same moment.
        """
        await self.sync(peer_id, push=False)
        if self._nursery is not None:
            self._nursery.start_soon(self._sync_later, peer_id)

    async def run(self, *, task_status: "trio.TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            news = 0
            while True:
                # Where one peer had news, we may lack more that it lacks itself: ask the next soon.
                pause = LIMITS.sync_again_seconds if news else LIMITS.sync_interval_seconds
                await trio.sleep(pause * self._rng.uniform(0.8, 1.2))
                alive = sorted(self._peers.alive_members())
                news = await self.sync(self._rng.choice(alive), push=True) if alive else 0

    async def _sync_later(self, peer_id: str) -> None:
        await trio.sleep(2 * LIMITS.gossip_interval_seconds)
        if self._peers.alive(peer_id):
            await self.sync(peer_id, push=True)


class _Conversation:
    """Our side of one; any method may raise the AigridError that ended it."""

    def __init__(self, graph: Metagraph, rpc: RpcClient, peer_id: str, *, now_ms: NowMs) -> None:
        self.news = 0
        self._graph = graph
        self._rpc = rpc
        self._peer_id = peer_id
        self._now_ms = now_ms

    async def compare_and_fetch(self, branch: str | None) -> list[bytes]:
        """Find the differences and take what we lack; SHA-256 of what the peer lacks.

        Only records of `branch` are compared, or all of them.

        What is needed is asked for in the order in which it was named, which names memberships
        first, as soon as it fills a request: a long difference is never held as a whole.
        """
        reconciler = Reconciler(self._graph.items(self._now_ms(), branch=branch))
        have: list[bytes] = []
        need: list[bytes] = []
        message: bytes | None = reconciler.initiate()
        while message is not None:
            answer = await self._ask(Reconcile(message, branch), Reconciled)
            step = reconciler.reconcile(answer.message)
            have += step.have_ids[: LIMITS.sync_push_max - len(have)]
            need += self._graph.lacking(step.need_ids, peer_id=self._peer_id, now_ms=self._now_ms())
            while len(need) >= LIMITS.sync_ids_max:
                await self._fetch(need[: LIMITS.sync_ids_max])
                del need[: LIMITS.sync_ids_max]
            message = step.reply
        if need:
            await self._fetch(need)
        if not step.complete:
            log.info("sync_unfinished", peer=self._peer_id)
        return have

    async def push(self, sha256s: list[bytes]) -> None:
        """Send what the peer lacks, unless what it sent has replaced it meanwhile."""
        raws = self._graph.raws(sha256s, now_ms=self._now_ms())
        for batch in batches(raws):
            await self._ask(Push(batch), Pushed)

    async def _fetch(self, sha256s: list[bytes]) -> None:
        left = len(sha256s)
        async with self._rpc.call(
            self._peer_id,
            encode(Fetch(tuple(sha256s))),
            silence_seconds=LIMITS.rpc_timeout_seconds,
        ) as answers:
            async for body in answers:
                answer = decode_rpc_answer(body)
                if not isinstance(answer, Records) or len(answer.records) > left:
                    raise RemoteError("an answer that was not asked for", peer=self._peer_id)
                left -= len(answer.records)
                self.news += take_in(
                    self._graph, answer.records, now_ms=self._now_ms(), peer_id=self._peer_id
                )

    async def _ask(self, request: Reconcile | Push, kind: type[T]) -> T:
        body = await self._rpc.ask(
            self._peer_id, encode(request), silence_seconds=LIMITS.rpc_timeout_seconds
        )
        answer = decode_rpc_answer(body)
        if not isinstance(answer, kind):
            raise RemoteError("an answer that was not asked for", peer=self._peer_id)
        return answer
