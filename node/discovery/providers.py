"""DHT hints: telling who may have what, and reading what others told.

A hint says only whom to ask; what is believed are the signed records that peer then sends.
"""

import math
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
    """Announces `keys()` whenever poked and every `provide_seconds`; `providers` reads hints.

    Telling a key may take `dht_call_seconds` where peers are gone, so all of them longer than
    `provide_seconds`. What has not been told goes first, the newest before the rest, and then what
    was told longest ago; a round that took too long is followed by the next at once.
    """

    def __init__(self, transport: Transport, *, keys: Callable[[], frozenset[str]]) -> None:
        self._transport = transport
        self._keys = keys
        self._poke = trio.Event()
        self._ours: dict[str, float] = {}  # keys that are, and since when
        self._told: dict[str, float] = {}  # which of them, and when

    def poke(self) -> None:
        """Our keys may have changed, or there is somebody new to tell."""
        self._poke.set()

    async def run(self, *, task_status: "trio.TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        began = trio.current_time()
        while True:
            self._poke = trio.Event()  # before looking: what changes from here on is not missed
            self._look()
            await self._tell(began)
            if self._poke.is_set():
                continue  # in the midst of it, or just when it was over
            with trio.move_on_at(began + LIMITS.provide_seconds) as scope:
                await self._poke.wait()
                await trio.sleep(LIMITS.gossip_interval_seconds)
            if scope.cancelled_caught:
                began = trio.current_time()

    def _look(self) -> None:
        keys, now = self._keys(), trio.current_time()
        self._ours = {key: self._ours.get(key, now) for key in keys}
        self._told = {key: at for key, at in self._told.items() if key in keys}

    async def _tell(self, began: float) -> None:
        """Each that was not told since then, until poked or alone."""
        due = [key for key in self._ours if self._told.get(key, -math.inf) < began]
        for key in sorted(due, key=self._turn):
            if self._poke.is_set() or not self._transport.connected():
                return
            self._told[key] = trio.current_time()
            await self._transport.provide(key)

    def _turn(self, key: str) -> tuple[bool, float, str]:
        told = self._told.get(key)
        return told is not None, -self._ours[key] if told is None else told, key

    async def providers(self, key: str) -> list[PeerAddress]:
        """Whom the DHT names for `key`, ourselves apart.

        Some may be no members, or not known here to be: a greeting tells.
        """
        if not self._transport.connected():
            return []
        found = await self._transport.find_providers(key)
        return [peer for peer in found if peer.peer_id != self._transport.peer_id]
