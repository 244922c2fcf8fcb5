"""DHT hints: telling who may have what, and reading what others told.

A hint says only whom to ask; what is believed are the signed records that peer then sends.
"""

from collections.abc import Callable, Iterable

import structlog
import trio

from aigrid.metagraph.concepts import LiveConcepts, is_published
from aigrid.node.network.transport import PeerAddress, Transport
from aigrid.protocol.kinds import ModelBody, Seed
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.model import MODEL_URN

log = structlog.get_logger()


def grid_key(grid: str) -> str:
    return f"aigrid/grid/{grid}"


def capability_key(grid: str, capability: str) -> str:
    """`capability` is a name or an IRI; the transport hashes keys, so length is no matter."""
    return f"aigrid/capability/{grid}/{capability}"


def model_key(grid: str, model: str) -> str:
    """`model` is an id or a name."""
    return f"aigrid/model/{grid}/{model}"


def hint_keys(
    grid: str,
    offered: Iterable[ModelBody],
    concepts: LiveConcepts,
    now_ms: int,
    seeds: Iterable[Seed] = (),
) -> frozenset[str]:
    """What a node that offers these models may be asked for, broader capabilities included.

    What it merely gives the files of, it may be asked for by id.

    Beyond `provide_keys_max` the least useful are left out: names first, which others may have
    given to other models, then capabilities that only few can know.
    """
    bodies = list(offered)
    satisfied = [concepts.satisfied(body.capabilities) for body in bodies]
    capabilities = {name for one in satisfied for name, until in one.items() if until > now_ms}
    groups = (
        {grid_key(grid)},
        {model_key(grid, body.id.removeprefix(MODEL_URN)) for body in bodies}
        | {model_key(grid, seed.model) for seed in seeds},
        {capability_key(grid, name) for name in capabilities if not is_published(name)},
        {capability_key(grid, name) for name in capabilities if is_published(name)},
        {model_key(grid, body.name) for body in bodies},
    )
    ordered = [key for group in groups for key in sorted(group)]
    return frozenset(ordered[: LIMITS.provide_keys_max])


class ProviderHints:
    """Announces `keys()` whenever poked and every `provide_seconds`; `providers` reads hints."""

    def __init__(self, transport: Transport, *, keys: Callable[[], frozenset[str]]) -> None:
        self._transport = transport
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

    async def providers(self, key: str) -> list[PeerAddress]:
        """Whom the DHT names for `key`, ourselves apart.

        Some may be no members, or not known here to be: a greeting tells.
        """
        if not self._transport.connected():
            return []
        found = await self._transport.find_providers(key)
        return [peer for peer in found if peer.peer_id != self._transport.peer_id]
