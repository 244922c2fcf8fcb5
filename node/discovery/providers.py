"""DHT hints: telling who may have what, and following hints when the metagraph has no answer.

A hint says only whom to ask; what is believed are the signed records that peer then sends.
"""

from collections.abc import Callable

import structlog
import trio

from aigrid.node.discovery.peers import Peers
from aigrid.node.network.transport import Transport
from aigrid.protocol.limits import LIMITS

log = structlog.get_logger()


def grid_key(grid: str) -> str:
    return f"aigrid/grid/{grid}"


def capability_key(grid: str, capability: str) -> str:
    return f"aigrid/capability/{grid}/{capability}"


def model_key(grid: str, model: str) -> str:
    return f"aigrid/model/{grid}/{model}"


class ProviderHints:
    """Announces `keys()` whenever poked and every `provide_seconds`; `seek` follows hints."""

    def __init__(
        self, transport: Transport, peers: Peers, *, keys: Callable[[], frozenset[str]]
    ) -> None:
        self._transport = transport
        self._peers = peers
        self._keys = keys
        self._poke = trio.Event()

    def poke(self) -> None:
        """Our keys may have changed, or there is somebody new to tell."""
        self._poke.set()

    async def run(self, *, task_status: "trio.TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        told: frozenset[str] = frozenset()
        while True:
            self._poke = trio.Event()  # before looking: what changes from here on is not missed
            keys = self._keys()
            if self._transport.connected():
                for key in sorted(keys - told):
                    await self._transport.provide(key)
                told = keys
            with trio.move_on_after(LIMITS.provide_seconds) as scope:
                await self._poke.wait()
                await trio.sleep(LIMITS.gossip_interval_seconds)
            if scope.cancelled_caught:
                told = frozenset()

    async def seek(self, key: str) -> int:
        """Contact the members that the DHT names for `key`; how many are alive."""
        if not self._unreached():
            return 0  # we are connected to every member: a hint can tell nothing new
        found = 0
        with trio.move_on_after(LIMITS.seek_seconds):
            for peer in await self._transport.find_providers(key):
                if peer.peer_id in self._transport.members and not self._peers.alive(peer.peer_id):
                    found += await self._peers.contact(peer)
        return found

    def _unreached(self) -> frozenset[str]:
        own = frozenset({self._transport.peer_id})
        return self._transport.members - self._peers.alive_members() - own
