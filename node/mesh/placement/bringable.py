"""Which models this node may bring here or load without being told to, and why not the others."""

from collections.abc import Callable, Collection, Mapping
from typing import Protocol

import trio
from msgspec import UNSET

from aigrid.metagraph.graph import Metagraph
from aigrid.node.discovery.grid import NowMs
from aigrid.node.mesh.placement.budget import Cost, PlacementBudget
from aigrid.node.mesh.placement.sight import Sight
from aigrid.node.mesh.shelf.copying import Progress
from aigrid.node.settings.placement import PlacementConfig
from aigrid.protocol.errors import AigridError
from aigrid.protocol.kinds import ModelBody
from aigrid.protocol.limits import LIMITS, MIB
from aigrid.protocol.model import MODEL_URN
from aigrid.protocol.policy import covers
from aigrid.protocol.record import Record


class Weights(Protocol):
    """Brings files of models from other nodes."""

    async def fetch(self, model: str, manifest: Record, *, progress: Progress) -> object:
        """Bring a model and put it on the shelf. Raises AigridError."""

    def holders(self, model: str) -> tuple[str, ...]:
        """DIDs of live nodes other than this one that give its files away."""

    def may_host(self, model: str, manifest: Record) -> AigridError | None:
        """Why policy does not permit this node to host a model under a manifest, or None."""


class Machine(Protocol):
    """What of this node decides whether a model can run here."""

    def formats(self) -> Collection[str]:
        """That engines here take."""

    def memory(self) -> Mapping[str, int]:
        """Purse of the pool's budget -> bytes for models."""

    def held(self, model: str) -> bool:
        """Whether its files are here."""

    def problem(self, model: str) -> str:
        """Why a model that is here is not served now, or ""."""


class Bringable:
    """`on_list(manifest)` is the operator's word; `problem(manifest, askers)` everything else."""

    def __init__(
        self,
        config: PlacementConfig,
        *,
        graph: Metagraph,
        sight: Sight,
        weights: Weights,
        machine: Machine,
        budget: PlacementBudget,
        trusted: Collection[str],
        hosts: Callable[[Record], bool],
        now_ms: NowMs,
    ) -> None:
        """`trusted`: DIDs of publishers; `hosts(manifest)`: see `Foresight.hosts`."""
        self._config = config
        self._graph = graph
        self._sight = sight
        self._weights = weights
        self._machine = machine
        self._budget = budget
        self._trusted = trusted
        self._hosts = hosts
        self._now_ms = now_ms
        self._failures: dict[str, tuple[int, float]] = {}

    def on_list(self, manifest: Record) -> bool:
        """Whether the operator lets this node host a model by itself, under a manifest."""
        host, issuer = self._config.host, manifest.issuer
        if not isinstance(host, str):
            return self._graph.membership_of(issuer, self._now_ms()) is not None and covers(
                host, _model(manifest), self._broader(manifest)
            )
        if host == "nothing":
            return False
        if issuer == self._graph.own_did or self._sight.by_authority(issuer):
            return True
        if host == "trusted":
            return issuer in self._trusted
        return host == "members" and self._is_member(issuer)

    def manifest(self, model: str, named: Collection[str] = ()) -> Record | None:
        """Under which this node would host a model: one on its list, of those `named` if it can.

        Of several the newest.
        """
        found = [m for m in self._graph.manifests_of(model, self._now_ms()) if self.on_list(m)]
        return max(found, key=lambda m: (m.content_id in named, m.rank), default=None)

    def cost(self, manifest: Record, *, load: bool) -> Cost:
        """Of bringing the model here if need be, and of loading it."""
        body = manifest.body
        held = self._machine.held(_model(manifest))
        sizes = [f.bytes for f in body.model.files] if isinstance(body, ModelBody) else []
        return Cost(0 if held else sum(sizes), int(load))

    def problem(self, manifest: Record, askers: Collection[str], *, load: bool = True) -> str:
        """Why this node does not host a model that is on its list, or ""."""
        model, body = _model(manifest), manifest.body
        if not isinstance(body, ModelBody) or body.model.upstream is not UNSET:
            return "it is behind a server: its publisher alone offers it"
        if not self._hosts(manifest):
            return "this node's operator does not host it: see `host` in its configuration"
        if body.model.format not in self._machine.formats():
            return f"no engine here takes {body.model.format}"
        if load and (problem := self._unloadable(model, body)):
            return problem
        held = self._machine.held(model)
        if not held and (problem := self._unfetchable(model, manifest, body)):
            return problem
        if (left := self.pause_seconds(model)) > 0:
            return f"it failed here and is tried again in {left:.0f} s"
        cost = self.cost(manifest, load=load)
        return self._budget.problem(cost, askers, self._now_ms())

    def pause_seconds(self, model: str) -> float:
        """How long a model is left alone after it failed here."""
        count, since = self._failures.get(model, (0, 0.0))
        pause = LIMITS.placement_pause_seconds * 2.0 ** min(count - 1, 16)
        most = LIMITS.placement_pause_max_seconds
        return since + min(pause, most) - trio.current_time() if count else 0.0

    def spend(self, manifest: Record, askers: Collection[str], *, load: bool) -> None:
        """Note the cost before it is spent."""
        self._budget.spend(self.cost(manifest, load=load), askers, self._now_ms())

    def note(self, model: str, *, failed: bool) -> None:
        """How it went."""
        count, _ = self._failures.pop(model, (0, 0.0))
        if failed:
            self._failures[model] = (count + 1, trio.current_time())
            while len(self._failures) > LIMITS.placement_models_max:
                del self._failures[next(iter(self._failures))]

    def _unloadable(self, model: str, body: ModelBody) -> str:
        """Why it can never be loaded here, or not now. What it needs is its manifest's word."""
        most = max(self._machine.memory().values(), default=0)
        if body.memory_bytes > most:
            return f"it needs {body.memory_bytes // MIB} MiB, this node has {most // MIB}"
        return self._machine.problem(model) if self._machine.held(model) else ""

    def _unfetchable(self, model: str, manifest: Record, body: ModelBody) -> str:
        refused = self._weights.may_host(model, manifest)
        if refused is not None:
            return refused.message or refused.code.value
        if body.model.files and not self._weights.holders(model):
            return "nobody who is alive gives its files away"
        return ""

    def _is_member(self, did: str) -> bool:
        return self._graph.membership_of(did, self._now_ms()) is not None

    def _broader(self, manifest: Record) -> frozenset[str]:
        body = manifest.body
        named = body.capabilities if isinstance(body, ModelBody) else ()
        return frozenset(self._graph.index.concepts.satisfied(named))


def _model(manifest: Record) -> str:
    return manifest.subject.removeprefix(MODEL_URN)
