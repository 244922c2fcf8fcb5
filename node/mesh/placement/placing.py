"""Acts on what is wanted, when it is this node's turn, and lets replicas go that nobody needs.

What to do is decided in `decisions`; this keeps the time.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import structlog
import trio

from aigrid.metagraph.graph import Metagraph
from aigrid.node.mesh.placement.bringable import Bring, Bringable
from aigrid.node.mesh.placement.decisions import Scene, Verdict, to_retire, verdict
from aigrid.node.mesh.placement.sight import Sight
from aigrid.node.mesh.pool.pool import ModelPool
from aigrid.node.mesh.pool.view import ModelUse
from aigrid.protocol.errors import AigridError
from aigrid.protocol.kinds import DemandBody, Kind, Offer
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.record import Record

log = structlog.get_logger(__name__)
_WANTED_SECONDS: Final = 1.0  # between looks while something is wanted
_WARM_SECONDS: Final = 5.0  # while something is loaded here
_SETTLE_SECONDS: Final = 0.05  # several records at once are one look


@dataclass(slots=True)
class _Memory:
    """What is remembered of a model from one look to the next; times by trio's clock.

    Attributes:
        warm, changed_at: its loaded replicas, and since when they are those.
        short_since: since when more are wanted than there are; None while there are enough.
        wanted_at: when somebody wanted it last; `wanted_since`: when first, without a longer pause.
        used_at, expires_at: when it was used here last, and when the pool would unload it.
    """

    warm: frozenset[str] = frozenset()
    changed_at: float = -LIMITS.placement_settle_seconds
    short_since: float | None = None
    wanted_at: float = float("-inf")
    wanted_since: float = 0.0
    used_at: float = 0.0
    expires_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Told:
    """Why this node does or does not host a model that is wanted."""

    verdict: Verdict
    problem: str = ""
    acting: bool = False

    def __str__(self) -> str:
        doing = "it is brought here" if self.acting else self.problem
        return f"{self.verdict}; {doing}" if doing else str(self.verdict)


class Placing:
    """`run` is a service.

    `bring`: see `Bring`. `changed` is called when what is on its way here has changed.
    """

    def __init__(
        self,
        graph: Metagraph,
        pool: ModelPool,
        sight: Sight,
        bringable: Bringable,
        *,
        bring: Bring,
        changed: Callable[[], None],
        idle_seconds: float = LIMITS.replica_idle_seconds,
    ) -> None:
        self._graph = graph
        self._pool = pool
        self._sight = sight
        self._bringable = bringable
        self._bring = bring
        self._changed = changed
        self._idle_seconds = idle_seconds
        self._memories: dict[str, _Memory] = {}
        self._acts: dict[str, Record] = {}
        self._told: dict[str, Told] = {}
        self._poke = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._failing = ""
        graph.listeners.append(self._on_record)

    def poke(self) -> None:
        """Look again soon."""
        self._poke.set()

    def coming(self) -> tuple[Offer, ...]:
        """What is being brought here: nobody may ask for it yet, but others need not bring it."""
        return tuple(
            Offer(model, manifest.content_id, "loading", slots=0)
            for model, manifest in sorted(self._acts.items())
        )

    def acting(self, model: str) -> bool:
        """Whether a model is being brought here or loaded."""
        return model in self._acts

    def view(self) -> dict[str, Told]:
        """Model id -> how this node stands to what is wanted now."""
        return dict(self._told)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look and act, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            while True:
                with trio.move_on_after(self._pause()):
                    await self._poke.wait()
                await trio.sleep(_SETTLE_SECONDS)
                self._poke = trio.Event()
                try:
                    self._look()
                    self._failing = ""
                except AigridError as error:  # the disk may be full: no reason to end the node
                    if self._failing != error.message:  # once, not at every look
                        log.warning("not_placed", code=error.code.value, reason=error.message)
                    self._failing = error.message

    def _pause(self) -> float:
        if self._told or self._acts:
            return _WANTED_SECONDS
        warm = "warm" in self._pool.states().values()
        return _WARM_SECONDS if warm else float("inf")

    def _on_record(self, record: Record) -> None:
        wanted = record.kind is Kind.DEMAND and (
            record.withdrawn or isinstance(record.body, DemandBody)
        )
        # What others offer counts while something is wanted; our own word may say that something
        # has been loaded here, though nobody had to want it.
        offered = record.kind is Kind.AVAILABILITY and (
            bool(self._told) or record.issuer == self._graph.own_did
        )
        if wanted or offered:
            self._poke.set()

    def _look(self) -> None:
        now = trio.current_time()
        demands = self._sight.demands(lambda model: self._bringable.manifest(model) is not None)
        told = {model: self._consider(model, who, now) for model, who in demands.items()}
        self._told = told
        loaded = [model for model, state in self._pool.states().items() if state == "warm"]
        self._retire(loaded, now)
        for model in self._memories.keys() - demands.keys() - set(loaded):
            if now - self._memories[model].wanted_at > LIMITS.placement_settle_seconds:
                del self._memories[model]

    # -- bringing

    def _consider(self, model: str, waiting: Mapping[str, int], now: float) -> Told:
        """Act on one wanted model if it is this node's turn; what there is to say of it."""
        manifest = self._bringable.manifest(model, self._sight.named(model))
        scene = self._sight.scene(model, waiting, manifest or self._newest(model))
        memory = self._remember(scene, now)
        if now - memory.wanted_at > LIMITS.placement_settle_seconds:
            memory.wanted_since = now
        memory.wanted_at = now
        scene = replace(scene, waited_seconds=now - max(memory.wanted_since, memory.changed_at))
        found = verdict(scene, self._graph.own_did)
        if model in self._acts:
            return Told(found, acting=True)
        if manifest is None:
            return Told(found, "it is not on this node's list: see `[placement] host`")
        problem = self._bringable.problem(manifest, waiting)
        if self._due(memory, found, now) and not problem:
            problem = self._act(model, manifest, waiting)
            return Told(found, problem, acting=not problem)
        return Told(found, problem)

    def _newest(self, model: str) -> Record | None:
        """A manifest by which others may host a model that is on no list here."""
        found = self._sight.manifests(model)
        return max(found, key=lambda manifest: manifest.rank, default=None)

    def _remember(self, scene: Scene, now: float) -> _Memory:
        """Note which replicas are loaded; what was so at the first look has not changed then."""
        warm = frozenset(replica.node for replica in scene.replicas if replica.warm)
        memory = self._memories.get(scene.model)
        if memory is None:
            memory = self._memories[scene.model] = _Memory(warm, used_at=now)
        if warm != memory.warm:
            memory.warm, memory.changed_at = warm, now
        return memory

    def _due(self, memory: _Memory, found: Verdict, now: float) -> bool:
        """Whether it is this node's turn. What has just changed may be enough: that settles."""
        if found.wanted <= found.live:
            memory.short_since = None
            return False
        settled = memory.changed_at + LIMITS.placement_settle_seconds if memory.warm else now
        if memory.short_since is None or memory.changed_at > memory.short_since:
            memory.short_since = max(now, settled)
        return now >= memory.short_since + found.turn_seconds

    def _act(self, model: str, manifest: Record, askers: Iterable[str]) -> str:
        """Begin; why not, or ""."""
        if self._nursery is None or len(self._acts) >= LIMITS.placement_acts_max:
            return "others are being brought here just now"
        self._acts[model] = manifest
        self._nursery.start_soon(self._host, model, manifest, tuple(askers))
        self._changed()
        return ""

    async def _host(self, model: str, manifest: Record, askers: tuple[str, ...]) -> None:
        """Bring the files if need be, and load the model; it stays as its pool's keep-alive has it.

        An error is noted and not raised: the next in rank has its turn.
        """
        failed = True
        try:
            with self._bringable.reserve_load(askers) as reservation:
                await self._bring(model, manifest, askers)
                reservation.spend_load()
                await self._pool.warm(model)
            failed = False
            log.info("placed", model=model)
        except AigridError as error:
            log.warning("not_placed", model=model, code=error.code.value, reason=error.message)
        finally:
            self._acts.pop(model, None)
        self._bringable.note(model, failed=failed)
        self._changed()
        self._poke.set()

    # -- retiring

    def _watch(self, memory: _Memory, use: ModelUse, now: float) -> None:
        """Note whether a loaded model was used since the last look: its expiry has moved then.

        What its operator has said of it holds as long as it would without replicas elsewhere.
        """
        if use.expires_in_seconds is None or use.wished or use.leases or use.waiting:
            memory.used_at, memory.expires_at = now, now
            return
        expires_at = now + use.expires_in_seconds
        if expires_at > memory.expires_at + _SETTLE_SECONDS:
            memory.used_at = now
        memory.expires_at = expires_at

    def _retire(self, loaded: Iterable[str], now: float) -> None:
        """Unload what is idle here and loaded elsewhere, in the order of the ranking."""
        own, uses = self._graph.own_did, self._pool.view()
        for model in loaded:
            memory = self._remember(self._sight.scene(model, {}, None), now)
            self._watch(memory, uses[model], now)
            going = to_retire(model, memory.warm, wanted=1)
            if own not in going or self._nursery is None:
                continue
            turn = going.index(own) * LIMITS.placement_settle_seconds
            idle_since = max(memory.used_at, memory.wanted_at)
            settled = memory.changed_at + LIMITS.placement_settle_seconds
            if now >= max(idle_since + self._idle_seconds + turn, settled):
                log.info("replica_retires", model=model, replicas=len(memory.warm))
                memory.used_at = now  # or it would go on going while it goes
                self._nursery.start_soon(partial(self._pool.unload, model))
