"""Puts together what answers requests, from the services that a node has."""

from typing import TYPE_CHECKING

from aigrid.node.mesh.serving import Serving

if TYPE_CHECKING:
    from aigrid.node.app import Node


def serving_of(node: "Node") -> Serving:
    """What this node computes for others, and for itself."""
    return Serving(
        node.pool,
        identity=node.identity,
        offered=node.hosting.offered,
        takes=node.hosting.takes,
        admission=node.policy.admission,
        keep_receipt=node.policy.keep_receipt,
        now_ms=node.now_ms,
        tracer=node.tracer,
    )
