"""Commands about models: models, models fetch, publish, withdraw, find, ask."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from aigrid.node.cli import render
from aigrid.node.cli.session import Json, print_json, printable, session, show
from aigrid.protocol.errors import Code, UsageError
from aigrid.protocol.limits import MIB

models_app = typer.Typer(invoke_without_command=True, help="The models that are offered.")

_MODELS = {"name": "NAME", "model": "MODEL", "node": "NODE", "state": "STATE"}
_CANDIDATES = {"name": "NAME", "state": "STATE", "node": "NODE", "signer": "SIGNED BY"}


@models_app.callback()
def models(ctx: typer.Context, *, as_json: Json = False) -> None:
    """List the models that somebody offers now."""
    if ctx.invoked_subcommand is not None:
        return
    show(
        session(ctx).call("models"),
        lambda body: render.rows(
            body["models"], _MODELS, empty="No models yet: aigrid models fetch smollm2"
        ),
        as_json=as_json,
    )


@models_app.command()
def fetch(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Such as smollm2.")],
    *,
    as_json: Json = False,
) -> None:
    """Bring a known model to this node, check its hash and offer it."""
    from rich.console import Console

    with Console(stderr=True).status(f"Fetching {printable(name)}...") as status:

        def on_event(event: dict[str, Any]) -> None:
            status.update(printable(event.get("progress", "")))

        body = session(ctx).call("models_fetch", {"name": name}, on_event)
    show(body, lambda _: render.say(f"{name} is here and offered."), as_json=as_json)


def publish(
    ctx: typer.Context,
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A model file or its folder.")],
    *,
    capability: Annotated[str, typer.Option(help="What it does: a Hugging Face pipeline tag.")],
    name: Annotated[str | None, typer.Option(help="Default: the file's name.")] = None,
    license_: Annotated[
        str | None, typer.Option("--license", help="SPDX id, such as Apache-2.0.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Offer a model of this machine to the grid."""
    path = path.expanduser().absolute()
    if not path.exists():
        raise UsageError(f"there is no model at {path}", Code.MODEL_FILE_MISSING)
    body = session(ctx).call(
        "publish",
        {
            "path": str(path),
            "capability": capability,
            "name": name or "",
            "license": license_ or "",
        },
    )
    show(body, lambda _: render.say(f"Published {body['model']}"), as_json=as_json)


def withdraw(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Its name or id.")],
    *,
    as_json: Json = False,
) -> None:
    """Stop offering a model."""
    show(
        session(ctx).call("withdraw", {"model": model}),
        lambda _: render.say("Withdrawn."),
        as_json=as_json,
    )


def find(
    ctx: typer.Context,
    capability: Annotated[str, typer.Argument(help="Such as text-generation.")],
    *,
    widely: Annotated[
        bool, typer.Option("--ask", help="Ask other nodes, whatever is known here.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Who offers a capability, best first, and which key signed the offer."""
    show(
        session(ctx).call("find", {"capability": capability, "ask": widely}),
        lambda body: render.rows(body["candidates"], _CANDIDATES, empty="Nobody offers this now."),
        as_json=as_json,
    )


def ask(
    ctx: typer.Context,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The question; - for stdin.")],
    model: Annotated[str | None, typer.Option(help="Its name or id; default: any.")] = None,
    capability: Annotated[str | None, typer.Option(help="Instead of a model.")] = None,
    *,
    as_json: Json = False,
) -> None:
    """Ask a model somewhere on the grid."""
    if text == "-":
        text = sys.stdin.read(MIB)
    if not text.strip():
        raise UsageError("the question is empty: give `aigrid ask` a TEXT")

    shown = False

    def on_event(event: dict[str, Any]) -> None:
        nonlocal shown
        if not as_json:
            shown = True
            sys.stdout.write(printable(event.get("text", "")))
            sys.stdout.flush()

    params = {"text": text, "model": model or "", "capability": capability or ""}
    body = session(ctx).call("ask", params, on_event)
    if as_json:
        print_json(body)
        return
    sys.stdout.write("\n" if shown else f"{printable(body.get('text', ''))}\n")
    sys.stdout.flush()
    nodes = ", ".join(str(segment.get("node")) for segment in body.get("segments", []))
    render.note(f"{body.get('model')} on {nodes}")
