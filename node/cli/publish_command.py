"""`aigrid publish`: show what a model says of itself, ask, offer it."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from aigrid.engines.upstream.address import is_server
from aigrid.node.cli import render
from aigrid.node.cli.session import Json, Session, session, show
from aigrid.node.settings.setting import of_user
from aigrid.protocol.errors import Code, UsageError
from aigrid.protocol.limits import LIMITS

HUB: Final = "hf:"
_COLUMNS = {"what": "", "value": "", "origin": "READ FROM"}


Policy = Annotated[
    Path | None,
    typer.Option(
        help="A file that says what may be done with the model, by whom (TOML or JSON, see "
        "docs/policy.md). Default: as published before, else members may do everything."
    ),
]
Serves = Annotated[
    list[str] | None,
    typer.Option(
        metavar="CAPABILITY:NAME=VALUE,...",
        help="For which values of a capability's parameters: translation:source=en,target=fr. A "
        "name may be given several values; repeatable. Default: as published before.",
    ),
]


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
    serves: Serves = None,
    policy: Policy = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Offer a model to the grid, as what its own files say it is."""
    said = {"capability": capability or "", "name": name or "", "license": license_ or ""}
    listed = {"languages": language, "serves": serves}
    params: dict[str, Any] = {**said, **{name: given for name, given in listed.items() if given}}
    if task_mapping is not None:
        params["mapping"] = _json_object(_read(task_mapping, "the task mapping"))
    if policy is not None:
        params["policy"] = _read(policy, "the policy")
        if not params["policy"].strip():
            raise UsageError(f"{policy} is empty: `rules = []` permits nobody but you")
    key = _read(key_file, "the key").strip() if key_file is not None else ""
    way = _way(source, params, upstream_model or "", key)
    node = session(ctx)
    if as_json:
        body = node.call(way.publish, way.params)
    else:
        if way.propose == "propose_hub":
            _bring(node, way, ask=not yes)
        body = _shown_and_published(node, way, ask=not yes)
    show(body, _show_published, as_json=as_json)


def _show_published(body: dict[str, Any]) -> None:
    from aigrid.node.cli.proposal import policy_text

    render.say(f"Published {body['model']}")
    if "policy" in body:
        render.say(f"Policy: {policy_text(body['policy'])}")
    if body.get("before"):
        render.note(f"until now it was offered as {body['before']}")


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
    path = of_user(source).absolute()  # not resolved: a link may have the better name
    try:
        found = path.exists()
    except OSError:  # a name that is too long, or a folder that is closed to us
        found = False
    if not found:
        raise UsageError(f"there is no model at {path}", Code.MODEL_FILE_MISSING)
    return Way("propose", "publish", {"path": str(path), **params})


def _bring(node: Session, way: Way, *, ask: bool) -> None:
    """Say what will be downloaded, and ask: it may be a lot."""
    params: dict[str, Any] = {
        name: way.params[name] for name in ("source", "token") if name in way.params
    }
    with render.progress("Asking the hub...") as on_event:
        body = node.call("list_hub", params, on_event)
    way.params["source"] = body["source"]  # pinned: what is asked for below is what was shown
    if not body["missing_bytes"]:
        return
    from aigrid.node.cli.proposal import listed, size_text

    render.say(f"{body['repo']} at {body['revision']}", style="bold")
    for line in listed(body["files"]):
        render.say(f"  {line}")
    _agreed(f"Download {size_text(body['missing_bytes'])}?", ask=ask)


def _shown_and_published(node: Session, way: Way, *, ask: bool) -> dict[str, Any]:
    from aigrid.node.cli.proposal import facts  # heavier than a help text should be

    with render.progress("Looking at the model...") as on_event:
        body = node.call(way.propose, way.params, on_event)
    render.rows(facts(body), _COLUMNS, empty="")
    if body.get("problem"):
        render.note("no engine here takes it")
    else:
        _agreed("Publish it?", ask=ask)
    with render.progress("Publishing...") as on_event:
        return node.call(way.publish, {**way.params, "confirmed": body["proposal"]}, on_event)


def _agreed(question: str, *, ask: bool) -> None:
    """Ask, where there is somebody to answer."""
    if ask and sys.stdin.isatty() and sys.stdout.isatty() and not typer.confirm(question):
        render.note("nothing was published")
        raise typer.Exit(1)


def _read(path: Path, what: str) -> str:
    try:
        with of_user(path).open("rb") as file:
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
