"""How a proposal looks to a person: what a model says of itself, and where that was read."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec
from msgspec.structs import fields

from aigrid.protocol.limits import KIB, MIB
from aigrid.protocol.task import TaskMapping

_FILES_SHOWN: Final = 12
_MAPPING_SHOWN: Final = 600


def facts(body: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """What is shown of a proposal: a row for each thing that is known."""
    origins = body.get("origins", {})
    known: tuple[tuple[str, str, str], ...] = (
        ("Name", body["name"], ""),
        ("Capability", ", ".join(body.get("capabilities", [body["capability"]])), "task"),
        ("Format", f"{body['format']} {body.get('precision', '')}".strip(), ""),
        ("Model there", body.get("upstream_model", ""), ""),
        ("Version", body.get("version", ""), ""),
        ("Parameters", _count(body.get("parameters", 0)), ""),
        ("Size", size_text(body.get("bytes", 0)), ""),
        ("Files", "\n".join(listed(body.get("files", {}))), ""),
        ("Tokenizer", body.get("tokenizer", ""), "tokenizer"),
        ("Context", _tokens(body.get("context_tokens", 0)), "context_tokens"),
        ("Licence", body.get("license") or "not stated", "license_id"),
        ("Languages", ", ".join(body.get("languages", ())), "languages"),
        ("Serves", "\n".join(body.get("serves") or ()), ""),
        ("Inputs", _tensors(body.get("inputs", ())), "inputs"),
        ("Outputs", _tensors(body.get("outputs", ())), "outputs"),
        ("Mapping", _mapping(body.get("mapping", {})), "mapping"),
        ("Left out", _left_out(body.get("left_out", {})), ""),
        ("Policy", _proposed(body.get("policy")), ""),
        ("Engine", body.get("engine") or "none", ""),
        ("Memory", size_text(body.get("memory_bytes", 0)), ""),
    )
    for what, value, attribute in known:
        if value:
            yield {"what": what, "value": value, "origin": origins.get(attribute, "")}


def listed(files: Mapping[str, int]) -> list[str]:
    shown = [
        f"{_line(name)} ({size_text(size)})" for name, size in list(files.items())[:_FILES_SHOWN]
    ]
    more = len(files) - len(shown)
    return [*shown, *([f"and {more} more"] if more else [])]


def _line(name: str) -> str:
    """A file's name as one line: a row of its own would be taken for ours."""
    return "".join(c if c.isprintable() else "?" for c in name)


def _left_out(files: Mapping[str, str]) -> str:
    shown = [f"{_line(name)}: {why}" for name, why in list(files.items())[:_FILES_SHOWN]]
    more = len(files) - len(shown)
    return "\n".join([*shown, *([f"and {more} more"] if more else [])])


def _tensors(specs: Any) -> str:
    return "\n".join(f"{s['name']} {s['datatype']}{list(s['shape'])}" for s in specs)


def _mapping(mapping: dict[str, Any]) -> str:
    """A mapping as JSON, without what is usual."""
    said = msgspec.convert(mapping, TaskMapping) if mapping else TaskMapping()
    parts = {
        part.name: _unusual(value)
        for part in fields(said)
        if isinstance(value := getattr(said, part.name), msgspec.Struct)
    }
    shown = {name: value for name, value in parts.items() if value}
    return json.dumps(shown, ensure_ascii=False)[:_MAPPING_SHOWN] if shown else ""


def _unusual(part: msgspec.Struct) -> dict[str, Any]:
    found = {f.encode_name: (getattr(part, f.name), f.default) for f in fields(part)}
    return {
        name: f"{len(value)} of them" if isinstance(value, tuple) else value
        for name, (value, usual) in found.items()
        if value != usual
    }


def _proposed(rules: Any) -> str:
    """Which model it is, only its bytes tell, and they have not been read yet."""
    if rules is None:
        return f"as this node published it before; else {policy_text(None)}"
    return policy_text(rules)


def policy_text(rules: Any) -> str:
    """A line for each rule."""
    if rules is None:
        return "members may do everything"
    return (
        "\n".join(
            "; ".join(f"{what}: {_values(value)}" for what, value in rule.items()) for rule in rules
        )
        or "nobody but its owner may do anything"
    )


def _values(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else "yes"


def _count(number: int) -> str:
    for unit, size in (("G", 10**9), ("M", 10**6)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number) if number else ""


def size_text(size_bytes: int) -> str:
    if size_bytes >= 1024 * MIB:
        return f"{size_bytes / (1024 * MIB):.2f} GiB"
    if size_bytes >= MIB:
        return f"{size_bytes / MIB:.1f} MiB"
    return f"{-(-size_bytes // KIB)} KiB" if size_bytes else ""


def _tokens(number: int) -> str:
    return f"{number} tokens" if number else ""
