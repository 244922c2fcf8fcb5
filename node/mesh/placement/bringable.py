"""Which models this node may bring here or load without being told to, and why not the others."""

from collections.abc import Awaitable, Callable, Collection
from contextlib import AbstractContextManager
from typing import Protocol

import trio
from msgspec import UNSET

from aigrid.metagraph.graph import Metagraph
from aigrid.node.discovery.grid import NowMs
from aigrid.node.mesh.placement.sight import Sight
from aigrid.node.mesh.shelf.copying import Progress
from aigrid.node.mesh.weights.ledger import Cost, Ledger, Reservation
from aigrid.node.settings.placement import PlacementConfig
from aigrid.protocol.errors import AigridError
from aigrid.protocol.kinds import ModelBody
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.model import MODEL_URN
from aigrid.protocol.policy import covers
from aigrid.protocol.record import Record

Bring = Callable[[str, Record, Collection[str]], Awaitable[object]]
"""Gets the files of a model here by a manifest, for some members (DIDs); none: to be kept."""


class Weights(Protocol):
    """Brings files of models from other nodes."""

    async def fetch(
        self, model: str, manifest: Record, *, askers: Collection[str], progress: Progress
    ) -> object:
        """Bring a model for some members and put it on the shelf. Raises AigridError."""

    def holders(self, model: str) -> tuple[str, ...]:
        """DIDs of live nodes other than this one that give its files away."""

    def may_host(self, model: str, manifest: Record, *, load: bool) -> AigridError | None:
        """Why this node may not or cannot host a model under a manifest, and run it, or None."""


class Machine(Protocol):
    """What of this node decides whether a model can run here."""

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
        ledger: Ledger,
        trusted: Collection[str],
        now_ms: NowMs,
    ) -> None:
        """`trusted`: DIDs of publishers."""
        self._config = config
        self._graph = graph
        self._sight = sight
        self._weights = weights
        self._machine = machine
        self._ledger = ledger
        self._trusted = trusted
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

        Of several the newest by which it may and can; where there is none, just the newest.
        """
        found = [m for m in self._graph.manifests_of(model, self._now_ms()) if self.on_list(m)]
        several = len(found) > 1

        def place(manifest: Record) -> tuple[bool, bool, object]:
            able = several and self._weights.may_host(model, manifest, load=False) is None
            return able, manifest.content_id in named, manifest.rank

        return max(found, key=place, default=None)

    def cost(self, manifest: Record, *, load: bool) -> Cost:
        """Of bringing the model here if need be, and of loading it."""
        body = manifest.body
        held = self._machine.held(_model(manifest))
        sizes = [f.bytes for f in body.model.files] if isinstance(body, ModelBody) else []
        return Cost(0 if held else sum(sizes), int(load))

    def problem(self, manifest: Record, askers: Collection[str], *, load: bool = True) -> str:
        """Why this node does not host a model that is on its list, or ""."""
        model, body = _model(manifest), manifest.body
        held = self._machine.held(model)
        if not isinstance(body, ModelBody) or body.model.upstream is not UNSET:
            return "it is behind a server: its publisher alone offers it"
        if (refused := self._weights.may_host(model, manifest, load=load)) is not None:
            return refused.message or refused.code.value
        if held and load and (problem := self._machine.problem(model)):
            return problem
        if not held and body.model.files and not self._weights.holders(model):
            return "nobody who is alive gives its files away"
        if (left := self.pause_seconds(model)) > 0:
            return f"it failed here and is tried again in {left:.0f} s"
        cost = self.cost(manifest, load=load)
        return self._ledger.problem(cost, askers)

    def pause_seconds(self, model: str) -> float:
        """How long a model is left alone after it failed here."""
        count, since = self._failures.get(model, (0, 0.0))
        pause = LIMITS.placement_pause_seconds * 2.0 ** min(count - 1, 16)
        most = LIMITS.placement_pause_max_seconds
        return since + min(pause, most) - trio.current_time() if count else 0.0

    def reserve_load(self, askers: Collection[str]) -> AbstractContextManager[Reservation]:
        """For one load; what is fetched is reserved by the fetch. Raises as `Ledger.reserve`."""
        return self._ledger.reserve(Cost(loads=1), askers)

    def note(self, model: str, *, failed: bool) -> None:
        """How it went."""
        count, _ = self._failures.pop(model, (0, 0.0))
        if failed:
            self._failures[model] = (count + 1, trio.current_time())
            while len(self._failures) > LIMITS.placement_models_max:
                del self._failures[next(iter(self._failures))]

    def _is_member(self, did: str) -> bool:
        return self._graph.membership_of(did, self._now_ms()) is not None

    def _broader(self, manifest: Record) -> frozenset[str]:
        body = manifest.body
        named = body.capabilities if isinstance(body, ModelBody) else ()
        return frozenset(self._graph.index.concepts.satisfied(named))


def _model(manifest: Record) -> str:
    return manifest.subject.removeprefix(MODEL_URN)
