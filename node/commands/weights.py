"""The methods behind `aigrid models fetch` and `models drop`."""

from typing import Any

import msgspec

from aigrid.metagraph.typed_query import Wanted
from aigrid.node.app import Node
from aigrid.node.control import Emit
from aigrid.node.mesh.routing.answer import the_one
from aigrid.node.mesh.shelf.starter import BUILT_IN, CATALOGUE
from aigrid.protocol.errors import Code, InvalidRequestError
from aigrid.protocol.kinds import ModelBody


class FetchModel(msgspec.Struct, forbid_unknown_fields=True):
    """The name of a starter model, or a name or id of a model that nodes of the grid give."""

    name: str


class DropModel(msgspec.Struct, forbid_unknown_fields=True):
    """A fetched model's name or id."""

    model: str


async def fetch_model(node: Node, params: FetchModel, emit: Emit) -> dict[str, Any]:
    """Bring a starter model, or else a model from other nodes. Leaving does not end the latter.

    `others` are the ids of models that the name of a starter model hides: they are asked for by id.

    Raises:
        InvalidRequestError: `model_not_found`, `ambiguous_model`.
        AigridError: as `Hosting.fetch` and `Weights.fetch`.
    """

    async def progress(text: str) -> None:
        await emit({"progress": text})

    if params.name in CATALOGUE or params.name in BUILT_IN:
        published = await node.hosting.fetch(params.name, progress)
        others = {*node.graph.index.resolve(params.name, node.now_ms())} - {published.model}
        told = {"model": published.model, "name": published.name, "record": published.record}
        return {**told, "others": sorted(others)}
    model = await _known(node, params.name)
    manifest = node.weights.choose(model)
    await node.weights.fetch(model, manifest, progress=progress)
    name = manifest.body.name if isinstance(manifest.body, ModelBody) else ""
    return {"model": model, "name": name, "record": manifest.content_id, "others": []}


async def drop_model(node: Node, params: DropModel, _: Emit) -> dict[str, Any]:
    """Remove a fetched model from the disk, or what there is of one on its way.

    Raises InvalidRequestError: `model_not_found`; `ambiguous_model` for a name that several have.
    """
    index, now_ms = node.graph.index, node.now_ms()
    here = {*node.weights.cache.fetched(), *node.weights.fetching()}
    here |= set(await node.models.run_blocking(node.models.fetching))
    names = {model: node.hosting.name(model) for model in here if model in node.models.list()}
    found = {model for model in here if params.model in (model, names.get(model))}
    found |= here.intersection(index.resolve(params.model, now_ms))
    one = the_one(params.model, found, unknown=_not_fetched(node, params.model))
    await node.weights.drop(one)
    return {"model": one}


def _not_fetched(node: Node, said: str) -> str:
    """Why there is nothing to drop. What was published here, and starter models, are withdrawn."""
    if any(said in (model, node.hosting.name(model)) for model in node.models.list()):
        way = f"`aigrid withdraw {said}` removes it" if said.isalnum() else "`aigrid withdraw`"
        return f"{said[:96]!r} was published on this node, not fetched from others: {way}"
    return f"this node has fetched no model {said[:96]!r}: `aigrid models` lists what is here"


async def _known(node: Node, name: str) -> str:
    """The id of a model that somebody on the grid describes, here or where others are asked."""
    index = node.graph.index
    if not index.resolve(name, node.now_ms()):
        await node.typed_queries.look_for(Wanted("model", name))
    found = index.resolve(name, node.now_ms())
    if not found:
        starters = ", ".join(sorted({*CATALOGUE, *BUILT_IN}))
        raise InvalidRequestError(
            f"nobody on the grid describes a model {name[:96]!r}, and the starter models are "
            f"{starters}",
            Code.MODEL_NOT_FOUND,
            param="model",
        )
    return the_one(name, found, unknown="")
