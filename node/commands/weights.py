"""The methods behind `aigrid models fetch` and `models drop`."""

from typing import Any, Final

import msgspec

from aigrid.metagraph.typed_query import Wanted
from aigrid.node.app import Node
from aigrid.node.control import Emit
from aigrid.node.mesh.pool.budget import check_fits_anywhere
from aigrid.node.mesh.routing.answer import the_one
from aigrid.node.mesh.shelf.starter import BUILT_IN, CATALOGUE
from aigrid.protocol.errors import POLICY, AigridError, Code, InvalidRequestError
from aigrid.protocol.kinds import ModelBody

# Of a node that the grid has put out these are not worth telling: no grant would let it in again.
_MAY_BE_TROUBLE: Final = POLICY | {Code.NO_CANDIDATE, Code.MODEL_NOT_FOUND, Code.UNREACHABLE}


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
        PolicyDeniedError: `not_member` where the grid has put this node out.
        AigridError: as `Hosting.fetch` and `Weights.fetch`; `out_of_memory` where it is known
            beforehand that it could never be loaded here.
    """

    async def progress(text: str) -> None:
        await emit({"progress": text})

    purses = node.pool.budget.purses
    if params.name in CATALOGUE or params.name in BUILT_IN:
        if (starter := CATALOGUE.get(params.name)) is not None:
            check_fits_anywhere(sum(one.bytes for one in starter.members), purses)
        published = await node.hosting.fetch(params.name, progress)
        others = {*node.graph.index.resolve(params.name, node.now_ms())} - {published.model}
        fetched = _fetched(node, published.model, published.name, published.record)
        return {**fetched, "others": sorted(others)}
    try:
        model = await _known(node, params.name)
        manifest = node.weights.choose(model)
        body = manifest.body
        if isinstance(body, ModelBody):
            check_fits_anywhere(body.memory_bytes, purses)  # by its manifest, before any byte
        await node.weights.fetch(model, manifest, progress=progress)
    except AigridError as error:
        if error.code in _MAY_BE_TROUBLE and (trouble := node.router.own_trouble()) is not None:
            raise trouble from None
        raise
    name = body.name if isinstance(body, ModelBody) else ""
    return {**_fetched(node, model, name, manifest.content_id), "others": []}


def _fetched(node: Node, model: str, name: str, record: str) -> dict[str, Any]:
    """`problem` says why it is not offered, though it is here; or is ""."""
    problem = node.hosting.problem(model)
    return {"model": model, "name": name, "record": record, "problem": problem}


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
        return f"{said[:96]!r} did not come from other nodes: {way}"
    return f"this node has fetched no model {said[:96]!r}: `aigrid models` lists what is here"


async def _known(node: Node, name: str) -> str:
    """The id of a model that somebody on the grid describes, here or where others are asked."""
    names = node.learning.names
    if not names.resolve(name):
        await node.typed_queries.look_for(Wanted("model", names.pinned.get(name, name)))
    if not names.resolve(name):
        starters = ", ".join(sorted({*CATALOGUE, *BUILT_IN}))
        raise InvalidRequestError(
            f"nobody on the grid describes a model {name[:96]!r}, and the starter models are "
            f"{starters}",
            Code.MODEL_NOT_FOUND,
            param="model",
        )
    return node.router.resolve(name)
