"""Commands about models: models, models show, fetch, drop; withdraw, find, ask."""

import sys
from typing import Annotated, Any

import typer

from aigrid.node.cli import render
from aigrid.node.cli.durations import check_keep_alive
from aigrid.node.cli.model_cards import show_cards
from aigrid.node.cli.model_table import show_table
from aigrid.node.cli.session import Json, print_json, printable, session, show
from aigrid.protocol.errors import EXIT_NO_CANDIDATE, UsageError
from aigrid.protocol.limits import LIMITS, MIB

models_app = typer.Typer(invoke_without_command=True, help="The models that are offered.")

Model = Annotated[str, typer.Argument(metavar="NAME", help="Its name or id: `aigrid models`.")]
_CANDIDATES = {"state": "state", "node": "node", "signer": "signed by"}


@models_app.callback()
def models(
    ctx: typer.Context,
    *,
    long: Annotated[
        bool, typer.Option("--long", "-l", help="All of each: id, nodes, memory, requests.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List the models that are offered or here, a row for each. `models show` has the rest."""
    if ctx.invoked_subcommand is not None:
        return
    body = session(ctx).call("models")
    show(body, _show_long if long else _show_short, as_json=as_json)


def _show_short(body: dict[str, Any]) -> None:
    if body["models"]:
        show_table(body["models"])
    else:
        _show_none(body)


def _show_long(body: dict[str, Any]) -> None:
    if body["models"]:
        show_cards(body["models"], own=body.get("peer_id", ""))
    else:
        _show_none(body)


def _show_none(body: dict[str, Any]) -> None:
    trouble = body.get("trouble", "")
    render.say(
        f"No models: {trouble}." if trouble else "No models yet: aigrid models fetch smollm2"
    )


@models_app.command("show")
def show_model(ctx: typer.Context, name: Model, *, as_json: Json = False) -> None:
    """Print a model in full: its id, where it is, how it stands here."""
    body = session(ctx).call("models_show", {"model": name})
    show(body, lambda told: show_cards([told["model"]], own=told["peer_id"]), as_json=as_json)


@models_app.command()
def fetch(
    ctx: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Such as smollm2, or a name or id on the grid.")
    ],
    *,
    as_json: Json = False,
) -> None:
    """Bring a starter model, or one that other nodes give.

    Its hash is checked, and it is offered. What others give goes on coming when this command is
    interrupted; `models drop` ends it.
    """
    with render.progress(f"Fetching {name}...") as on_event:
        body = session(ctx).call("models_fetch", {"name": name}, on_event)
    show(body, lambda said: _say_fetched(name, said), as_json=as_json)


def _say_fetched(name: str, body: dict[str, Any]) -> None:
    problem = body.get("problem", "")
    render.say(
        f"{name} is here, and not offered: {problem}" if problem else f"{name} is here and offered."
    )
    for other in body.get("others", ()):
        render.note(f"the starter model, that is; the grid has another {name}, by its id:")
        render.note(f"aigrid models fetch {other}")


@models_app.command()
def drop(
    ctx: typer.Context,
    model: Model,
    *,
    as_json: Json = False,
) -> None:
    """Remove a model fetched from other nodes, or stop fetching it.

    What was published here, and starter models, `aigrid withdraw` removes.
    """
    show(
        session(ctx).call("models_drop", {"model": model}),
        lambda _: render.say("Dropped."),
        as_json=as_json,
    )


def withdraw(
    ctx: typer.Context,
    model: Model,
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
    language: Annotated[
        str | None, typer.Option(help="BCP 47; en finds en-GB, too.", metavar="TAG")
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="Language that goes in, of translation.", metavar="TAG")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Language that comes out.", metavar="TAG")
    ] = None,
    format_: Annotated[str | None, typer.Option("--format", help="Such as gguf.")] = None,
    precision: Annotated[str | None, typer.Option(help="Such as q4_1.")] = None,
    license_: Annotated[
        str | None, typer.Option("--license", help="SPDX id, such as Apache-2.0.")
    ] = None,
    region: Annotated[str | None, typer.Option(help="As nodes state it.")] = None,
    warm: Annotated[bool, typer.Option("--warm", help="Only what is loaded already.")] = False,
    max_latency: Annotated[
        int | None,
        typer.Option(metavar="MS", help="To the first chunk, observed or else declared."),
    ] = None,
    max_size: Annotated[
        int | None, typer.Option(metavar="BYTES", help="Of the model's files together.")
    ] = None,
    issuer: Annotated[
        str | None, typer.Option(metavar="DID", help="Who signed the model's manifest.")
    ] = None,
    signer: Annotated[
        str | None, typer.Option(metavar="DID", help="Who signed the offer: the node.")
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say of every offer why it is where it is.")
    ] = False,
    widely: Annotated[
        bool, typer.Option("--ask", help="Ask other nodes, whatever is known here.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Who offers a capability or a narrower one, best first."""
    given = {
        "language": language,
        "source": source,
        "target": target,
        "format": format_,
        "precision": precision,
        "license": license_,
        "region": region,
        "warm": warm or None,
        "latency_ms_max": max_latency,
        "size_bytes_max": max_size,
        "issuer": issuer,
        "signer": signer,
        "explain": explain or None,
        "ask": widely or None,
    }
    params = {name: value for name, value in given.items() if value is not None}
    body = session(ctx).call("find", {"capability": capability, **params})
    show(body, _show_explained if explain else _show_found, as_json=as_json)
    if body.get("more"):
        render.note(f"{body['more']} more fit; filter more narrowly to have them ranked")
    elif body.get("removed") and not body["candidates"]:  # with --explain it is no error
        raise typer.Exit(EXIT_NO_CANDIDATE)


def _show_found(body: dict[str, Any]) -> None:
    render.cards(body["candidates"], "name", _CANDIDATES, empty="Nobody offers this now.")


def _show_explained(body: dict[str, Any]) -> None:
    for place, one in enumerate(body["candidates"], start=1):
        _show_reasons(f"{place}.", one)
    for one in body["dropped"]:
        _show_reasons(f"dropped ({one['reason']}):", one)
    if not body["candidates"]:
        render.say("None is left." if body["dropped"] else "Nobody offers this now.")


def _show_reasons(place: str, one: dict[str, Any]) -> None:
    render.say(f"{place} {one['name']} on {one['node']}", style="bold")
    render.say(f"    model {one['model']}, offer signed by {one['signer']}")
    for reason in one["reasons"]:
        render.say(f"    {reason}")


def ask(
    ctx: typer.Context,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The question; - for stdin.")],
    model: Annotated[str | None, typer.Option(help="Its name or id; default: any.")] = None,
    capability: Annotated[str | None, typer.Option(help="Instead of a model.")] = None,
    *,
    purpose: Annotated[str | None, typer.Option(help="What for, if its owner asks.")] = None,
    accept_license: Annotated[
        list[str] | None,
        typer.Option(
            "--accept-license", metavar="SPDX", help="Licence that is accepted; repeatable."
        ),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=LIMITS.max_tokens_max,
            metavar="N",
            help="Of the answer. Default: 512, or what there is room for.",
        ),
    ] = None,
    keep_alive: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="How long the model stays loaded without use: 5m, 2h, ...; 0: not at all; "
            "-1: until its memory is needed.",
        ),
    ] = None,
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
        if as_json:
            return
        progress = event.get("progress", "")
        loading(f"The model is being loaded: {progress}" if progress else "")
        if "text" in event:
            shown = True
            sys.stdout.write(printable(event["text"]))
            sys.stdout.flush()

    if keep_alive is not None:
        check_keep_alive(keep_alive, "--keep-alive")
    params: dict[str, Any] = {"text": text, "model": model or "", "capability": capability or ""}
    wishes = {
        "purpose": purpose,
        "accepts": accept_license,
        "max_tokens": max_tokens,
        "keep_alive": keep_alive,
    }
    params |= {name: value for name, value in wishes.items() if value is not None}
    with render.meanwhile() as loading:
        body = session(ctx).call("ask", params, on_event)
    if as_json:
        print_json(body)
        return
    sys.stdout.write("\n" if shown else f"{printable(body.get('text', ''))}\n")
    sys.stdout.flush()
    nodes = ", ".join(str(segment.get("node")) for segment in body.get("segments", []))
    render.note(f"{body.get('model')} on {nodes}")
