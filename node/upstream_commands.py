"""The method behind `aigrid publish` for a model behind somebody's server."""

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from aigrid.engines.base import Endpoint
from aigrid.engines.upstream.address import DIALECTS, is_server, locate
from aigrid.node.app import Node
from aigrid.node.control import Emit
from aigrid.node.finding import check_capability, check_languages
from aigrid.node.mesh.hosting import ServerModel
from aigrid.protocol.errors import EngineError, UsageError
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.task import TaskMapping


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


async def publish_upstream(node: Node, params: PublishUpstream, _: Emit) -> dict[str, Any]:
    """Publish, and say what was signed."""
    engine, usual, endpoint = _server(params)
    capability = params.capability or usual
    check_capability(node.graph.index.concepts, capability, node.now_ms())
    published = await node.hosting.publish_upstream(
        ServerModel(engine, endpoint, params.model, check_mapping(params.mapping)),
        capability=capability,
        name=params.name,
        license_id=params.license,
        languages=check_languages(params.languages),
    )
    return {"model": published.model, "name": published.name, "record": published.record}


def check_mapping(given: dict[str, Any]) -> TaskMapping | UnsetType:
    """A task mapping as a person wrote it; unset where there is none. Raises UsageError."""
    try:
        return msgspec.convert(given, TaskMapping) if given else UNSET
    except msgspec.ValidationError as error:
        raise UsageError(f"the task mapping: {error}") from None


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
