"""The method behind `aigrid publish` for a model behind somebody's server."""

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from aigrid.engines.base import Endpoint
from aigrid.engines.upstream.address import DIALECTS, is_server, locate
from aigrid.node.app import Node
from aigrid.node.commands.finding import check_capability, check_languages
from aigrid.node.commands.publishing import (
    Said,
    check_confirmed,
    check_mapping,
    check_policy,
    policy_said,
    proposal_id,
    published_body,
)
from aigrid.node.commands.serves import parse_serves, serves_said
from aigrid.node.control import Emit
from aigrid.node.mesh.shelf.sayable import check_said, usual_name
from aigrid.node.mesh.shelf.server_model import ServerModel
from aigrid.protocol.errors import EngineError, UsageError
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.mesh_kinds import Serves


class PublishUpstream(Said, kw_only=True):
    """An address such as openai+http://HOST:PORT/v1; `model` is what it is called there."""

    url: str
    model: str = ""
    key: str = ""


async def propose_upstream(node: Node, params: PublishUpstream, _: Emit) -> dict[str, Any]:
    """What publishing would say of the model, as its server tells it; nothing is changed."""
    server, said = await _said(node, params)
    return {**said, "proposal": proposal_id(said), "engine": server.engine, "problem": ""}


async def publish_upstream(node: Node, params: PublishUpstream, _: Emit) -> dict[str, Any]:
    """Publish, and say what was signed.

    Raises:
        UsageError: `hash_mismatch` where the server says something else than was agreed to.
    """
    server, said = await _said(node, params)
    check_confirmed(params.confirmed, {"proposal": proposal_id(said)})
    published = await node.hosting.publish_upstream(
        server,
        capability=said["capability"],
        name=said["name"],
        license_id=said["license"],
        languages=tuple(said["languages"]),
        policy=check_policy(node, params.policy),
        serves=_serves(node, params),
    )
    return published_body(node, published)


async def _said(node: Node, params: PublishUpstream) -> tuple[ServerModel, dict[str, Any]]:
    """The model at its server, and what would be said of it.

    Raises:
        UsageError: for what makes no sense, or cannot be signed.
        EngineError: why the server does not answer.
    """
    server, capability = _asked(node, params)
    languages = check_languages(params.languages)
    served = await node.hosting.look(server)
    name = params.name or usual_name(served.name)
    check_said(name, params.license, languages)
    mapping = {} if server.mapping is UNSET else msgspec.to_builtins(server.mapping)
    return server, {
        "name": name,
        "capability": capability,
        "format": server.engine,
        "upstream_model": served.name,
        "version": served.version,
        "context_tokens": served.context_tokens,
        "license": params.license,
        "languages": list(languages),
        "mapping": mapping,
        "inputs": msgspec.to_builtins(served.inputs),
        "outputs": msgspec.to_builtins(served.outputs),
        "policy": policy_said(check_policy(node, params.policy)),
        "serves": serves_said(_serves(node, params)),
    }


def _serves(node: Node, params: PublishUpstream) -> Serves | UnsetType:
    return parse_serves(params.serves, node.graph.index.concepts, node.now_ms())


def _asked(node: Node, params: PublishUpstream) -> tuple[ServerModel, str]:
    """The model at its server, and the capability. Raises UsageError."""
    engine, usual, endpoint = _server(params)
    capability = params.capability or usual
    check_capability(node.graph.index.concepts, capability, node.now_ms())
    mapping = check_mapping(params.mapping)
    return ServerModel(engine, endpoint, params.model, mapping), capability


def _server(params: PublishUpstream) -> tuple[str, str, Endpoint]:
    """The engine, the usual capability, and where the server is. Raises UsageError."""
    if not is_server(params.url):
        raise UsageError("a server is openai+http://HOST:PORT/v1 or oip+http://HOST:PORT")
    dialect, _, url = params.url.partition("+")
    engine, capability, path = DIALECTS[dialect]
    if len(params.key) > LIMITS.upstream_key_max_bytes:
        raise UsageError("the key is too long")
    try:
        where = locate(url)
    except EngineError as error:
        raise UsageError(error.message) from None
    return engine, capability, Endpoint(url if where.path else url.rstrip("/") + path, params.key)
