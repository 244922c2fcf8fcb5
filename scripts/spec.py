"""Keeps the generated parts of SPEC.md in step with the code: `--write` or `--check`.

A part stands between `<!-- generated: NAME -->` and `<!-- /generated -->`.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.bench import scale

from aigrid.protocol import (
    credential_kinds,
    evidence,
    framing,
    inference,
    kinds,
    limits,
    messages,
    model,
    more,
    names,
    presentation,
    task,
    tensors,
    upstream,
)
from aigrid.protocol.errors import CODES
from aigrid.protocol.kinds import KINDS, Kind

SPEC = Path(__file__).parents[1] / "SPEC.md"
PART = re.compile(r"(<!-- generated: ([a-z-]+) -->\n).*?(<!-- /generated -->)", re.DOTALL)
BIGGEST: dict[int, str] = {2**53 - 1: "2^53 - 1", 2**31 - 1: "2^31 - 1"}
UNITS = {"day": 86400, "hour": 3600, "minute": 60, "second": 1}


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def codes() -> str:
    return table(
        ("code", "HTTP", "exit status", "may succeed elsewhere or later", "next step"),
        (
            (f"`{code}`", str(info.http), str(info.exit), yes(info.retry), info.next_step)
            for code, info in CODES.items()
        ),
    )


def parameters() -> str:
    return table(
        ("parameter", "value", "of what"),
        ((f"`{name}`", value, meaning) for name, value, meaning in limits.table()),
    )


def kind_rules() -> str:
    return table(
        ("kind", "longest validity", "spread by gossip and sync", "`credentialStatus`"),
        (
            (f"`{kind.value}`", duration(rule.ttl_seconds), yes(rule.shared), rule.status)
            for kind, rule in KINDS.items()
        ),
    )


def bodies() -> str:
    parts = [struct_section(KINDS[kind].body, f"### {kind.value}") for kind in Kind]
    return "\n".join([*parts, struct_section(kinds.WithdrawnBody, "### Withdrawal, of any kind")])


def claims() -> str:
    used = (
        kinds.EngineClaim,
        kinds.DeviceClaim,
        kinds.Served,
        kinds.Offer,
        evidence.Finding,
    )
    return "\n".join(struct_section(struct, f"### {struct.__name__}") for struct in used)


def permissions() -> str:
    used = (credential_kinds.Permission, credential_kinds.Rule)
    return "\n".join(struct_section(struct, f"#### {struct.__name__}") for struct in used)


def bindings() -> str:
    return struct_section(presentation.Binding, "#### Of `request`")


def models() -> str:
    used = (
        model.ModelDescription,
        model.ModelFile,
        task.TaskMapping,
        task.TextInput,
        task.ImageInput,
        task.AudioInput,
        task.TableInput,
        task.Feature,
        task.BytesInput,
        task.TaskOutput,
        upstream.Upstream,
        tensors.TensorSpec,
    )
    return "\n".join(struct_section(struct, f"### {struct.__name__}") for struct in used)


def rpc_messages() -> str:
    return message_sections(messages.RpcRequest, messages.RpcAnswer)


def join_messages() -> str:
    return message_sections(messages.JoinRequest, messages.JoinAnswer)


def inference_types() -> str:
    used = (
        inference.TextRequest,
        inference.ChatMessage,
        inference.TensorRequest,
        inference.Tensor,
        inference.TaskRequest,
        inference.TextChunk,
        inference.TokenLogprob,
        inference.TensorChunk,
        inference.TaskChunk,
        inference.Finish,
    )
    return "\n".join(struct_section(struct, f"### {struct.__name__}") for struct in used)


def frame_kinds() -> str:
    return table(
        ("kind", "byte"), ((f"`{kind.name}`", str(kind.value)) for kind in framing.FrameKind)
    )


def message_sections(*unions: Any) -> str:
    structs = [struct for union in unions for struct in getattr(union, "__args__", (union,))]
    return "\n".join(struct_section(struct, f"#### {struct.__name__}") for struct in structs)


def struct_section(struct: type[msgspec.Struct], heading: str) -> str:
    info = inspect.type_info(struct)
    assert isinstance(info, inspect.StructType)
    tag = f"`{info.tag_field}` is `{info.tag}`.\n\n" if info.tag is not None else ""
    rows = [(f"`{field.encode_name}`", shape(field.type), default(field)) for field in info.fields]
    fields = table(("field", "value", "default"), rows) if rows else "No other fields.\n"
    return f"{heading}\n{tag}{fields}"


def default(field: inspect.Field) -> str:
    if field.required:
        return "required"
    if field.default is msgspec.NODEFAULT and field.default_factory is msgspec.NODEFAULT:
        return "absent"
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    return f"`{quoted(value)}`"


def quoted(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def shape(kind: inspect.Type) -> str:
    """A type in words."""
    match kind:
        case inspect.StrType():
            return text_shape(kind)
        case inspect.IntType() | inspect.FloatType():
            return number_shape(kind)
        case inspect.BytesType():
            return "bytes" + span(kind.min_length, kind.max_length, "")
        case inspect.VarTupleType():
            return f"array{span(kind.min_length, kind.max_length, '')} of {shape(kind.item_type)}"
        case inspect.TupleType():
            return "array [" + "; ".join(shape(item) for item in kind.item_types) + "]"
        case inspect.DictType():
            entries = span(kind.min_length, kind.max_length, "entries")
            return f"map{entries} from {shape(kind.key_type)} to {shape(kind.value_type)}"
        case inspect.LiteralType():
            return " or ".join(f"`{quoted(value)}`" for value in kind.values)
        case inspect.UnionType():
            return " or ".join(shape(member) for member in kind.types)
        case inspect.StructType():
            return f"`{kind.cls.__name__}`"
        case inspect.NoneType():
            return "null"
        case inspect.BoolType():
            return "boolean"
        case inspect.AnyType():
            return "any JSON value"
    raise AssertionError(kind)


def text_shape(kind: inspect.StrType) -> str:
    words = "string"
    pattern = kind.pattern
    if pattern == names.PRINTABLE:
        words = "printable string"
        pattern = None
    words += span(kind.min_length, kind.max_length, "characters")
    if pattern is not None:
        words += f" matching `{pattern.replace(chr(92) + 'Z', '$').replace('|', chr(92) + '|')}`"
    return words


def number_shape(kind: inspect.IntType | inspect.FloatType) -> str:
    words = "integer" if isinstance(kind, inspect.IntType) else "number"
    if kind.gt is not None:
        words += f", above {bound(kind.gt)}"
    elif kind.ge is not None and kind.le is not None:
        return f"{words}, {bound(kind.ge)} to {bound(kind.le)}"
    elif kind.ge is not None:
        return f"{words}, at least {bound(kind.ge)}"
    return f"{words} and at most {bound(kind.le)}" if kind.le is not None else words


def bound(value: float) -> str:
    return BIGGEST.get(int(value), f"{value:.15g}")


def span(low: int | None, high: int | None, unit: str) -> str:
    if low is not None and low == high:
        words = f"exactly {low}"
    elif low is not None and high is not None:
        words = f"{low} to {high}"
    elif high is not None:
        words = f"at most {high}"
    elif low is not None:
        words = f"at least {low}"
    else:
        return ""
    return f" ({words} {unit})".replace(" )", ")")


def duration(seconds: int) -> str:
    unit, size = next((u, s) for u, s in UNITS.items() if seconds % s == 0)
    count = seconds // size
    return f"{count} {unit}{'s' if count != 1 else ''}"


def yes(truth: bool) -> str:  # noqa: FBT001 - two words
    return "yes" if truth else "no"


def further_members() -> str:
    known = {**more.MEANINGFUL, **{f"messages.{n}": v for n, v in more.IN_MESSAGES.items()}}
    return table(
        ("member", "changes nothing where it is null, or"),
        ((f"`{n}`", ", ".join(f"`{json.dumps(v)}`" for v in known[n])) for n in sorted(known)),
    )


PARTS: dict[str, Callable[[], str]] = {
    "codes": codes,
    "parameters": parameters,
    "kinds": kind_rules,
    "bodies": bodies,
    "claims": claims,
    "permissions": permissions,
    "bindings": bindings,
    "models": models,
    "rpc-messages": rpc_messages,
    "join-messages": join_messages,
    "inference": inference_types,
    "more": further_members,
    "frame-kinds": frame_kinds,
    "scale": scale.table,
}


def refreshed(text: str) -> str:
    """SPEC.md with all generated parts made anew."""
    found = [part[1] for part in PART.findall(text)]
    if sorted(found) != sorted(PARTS):
        raise SystemExit(f"SPEC.md has the parts {found}, not {list(PARTS)}")
    return PART.sub(lambda part: f"{part[1]}{PARTS[part[2]]()}{part[3]}", text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", action="store_true", help="refresh SPEC.md")
    action.add_argument("--check", action="store_true", help="exit 1 when SPEC.md is stale")
    arguments = parser.parse_args()
    text = SPEC.read_text(encoding="utf-8")
    current = refreshed(text)
    if arguments.write:
        SPEC.write_text(current, encoding="utf-8")
    elif current != text:
        print("SPEC.md is stale: python scripts/spec.py --write", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
