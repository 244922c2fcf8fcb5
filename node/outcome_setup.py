"""Outcomes of a node: its contracts, and what it knows of those that may be asked."""

import functools
from collections.abc import Callable

from msgspec import UnsetType

from aigrid.node.app import Node
from aigrid.node.gateway.capabilities.grid import Known
from aigrid.node.gateway.capabilities.outcomes import Outcomes
from aigrid.node.gateway.core import GatewayCore
from aigrid.node.outcome.contracts import Contracts
from aigrid.protocol.kinds import ModelBody


def contracts_of(node: Node) -> Contracts:
    """Of everything that the node knows now."""
    stated = functools.partial(_stated, node)
    return Contracts(node.graph.index.concepts, now_ms=node.now_ms, stated=stated)


def outcomes_of(node: Node, core: GatewayCore) -> Outcomes:
    """Asked for through `core`."""
    known = Known(node.router, functools.partial(_size_bytes, node), node.learning.paces)
    return Outcomes(core, contracts_of(node), known)


def _stated(node: Node, capability: str) -> frozenset[str]:
    """Parameters of which manifests behind live offers state values, for it or a narrower one."""
    index, now_ms = node.graph.index, node.now_ms()
    found: set[str] = set()
    for offer in index.offers_of_capability(capability, now_ms):
        record = index.manifest(offer.manifest, now_ms)
        body = None if record is None else record.body
        if not isinstance(body, ModelBody) or isinstance(body.serves, UnsetType):
            continue
        for served in body.serves:
            if index.concepts.satisfied((served.capability,)).get(capability, 0) > now_ms:
                found |= served.parameters.keys()
    return frozenset(found)


def misfit_of(node: Node) -> Callable[[str, str, str], None]:
    """Hears of whoever gave an answer that is none of the capability's: it has failed."""

    def misfit(peer_id: str, model: str, capability: str) -> None:
        node.learning.misfit(peer_id, model, capability)
        if peer_id != node.identity.peer_id:
            node.peers.failed(peer_id)

    return misfit


def _size_bytes(node: Node, model: str) -> int:
    """Of a model's files, as its manifests say: they all hash to the same description."""
    bodies = (record.body for record in node.graph.manifests_of(model, node.now_ms()))
    body = next((one for one in bodies if isinstance(one, ModelBody)), None)
    return 0 if body is None else sum(file.bytes for file in body.model.files)
