"""`aigrid publish`: show what a model says of itself, ask, offer it."""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer
from msgspec.structs import fields

from aigrid.engines.upstream.address import is_server
from aigrid.node.cli import render
from aigrid.node.cli.session import Event, Json, Session, printable, session, show
from aigrid.protocol.errors import Code, UsageError
from aigrid.protocol.limits import KIB, LIMITS, MIB
from aigrid.protocol.task import TaskMapping

HUB: Final = "hf:"
_COLUMNS = {"what": "", "value": "", "origin": "READ FROM"}
_FILES_SHOWN = 12
_MAPPING_SHOWN = 600


@dataclass(frozen=True, slots=True)
class Way:
    """Which methods of the node show and publish a model, and what they are told of it."""

    propose: str
    publish: str
    params: dict[str, Any]


def publish(
    ctx: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A GGUF, ONNX or safetensors file, a folder as Hugging Face's libraries save it, "
            "hf:ORG/NAME for one on the Hugging Face Hub (hf:ORG/NAME@REVISION, "
            "hf:ORG/NAME/FILE), or a server's address: openai+http://HOST:PORT/v1 (vLLM, SGLang, "
            "llama-server, Ollama, LM Studio, another node's gateway) or oip+http://HOST:PORT "
            "(Triton, KServe, MLServer).",
        ),
    ],
    *,
    capability: Annotated[
        str | None,
        typer.Option(
            help="What it does: a Hugging Face pipeline tag. Default: what its files say; behind a "
            "server text-generation, or tensor."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Default: the file's, folder's or server's.")
    ] = None,
    license_: Annotated[
        str | None,
        typer.Option("--license", help="SPDX id, such as Apache-2.0. Default: its files'."),
    ] = None,
    language: Annotated[
        list[str] | None, typer.Option(metavar="TAG", help="BCP 47, such as en; repeatable.")
    ] = None,
    upstream_model: Annotated[
        str | None, typer.Option(help="What the server calls the model.")
    ] = None,
    key_file: Annotated[
        Path | None,
        typer.Option(help="A file with the server's API key, or the hub's token. It stays here."),
    ] = None,
    task_mapping: Annotated[
        Path | None,
        typer.Option(
            help="A file with a task mapping (SPEC.md) as JSON: how typed input becomes tensors. "
            "Files that it names lie beside the model."
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Offer a model to the grid: what it is its own files say; it is tried once before."""
    said = {"capability": capability or "", "name": name or "", "license": license_ or ""}
    params: dict[str, Any] = {**said, **({"languages": language} if language else {})}
    if task_mapping is not None:
        params["mapping"] = _json_object(_read(task_mapping, "the task mapping"))
    key = _read(key_file, "the key").strip() if key_file is not None else ""
    way = _way(source, params, upstream_model or "", key)
    node = session(ctx)
    if as_json:
        body = node.call(way.publish, way.params)
    else:
        if way.propose == "propose_hub":
            _bring(node, way, ask=not yes)
        body = _shown_and_published(node, way, ask=not yes)
    show(body, lambda _: render.say(f"Published {body['model']}"), as_json=as_json)


def _way(source: str, params: dict[str, Any], upstream_model: str, key: str) -> Way:
    if is_server(source):
        more = {"url": source, "model": upstream_model, **({"key": key} if key else {})}
        return Way("propose_upstream", "publish_upstream", {**params, **more})
    if upstream_model:
        raise UsageError(
            "--upstream-model is for the address of a server: openai+http://HOST:PORT/v1 or "
            "oip+http://HOST:PORT"
        )
    if source.startswith(HUB):
        more = {"source": source.removeprefix(HUB), **({"token": key} if key else {})}
        return Way("propose_hub", "publish_hub", {**params, **more})
    if key:
        raise UsageError("--key-file is for the address of a server, or for hf:ORG/NAME")
    path = Path(source).expanduser().absolute()
    if not path.exists():
        raise UsageError(f"there is no model at {path}", Code.MODEL_FILE_MISSING)
    return Way("propose", "publish", {"path": str(path), **params})


def _bring(node: Session, way: Way, *, ask: bool) -> None:
    """Say what will be downloaded, and ask: it may be a lot."""
    params: dict[str, Any] = {
        name: way.params[name] for name in ("source", "token") if name in way.params
    }
    with _progress("Asking the hub...") as on_event:
        body = node.call("list_hub", params, on_event)
    way.params["source"] = body["source"]  # pinned: what is asked for below is what was shown
    if not body["missing_bytes"]:
        return
    render.say(f"{body['repo']} at {body['revision']}", style="bold")
    for line in _listed(body["files"]):
        render.say(f"  {line}")
    _agreed(f"Download {_size(body['missing_bytes'])}?", ask=ask)


def _shown_and_published(node: Session, way: Way, *, ask: bool) -> dict[str, Any]:
    with _progress("Looking at the model...") as on_event:
        body = node.call(way.propose, way.params, on_event)
    render.rows(_facts(body), _COLUMNS, empty="")
    if body.get("problem"):
        render.note("no engine here takes it")
    else:
        _agreed("Publish it?", ask=ask)
    confirmed = {"confirmed": body["proposal"]} if "proposal" in body else {}
    with _progress("Publishing...") as on_event:
        return node.call(way.publish, {**way.params, **confirmed}, on_event)


def _agreed(question: str, *, ask: bool) -> None:
    """Ask, where there is somebody to answer."""
    if ask and sys.stdin.isatty() and sys.stdout.isatty() and not typer.confirm(question):
        render.note("nothing was published")
        raise typer.Exit(1)


@contextmanager
def _progress(what: str) -> Iterator[Event]:
    from rich.console import Console

    with Console(stderr=True).status(what) as status:
        yield lambda event: status.update(printable(event.get("progress", what)))


def _facts(body: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """What is shown of a proposal: a row for each thing that is known."""
    origins = body.get("origins", {})
    known: tuple[tuple[str, str, str], ...] = (
        ("Name", body["name"], ""),
        ("Capability", ", ".join(body.get("capabilities", [body["capability"]])), "task"),
        ("Format", f"{body['format']} {body.get('precision', '')}".strip(), ""),
        ("Model there", body.get("upstream_model", ""), ""),
        ("Version", body.get("version", ""), ""),
        ("Parameters", _count(body.get("parameters", 0)), ""),
        ("Size", _size(body.get("bytes", 0)), ""),
        ("Files", "\n".join(_listed(body.get("files", {}))), ""),
        ("Tokenizer", body.get("tokenizer", ""), "tokenizer"),
        ("Context", _tokens(body.get("context_tokens", 0)), "context_tokens"),
        ("Licence", body.get("license") or "not stated", "license_id"),
        ("Languages", ", ".join(body.get("languages", ())), "languages"),
        ("Inputs", _tensors(body.get("inputs", ())), "inputs"),
        ("Outputs", _tensors(body.get("outputs", ())), "outputs"),
        ("Mapping", _mapping(body.get("mapping", {})), "mapping"),
        ("Left out", _left_out(body.get("left_out", {})), ""),
        ("Engine", body.get("engine") or "none", ""),
        ("Memory", _size(body.get("memory_bytes", 0)), ""),
    )
    for what, value, attribute in known:
        if value:
            yield {"what": what, "value": value, "origin": origins.get(attribute, "")}


def _listed(files: Mapping[str, int]) -> list[str]:
    shown = [f"{name} ({_size(size)})" for name, size in list(files.items())[:_FILES_SHOWN]]
    more = len(files) - len(shown)
    return [*shown, *([f"and {more} more"] if more else [])]


def _left_out(files: Mapping[str, str]) -> str:
    shown = [f"{name}: {why}" for name, why in list(files.items())[:_FILES_SHOWN]]
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


def _count(number: int) -> str:
    for unit, size in (("G", 10**9), ("M", 10**6)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number) if number else ""


def _size(size_bytes: int) -> str:
    if size_bytes >= 1024 * MIB:
        return f"{size_bytes / (1024 * MIB):.2f} GiB"
    if size_bytes >= MIB:
        return f"{size_bytes / MIB:.1f} MiB"
    return f"{-(-size_bytes // KIB)} KiB" if size_bytes else ""


def _tokens(number: int) -> str:
    return f"{number} tokens" if number else ""


def _read(path: Path, what: str) -> str:
    try:
        with path.expanduser().open("rb") as file:
            data = file.read(LIMITS.record_max_bytes + 1)
        if len(data) > LIMITS.record_max_bytes:
            raise UsageError(f"{path} is too large for {what}")
        return data.decode("utf-8")
    except OSError as error:
        raise UsageError(f"cannot read {what} from {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not text in UTF-8") from None


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise UsageError("the task mapping is not a JSON object")
    return value
