"""The repository of the Open Inference Protocol, as this node's pool has it; and its manifests."""

from collections import Counter
from typing import Final

from msgspec import UNSET

from aigrid.node.app import Node
from aigrid.node.commands.pool import own_model
from aigrid.node.gateway.repository import Held, HeldState
from aigrid.node.mesh.pool.view import State
from aigrid.protocol.errors import UsageError
from aigrid.protocol.mesh_kinds import ModelBody, tensors_of

_SPELLED: Final[dict[State, HeldState]] = {
    "warm": "READY",
    "loading": "LOADING",
    "on_disk": "UNAVAILABLE",
}


class PoolRepository:
    """Implements `Repository`. What was loaded through it stays until it is unloaded."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._loads = Counter[str]()  # calls under way
        self._loaded = set[str]()

    def index(self) -> list[Held]:
        """See `Repository`."""
        node = self._node
        problems = {one["model"]: one["problem"] for one in node.hosting.withheld()}
        held = []
        for model, use in node.pool.view().items():
            problem = use.problem or problems.get(model, "")
            if use.state == "on_disk":
                reason = problem or "unloaded"
            else:
                reason = problem or node.loading.said.get(model, "")
            held.append(Held(node.hosting.name(model), model, _SPELLED[use.state], reason))
        return sorted(held, key=lambda one: (one.name, one.version))

    async def load(self, model: str) -> None:
        """See `Repository`."""
        node = self._node
        found = own_model(node, model)
        self._loads[found] += 1
        try:
            await node.pool.hold(found)
            self._loaded.add(found)
        finally:
            self._loads[found] -= 1
            # A call that fails, or whose client leaves, undoes nothing of others.
            if not self._loads[found]:
                del self._loads[found]
                if found not in self._loaded and found not in node.pins.wanted():
                    node.pool.let_go(found)

    async def unload(self, model: str) -> None:
        """See `Repository`."""
        node = self._node
        found = own_model(node, model)
        if found in node.pins.wanted():
            raise UsageError(f"{model!r} is pinned here: `aigrid models unpin` first")
        if node.models.description(found).upstream is not UNSET:
            raise UsageError(
                f"{model!r} is behind a server, and loaded there: `aigrid withdraw` ends its offer"
            )
        self._loaded.discard(found)
        node.pool.let_go(found)
        await node.pool.unload(found, drained=True)


def manifest_of(node: Node, model: str) -> ModelBody | None:
    """What those who offer a model say of it: of several manifests one that declares tensors."""
    index, now_ms = node.graph.index, node.now_ms()
    offers = index.offers_of_model(model, now_ms)
    records = (index.manifest(one, now_ms) for one in sorted({o.manifest for o in offers}))
    bodies = [r.body for r in records if r is not None and isinstance(r.body, ModelBody)]
    return max(bodies, key=lambda body: bool(tensors_of(body)[0]), default=None)
