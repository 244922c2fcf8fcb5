"""Commands about who may call this node's gateway: key create, list, revoke."""

from typing import Annotated, Any

import typer

from aigrid.node.cli import render
from aigrid.node.cli.durations import seconds_of
from aigrid.node.cli.session import Json, session, show

key_app = typer.Typer(help="Who may call this node's gateway.", no_args_is_help=False)

Count = Annotated[int, typer.Option(min=0, help="0 for any number.")]


@key_app.command("create")
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whom the key is for.")],
    *,
    did: Annotated[
        str, typer.Option(help="For who signs its requests (RFC 9421) with its own key: its DID.")
    ] = "",
    requests_per_minute: Count = 0,
    tokens_per_minute: Count = 0,
    tokens_per_day: Count = 0,
    concurrency: Count = 0,
    model: Annotated[
        list[str] | None, typer.Option(help="Name or id of a model; repeatable. Without it: any.")
    ] = None,
    capability: Annotated[
        list[str] | None, typer.Option(help="What may be done; repeatable. Without it: anything.")
    ] = None,
    operates: Annotated[
        bool, typer.Option("--operates", help="May load and unload the models of this node.")
    ] = False,
    expires: Annotated[
        str | None, typer.Option(help="How long it is valid, such as 30d or 12h.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make an API key, which is shown once; or list a DID whose signed requests are served."""
    limits = {
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "tokens_per_day": tokens_per_day,
        "concurrency": concurrency,
        "models": model or [],
        "capabilities": capability or [],
        "operates": operates,
    }
    params = {
        "name": name,
        "did": did,
        "expires_seconds": seconds_of(expires, "--expires") or 0,
        "limits": limits,
    }
    show(session(ctx).call("key_create", params), _show_created, as_json=as_json)


@key_app.command("list")
def list_(ctx: typer.Context, *, as_json: Json = False) -> None:
    """List whose keys there are, their limits and use today. The keys themselves are not kept."""
    labels = {
        "name": "name",
        "did": "DID",
        "state": "state",
        "expires": "expires",
        "tokens_today": "tokens today",
        "limits": "limits",
    }
    show(
        session(ctx).call("key_list"),
        lambda body: render.cards(body["keys"], "id", labels, empty="There are no keys yet."),
        as_json=as_json,
    )


@key_app.command("revoke")
def revoke(
    ctx: typer.Context,
    key: Annotated[str, typer.Argument(metavar="ID", help="From `aigrid key list`; or a name.")],
    *,
    as_json: Json = False,
) -> None:
    """Take a key back: no request after this one is served. What runs already ends by itself."""
    show(
        session(ctx).call("key_revoke", {"id": key}),
        lambda body: render.say(f"Revoked {body['name']}."),
        as_json=as_json,
    )


def _show_created(body: dict[str, Any]) -> None:
    if unknown := body.get("unknown_models"):
        render.note(f"no model named {', '.join(unknown)} is known here yet: `aigrid models`")
    if not body["key"]:
        render.say(f"Requests signed by {body['did']} are served, as {body['name']}.")
        return
    render.note("This is the only time that the key is shown:")
    render.say(str(body["key"]))
