"""Where each model is, what it costs here, and how long it will stay: the body of `models`.

Of other nodes it is what their records say; of this one, what its pool does.
"""

from collections import defaultdict
from dataclasses import asdict
from typing import Any, Final

import msgspec

from aigrid.node.app import Node
from aigrid.node.control import Emit
from aigrid.node.evaluating.evaluations import known
from aigrid.node.mesh.pool.view import ModelUse
from aigrid.node.mesh.routing.answer import the_one
from aigrid.node.policy.policy_file import policy_json
from aigrid.protocol.kinds import ModelBody
from aigrid.protocol.model import MODEL_URN
from aigrid.protocol.policy import rules_of

STATES: Final = ("warm", "loading", "on_disk", "can_fetch")
"""Of an offer, soonest first."""


class ShowModel(msgspec.Struct, forbid_unknown_fields=True):
    """A model's name or id."""

    model: str


async def show_model(node: Node, params: ShowModel, _: Emit) -> dict[str, Any]:
    """One of `models_of`, with what `known` says of its evaluations.

    Raises InvalidRequestError: `model_not_found`, `ambiguous_model`.
    """
    said = params.model.removeprefix(MODEL_URN)
    listed = {one["model"]: one for one in models_of(node)}
    found = [id_ for id_, one in listed.items() if said in (id_, *one["names"])]
    if len(found) > 1:
        found = [one for one in found if one in node.learning.names.resolve(said)] or found
    unknown = f"no model {said[:96]!r} is offered on the grid or here"
    one = listed[the_one(said, found, unknown=unknown)]
    evaluations = known(node.graph, node.now_ms(), model=one["model"])
    return {"model": {**one, "evaluations": evaluations}, "peer_id": node.identity.peer_id}


def whereabouts(node: Node) -> dict[str, dict[str, Any]]:
    """Model id -> where it is.

    `warm`, `loading`, `on_disk`, `can_fetch`: PeerIds of nodes that offer it so and may be asked;
    `seeds`: of those that give its files away. `here`, where this node has it on its disk: what
    `ModelUse` says, and `progress` while it is being loaded; `fetching`, where it is on its way
    here: how far, as `Job.view` has it.
    """
    found: defaultdict[str, dict[str, Any]] = defaultdict(
        lambda: {state: [] for state in (*STATES, "seeds")}
    )
    for offer in node.router.offers():
        found[offer.model][offer.state].append(offer.node)
    problems = {one["model"]: one["problem"] for one in node.hosting.withheld()}
    for model, use in node.pool.view().items():
        found[model]["here"] = _here(use, problems.get(model, ""), node.loading.said.get(model, ""))
    for model, job in node.weights.fetching().items():
        found[model]["fetching"] = job
    for model, where in found.items():
        where["seeds"] = _seeds(node, model)
    return dict(found)


def models_of(node: Node) -> list[dict[str, Any]]:
    """Every model that somebody offers, or that is here, by name; and what its owner permits.

    `name` is what this node calls it, else one of those who offer or describe it; `names` are all
    of these. `capabilities` are what it does. `state` is the best of an offer; "" where there is
    none.
    """
    listed = [_model(node, model, where) for model, where in whereabouts(node).items()]
    return sorted(listed, key=lambda one: (one["name"], one["model"]))


def _model(node: Node, model: str, where: dict[str, Any]) -> dict[str, Any]:
    offers = node.graph.index.offers_of_model(model, node.now_ms())
    own = node.hosting.manifest(model) if "here" in where else None
    names = {offer.name for offer in offers if offer.node in where[offer.state]}
    manifest = own
    if manifest is None and offers:
        first = min(offers, key=lambda offer: (offer.name, offer.node))
        manifest = node.graph.index.manifest(first.manifest, node.now_ms())
    if manifest is None:  # on its way here, and nobody who offers it is alive
        manifest = next(iter(node.graph.index.manifests_of(model, node.now_ms())), None)
    body = None if manifest is None else manifest.body
    name = body.name if isinstance(body, ModelBody) else ""
    return {
        "model": model,
        "name": name,
        "names": sorted(names | {name} - {""}),
        "capabilities": list(body.capabilities) if isinstance(body, ModelBody) else [],
        "state": next((state for state in STATES if where[state]), ""),
        "policy": [] if manifest is None else policy_json(rules_of(manifest)),
        **where,
    }


def _here(use: ModelUse, problem: str, progress: str) -> dict[str, Any]:
    told = asdict(use)
    return {**told, "problem": use.problem or problem, "progress": progress}


def _seeds(node: Node, model: str) -> list[str]:
    """PeerIds of live nodes that give a model's files away, in order."""
    seeders = node.graph.index.seeders_of(model, node.now_ms())
    return sorted(one.node for one in seeders if node.peers.alive(one.node))
