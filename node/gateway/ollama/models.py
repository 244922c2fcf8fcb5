"""Models as Ollama's clients list them: what there is, what is loaded, and what one is. Pure.

Source: https://github.com/ollama/ollama/blob/main/docs/api.md. Where Ollama has no word for it, a
member `aigrid` says it.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from msgspec import UNSET

from aigrid.node.gateway.core import Listed
from aigrid.protocol.kinds import ModelBody
from aigrid.protocol.more import EVERYTHING
from aigrid.protocol.timestamp import format_ms

Where = Mapping[str, Any]
LATEST: Final = ":latest"
_FOREVER: Final = timedelta(days=365 * 100)
_CAPABILITIES: Final = {"text-generation": "completion", "feature-extraction": "embedding"}

# What of a request they have to take for that. A server behind a node may refuse it all the same.
_TAKEN: Final = {"tools": "tools", "messages.content": "vision", "reasoning_effort": "thinking"}


def shown(listed_id: str) -> str:
    """A model's name as Ollama writes it: it always has a tag."""
    return listed_id if ":" in listed_id else listed_id + LATEST


def tags(listed: Iterable[tuple[Listed, ModelBody | None]]) -> dict[str, Any]:
    """The body of `GET /api/tags`: every model that somebody offers."""
    return {"models": [_entry(entry, body) for entry, body in listed]}


def running(
    listed: Iterable[tuple[Listed, ModelBody | None]],
    whereabouts: Mapping[str, Where],
    *,
    now_ms: int,
) -> dict[str, Any]:
    """The body of `GET /api/ps`: models that are loaded, wherever.

    Memory and expiry are known of this node alone: of a model that is loaded elsewhere the size is
    that of its files, and there is no `expires_at`.
    """
    found = []
    for entry, body in listed:
        where = whereabouts.get(entry.view.model, {})
        if not where.get("warm"):
            continue
        here = where.get("here") or {}
        memory: Mapping[str, int] = here.get("memory") or {}
        of_devices = sum(size for purse, size in memory.items() if purse != "cpu")
        said = {
            **_entry(entry, body),
            "size": sum(memory.values()) or _size(body),
            "size_vram": of_devices,
            "context_length": entry.view.context_tokens,
        }
        if here.get("workers"):
            said["expires_at"] = _expiry(here.get("expires_in_seconds"), now_ms)
        found.append(said)
    return {"models": found}


def description(entry: Listed, body: ModelBody | None, where: Where) -> dict[str, Any]:
    """The body of `POST /api/show`."""
    family = "" if body is None else body.model.format
    info: dict[str, Any] = {
        "general.architecture": family,
        "general.basename": entry.view.name,
        f"{family}.context_length": entry.view.context_tokens,
        "aigrid.model": entry.view.model,
        "aigrid.issuer": entry.view.issuer,
        "aigrid.capabilities": list(entry.view.capabilities),
    }
    if body is not None:
        info |= {
            "general.license": body.license,
            "general.languages": list(body.languages),
            "general.size_bytes": _size(body),
        }
    return {
        "license": "" if body is None else body.license,
        "modelfile": "",
        "parameters": "",
        "template": "",
        "details": _details(body),
        "model_info": info,
        "capabilities": capabilities(entry),
        "modified_at": format_ms(entry.view.created_ms),
        "aigrid": {"model": entry.view.model, "nodes": entry.view.nodes, **where},
    }


def capabilities(entry: Listed) -> list[str]:
    """What Ollama's clients ask a model for."""
    named = (name.rpartition("#")[2] for name in entry.view.capabilities)
    found = {_CAPABILITIES[name] for name in named if name in _CAPABILITIES}
    if "completion" in found:
        takes = entry.view.takes
        found |= {said for name, said in _TAKEN.items() if name in takes or EVERYTHING in takes}
    return sorted(found)


def _entry(entry: Listed, body: ModelBody | None) -> dict[str, Any]:
    name = shown(entry.listed_id)
    return {
        "name": name,
        "model": name,
        "modified_at": format_ms(entry.view.created_ms),
        "size": _size(body),
        "digest": entry.view.model,
        "details": _details(body),
    }


def _details(body: ModelBody | None) -> dict[str, Any]:
    if body is None:
        described, precision = "", ""
    else:
        described, precision = body.model.format, body.model.precision
    return {
        "parent_model": "",
        "format": described,
        "family": described,
        "families": [described] if described else [],
        "parameter_size": "",
        "quantization_level": precision.upper(),
    }


def _size(body: ModelBody | None) -> int:
    if body is None or body.model.upstream is not UNSET:
        return 0  # nobody but the server's operator knows
    return sum(file.bytes for file in body.model.files)


def _expiry(in_seconds: float | None, now_ms: int) -> str:
    """When it goes; a hundred years on where nothing but need will end it."""
    later = _FOREVER if in_seconds is None else timedelta(seconds=in_seconds)
    return format_ms(int((datetime.fromtimestamp(now_ms / 1000, UTC) + later).timestamp() * 1000))
