"""Connections across branches, so that what is everybody's reaches everybody.

A node that does not replicate everything holds NodeRecords, and so addresses, of its own branches
alone. Left at that, those who share an interest would keep to themselves, and a member removed
would be removed only among some.
"""

import random

import trio

from aigrid.node.discovery.grid import Grid
from aigrid.node.discovery.interests import Interests
from aigrid.node.discovery.peers import Peers
from aigrid.node.discovery.providers import grid_key
from aigrid.node.network.transport import Transport
from aigrid.protocol.limits import LIMITS


class Mingling:
    """Now and then meets a random member, by DHT hint, while few peers are from elsewhere."""

    def __init__(
        self,
        transport: Transport,
        peers: Peers,
        interests: Interests,
        grid: Grid,
        *,
        rng: random.Random,
    ) -> None:
        self._transport = transport
        self._peers = peers
        self._interests = interests
        self._grid = grid
        self._rng = rng

    async def run(self, *, task_status: "trio.TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        while True:
            await trio.sleep(LIMITS.sync_interval_seconds * self._rng.uniform(0.8, 1.2))
            if self._lonely():
                with trio.move_on_after(LIMITS.seek_seconds):
                    await self._meet()

    def _lonely(self) -> bool:
        alive = self._peers.alive_members()
        if self._interests.everything or len(alive) >= 2 * LIMITS.connections_wanted:
            return False
        elsewhere = sum(map(self._interests.reaches_beyond, alive))
        return elsewhere < LIMITS.connections_elsewhere

    async def _meet(self) -> None:
        unmet = self._transport.members - self._peers.alive_members() - {self._transport.peer_id}
        if not unmet:
            return
        hints = await self._transport.find_providers(grid_key(self._grid.did))
        found = [peer for peer in hints if peer.peer_id in unmet]
        if found:
            await self._peers.contact(self._rng.choice(found))
