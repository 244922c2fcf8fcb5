"""Repair: fetch from a peer the live records we do not have, on contact and then periodically."""

import random

import structlog
import trio

from aigrid.metagraph.graph import Metagraph
from aigrid.metagraph.quota import TokenBuckets
from aigrid.node.discovery.gossip import batches, take_in
from aigrid.node.discovery.grid import NowMs
from aigrid.node.discovery.peers import Peers
from aigrid.node.network.streams import RpcClient, Send
from aigrid.protocol.errors import AigridError, Code, LocalError, RemoteError
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.messages import (
    KNOWN_ID_BYTES,
    Records,
    Sync,
    decode_rpc_answer,
    encode,
)

log = structlog.get_logger()


class RecordSync:
    """Both directions: `serve` answers a peer's `Sync`, `pull` asks one."""

    def __init__(
        self, graph: Metagraph, rpc: RpcClient, peers: Peers, *, now_ms: NowMs, rng: random.Random
    ) -> None:
        self._graph = graph
        self._rpc = rpc
        self._peers = peers
        self._now_ms = now_ms
        self._rng = rng
        self._nursery: trio.Nursery | None = None
        self._rate = TokenBuckets(burst=LIMITS.syncs_burst, per_second=LIMITS.syncs_per_second)

    async def serve(self, peer_id: str, message: Sync, send: Send) -> None:
        """Send the live records that `message` does not name, in batches."""
        now_seconds = trio.current_time()
        bucket = self._rate.of(peer_id, now_seconds)
        if not bucket.take(now_seconds):
            raise LocalError(
                "too many sync requests",
                Code.RATE_LIMITED,
                retry_after_seconds=bucket.wait_seconds(now_seconds),
            )
        unknown = self._graph.records_unknown_to(message.known, now_ms=self._now_ms())
        for batch in batches([r.raw for r in unknown], LIMITS.gossip_max_bytes):
            await send(encode(Records(batch)))

    async def pull(self, peer_id: str) -> int:
        """Ask a peer; how many of its records were news. Failures are the peer's, and logged.

        A peer that never ends its answer is left after `sync_seconds`, with what it sent so far.
        """
        known = self._graph.known_ids(now_ms=self._now_ms())
        request = Sync(known[: LIMITS.sync_known_max * KNOWN_ID_BYTES])
        news = 0
        try:
            with trio.move_on_after(LIMITS.sync_seconds):
                async with self._rpc.call(
                    peer_id, encode(request), silence_seconds=LIMITS.rpc_timeout_seconds
                ) as answers:
                    async for body in answers:
                        news += self._take_in(body, peer_id)
        except AigridError as error:
            log.info("sync failed", peer=peer_id, code=error.code.value)
        return news

    def _take_in(self, body: bytes, peer_id: str) -> int:
        answer = decode_rpc_answer(body)
        if not isinstance(answer, Records):
            raise RemoteError("an unexpected answer", peer=peer_id)
        raws = list(answer.records)
        return take_in(self._graph, raws, now_ms=self._now_ms(), peer_id=peer_id)

    async def on_alive(self, peer_id: str) -> None:
        """A peer is back: pull now, and again shortly for what it announced meanwhile.

        The second pull covers the moment before GossipSub has the newcomer in its mesh.
        """
        await self.pull(peer_id)
        if self._nursery is not None:
            self._nursery.start_soon(self._pull_later, peer_id)

    async def run(self, *, task_status: "trio.TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            while True:
                await trio.sleep(LIMITS.sync_interval_seconds * self._rng.uniform(0.8, 1.2))
                alive = sorted(self._peers.alive_members())
                if alive:
                    await self.pull(self._rng.choice(alive))

    async def _pull_later(self, peer_id: str) -> None:
        await trio.sleep(2 * LIMITS.gossip_interval_seconds)
        if self._peers.alive(peer_id):
            await self.pull(peer_id)
