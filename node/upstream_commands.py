"""The method behind `aigrid publish` for a model behind somebody's server."""

from typing import Any

import msgspec

from aigrid.engines.base import Endpoint
from aigrid.engines.upstream.address import DIALECTS, is_server, locate
from aigrid.node.app import Node
from aigrid.node.control import Emit
from aigrid.node.finding import check_capability, check_languages
from aigrid.node.mesh.hosting import ServerModel, usual_name
from aigrid.node.publish_commands import check_mapping
from aigrid.protocol.errors import EngineError, UsageError
from aigrid.protocol.limits import LIMITS


class PublishUpstream(msgspec.Struct, forbid_unknown_fields=True):
    """An address such as openai+http://HOST:PORT/v1, and what to say of a model there.

    `mapping` is a task mapping as SPEC.md describes it, or {}.
    """

    url: str
    model: str = ""
    capability: str = ""
    name: str = ""
    license: str = ""
    languages: tuple[str, ...] = ()
    key: str = ""
    mapping: dict[str, Any] = {}


async def propose_upstream(node: Node, params: PublishUpstream, _: Emit) -> dict[str, Any]:
    """What publishing would say of the model, as its server tells it; nothing is changed."""
    server, capability = _asked(node, params)
    served = await node.hosting.look(server)
    said: dict[str, Any] = {
        "name": params.name or usual_name(served.name),
        "capability": capability,
        "format": server.engine,
        "upstream_model": served.name,
        "version": served.version,
        "context_tokens": served.context_tokens,
        "license": params.license,
        "languages": list(params.languages),
        "mapping": dict(params.mapping),
        "inputs": msgspec.to_builtins(served.inputs),
        "outputs": msgspec.to_builtins(served.outputs),
    }
    return {**said, "engine": server.engine, "problem": ""}


async def publish_upstream(node: Node, params: PublishUpstream, _: Emit) -> dict[str, Any]:
    """Publish, and say what was signed."""
    server, capability = _asked(node, params)
    published = await node.hosting.publish_upstream(
        server,
        capability=capability,
        name=params.name,
        license_id=params.license,
        languages=check_languages(params.languages),
    )
    return {"model": published.model, "name": published.name, "record": published.record}


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
