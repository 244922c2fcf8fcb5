"""Puts together what a node remembers of others, and whose word counts for it."""

from typing import TYPE_CHECKING

from aigrid.node.learning.learning import Learning

if TYPE_CHECKING:
    from aigrid.node.app import Node


def learning_of(node: "Node") -> Learning:
    """Of a node whose graph is made."""
    return Learning(
        node.local,
        node.graph,
        identity=node.identity,
        trust=node.config.trust,
        tells=node.config.share.experience,
        now_ms=node.now_ms,
        trusted=node.config.trusted_publishers,
        pinned=node.config.names,
    )
