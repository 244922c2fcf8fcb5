"""Where each model is, what it costs here, and how long it will stay: the body of `models`.

Of other nodes it is what their records say; of this one, what its pool does.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from aigrid.node.app import Node
from aigrid.node.mesh.pool_view import ModelUse
from aigrid.node.policy.policy_file import policy_json
from aigrid.protocol.identity import did_of_peer_id
from aigrid.protocol.kinds import AvailabilityBody, Kind, ModelBody
from aigrid.protocol.policy import rules_of

STATES: Final = ("warm", "on_disk", "can_fetch")
"""Of an offer, soonest first."""


def whereabouts(node: Node) -> dict[str, dict[str, Any]]:
    """Model id -> where it is.

    `warm`, `on_disk`, `can_fetch`: PeerIds of the live nodes that offer it so; `seeds`: of those
    that give its files away. `here`, where this node has it on its disk: what `ModelUse` says, and
    `progress` while it is being loaded.
    """
    found: defaultdict[str, dict[str, Any]] = defaultdict(
        lambda: {state: [] for state in (*STATES, "seeds")}
    )
    for offer in node.router.offers():
        found[offer.model][offer.state].append(offer.node)
    for model, nodes in _seeds(node).items():
        found[model]["seeds"] = nodes
    problems = {one["model"]: one["problem"] for one in node.hosting.withheld()}
    for model, use in node.pool.view().items():
        found[model]["here"] = _here(use, problems.get(model, ""), node.loading.said.get(model, ""))
    return dict(found)


def models_of(node: Node) -> list[dict[str, Any]]:
    """Every model that somebody offers or gives away, or that is here, by name; its policy, too.

    `state` is the best of those who offer it; "" where nobody does.
    """
    now_ms, index = node.now_ms(), node.graph.index
    offers = {offer.model: offer for offer in reversed(node.router.offers())}
    listed = []
    for model, where in whereabouts(node).items():
        offer = offers.get(model)
        manifest = None if offer is None else index.manifest(offer.manifest, now_ms)
        manifest = manifest or next(iter(index.manifests_of(model, now_ms)), None)
        if manifest is None and "here" not in where:
            continue  # anybody may say that he gives away what nobody knows
        body = None if manifest is None else manifest.body
        listed.append(
            {
                "model": model,
                "name": body.name if isinstance(body, ModelBody) else "",
                "state": next((state for state in STATES if where[state]), ""),
                "policy": [] if manifest is None else policy_json(rules_of(manifest)),
                **where,
            }
        )
    return sorted(listed, key=lambda one: (one["name"], one["model"]))


def _here(use: ModelUse, problem: str, progress: str) -> dict[str, Any]:
    told = asdict(use)
    return {**told, "problem": use.problem or problem, "progress": progress}


def _seeds(node: Node) -> Mapping[str, Sequence[str]]:
    """Model id -> PeerIds of live nodes that give its files away, in order."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    now_ms, own = node.now_ms(), node.identity.peer_id
    for peer in sorted({*node.peers.alive_members(), own}):
        did = did_of_peer_id(peer)
        record = node.graph.index.record((did, Kind.AVAILABILITY.value, did), now_ms)
        if record is not None and isinstance(record.body, AvailabilityBody):
            for seed in record.body.seeds:
                found[seed.model].append(peer)
    return found
