"""Puts together what fetches and gives weights, from the services that a node has."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from aigrid.node.mesh.weights.weights import Weights

if TYPE_CHECKING:
    from aigrid.node.app import Node


def weights_of(node: "Node", *, formats: Callable[[], frozenset[str]]) -> Weights:
    """`formats`: those that engines here take."""
    return Weights(
        node.config.weights,
        graph=node.graph,
        local=node.local,
        models=node.models,
        hosting=node.hosting,
        pool=node.pool,
        peers=node.peers,
        rpc=node.rpc,
        queries=node.typed_queries,
        policy=node.policy,
        formats=formats,
        pinned=node.pins.wanted,
        now_ms=node.now_ms,
    )
