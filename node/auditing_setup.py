"""Puts together what checks the answers of other nodes, and the inference that it looks at."""

import functools
import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec import UNSET

from aigrid.metagraph.preferences import Preferences
from aigrid.node.auditing.auditor import Auditor, Surroundings
from aigrid.node.auditing.inference import Audited
from aigrid.node.auditing.standing import reputation
from aigrid.protocol.identity import peer_id_of_did
from aigrid.protocol.kinds import ModelBody
from aigrid.protocol.limits import LIMITS

if TYPE_CHECKING:
    from aigrid.node.app import Node


def auditing_of(node: "Node", random_bytes: Callable[[int], bytes]) -> tuple[Auditor, Audited]:
    """Of a node that has a router. Where it audits, reputations follow from that.

    Draws are from a source of their own: who could tell them would be honest when it counts.
    """
    around = Surroundings(
        own_peer_id=node.identity.peer_id,
        holders=functools.partial(_holders, node),
        same_everywhere=functools.partial(_same_everywhere, node),
        standing=node.learning.standing,
        withheld=node.learning.withheld,
        found=functools.partial(_found, node),
        token=node.new_request_id,
    )
    share = node.config.trust.audit
    if share is None:
        share = LIMITS.audit_share if node.config.open_to_strangers else 0.0
    rng = random.Random(random_bytes(16)) if share else random.Random(0)  # noqa: S311
    auditor = Auditor(node.router, around, least_share=share, rng=rng)
    if auditor.on:
        node.learning.reputations = functools.partial(_reputation, node)
    return auditor, Audited(node.router, auditor)


def _holders(node: "Node", model: str, preferences: Preferences) -> list[str]:
    """Those that could do it soon; whoever has it yet to fetch is not made to."""
    offers = node.graph.index.offers_of_model(model, node.now_ms())
    return [
        offer.node
        for offer in offers
        if offer.slots and offer.state != "can_fetch" and not preferences.permits(offer)
    ]


def _same_everywhere(node: "Node", model: str) -> bool:
    """Not so a model behind somebody's server: what is there, nobody else can know."""
    bodies = (record.body for record in node.graph.manifests_of(model, node.now_ms()))
    body = next((one for one in bodies if isinstance(one, ModelBody)), None)
    return body is not None and body.model.upstream is UNSET


def _found(node: "Node", peer_id: str, model: str, capability: str, wrong: bool) -> None:  # noqa: FBT001
    node.learning.audited(peer_id, model, capability or _capability(node, model), wrong=wrong)


def _capability(node: "Node", model: str) -> str:
    offers = node.graph.index.offers_of_model(model, node.now_ms(), limit=1)
    return offers[0].capabilities[0] if offers else "text-generation"


def _reputation(node: "Node", did: str) -> float:
    if did == node.identity.did:
        return 1.0
    return reputation(node.learning.standing(peer_id_of_did(did)))
