"""Puts together what fetches and gives weights, from the services that a node has."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from aigrid.node.mesh.weights.ledger import Budget, Cost, Ledger
from aigrid.node.mesh.weights.weights import Weights

if TYPE_CHECKING:
    from aigrid.node.app import Node


def weights_of(node: "Node", *, formats: Callable[[], frozenset[str]]) -> Weights:
    """`formats`: those that engines here take."""
    placement = node.config.placement
    unasked = Cost(placement.fetch_bytes_per_day, placement.loads_per_day)
    most = Budget(node.config.weights.fetch_bytes_per_day, unasked)
    return Weights(
        node.config.weights,
        graph=node.graph,
        local=node.local,
        ledger=Ledger(node.local, node.identity.did, most=most, now_ms=node.now_ms),
        models=node.models,
        hosting=node.hosting,
        pool=node.pool,
        peers=node.peers,
        rpc=node.rpc,
        queries=node.typed_queries,
        policy=node.policy,
        formats=formats,
        pinned=node.pins.wanted,
        draw=lambda: int(node.new_request_id(), 16),
        now_ms=node.now_ms,
    )
