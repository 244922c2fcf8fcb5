"""`aigrid policy explain`: who may do what with a model, and why."""

from pathlib import Path
from typing import Annotated, Any

import typer

from aigrid.node.cli import render
from aigrid.node.cli.credential_files import read_credentials
from aigrid.node.cli.session import Json, session, show
from aigrid.protocol.errors import CODES, EXIT_DENIED, EXIT_NO_CANDIDATE, Code

policy_app = typer.Typer(help="What the policies of owners and operators say.")


@policy_app.callback()
def policy() -> None:
    """What the policies of owners and operators say."""


@policy_app.command()
def explain(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Its name or id.")],
    *,
    action: Annotated[str, typer.Option(help="invoke, fetch, host or publish.")] = "invoke",
    holder: Annotated[
        str | None, typer.Option(metavar="DID", help="Who would ask. Default: this node.")
    ] = None,
    on_behalf: Annotated[
        str | None,
        typer.Option(
            "--on-behalf", metavar="DID", help="Whose signed request this node would pass on."
        ),
    ] = None,
    credential: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A credential that would be shown, as printed."),
    ] = None,
    node: Annotated[
        str | None,
        typer.Option(metavar="PEERID|DID", help="At this node. Default: where it is offered."),
    ] = None,
    purpose: Annotated[str | None, typer.Option(help="What for.")] = None,
    accept: Annotated[
        list[str] | None,
        typer.Option(metavar="LICENCE", help="Licence that is accepted, as in SPDX; repeatable."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say whether something is permitted, and every reason with the record that it rests on."""
    said: dict[str, Any] = {
        "model": model,
        "action": action,
        "holder": holder or "",
        "on_behalf": on_behalf or "",
        "credentials": read_credentials(credential) if credential is not None else [],
        "node": node or "",
        "purpose": purpose or "",
        "accepts": accept or [],
    }
    body = session(ctx).call("policy_explain", said)
    show(body, _show_decisions, as_json=as_json)
    if not body["allowed"]:
        raise typer.Exit(EXIT_DENIED)
    if _not_offered(body):
        raise typer.Exit(EXIT_NO_CANDIDATE)


def _not_offered(body: dict[str, Any]) -> bool:
    """Whether it would be permitted, if only somebody offered the model there."""
    return body["action"] in ("invoke", "fetch") and not body.get("offered", True)


def _show_decisions(body: dict[str, Any]) -> None:
    for_whom = f" for {body['on_behalf']}" if body.get("on_behalf") else ""
    render.say(f"{body['holder']} asks{for_whom} to {body['action']} {body['model']}")
    if _not_offered(body):
        render.say("Nobody offers it there now: what follows is for when somebody does.")
    for one in body["decisions"]:
        where = "this node" if one["own"] else one["peer_id"]
        verdict = "allowed" if one["allowed"] else f"denied, {one['code']}"
        render.say(f"\n{where}: {verdict}", style="bold green" if one["allowed"] else "bold red")
        for reason in one["reasons"]:
            record = f"  [{reason['record']}]" if reason["record"] else ""
            render.say(f"    {reason['text']}{record}")
        for limit in one["obligations"]:
            render.say(f"    within {_limits(limit)}, counted for {limit['key']}")
        for unknown in one["unknown"]:
            render.say(f"    not known here: {unknown}", style="dim")
        if not one["allowed"]:
            trouble = body.get("trouble") if one["code"] == Code.NOT_MEMBER.value else ""
            render.say(f"    {trouble or CODES[Code(one['code'])].next_step}")


def _limits(limit: dict[str, Any]) -> str:
    words = {
        "requests_per_day": "requests a day",
        "tokens_per_day": "tokens a day",
        "concurrency": "requests at once",
    }
    return ", ".join(f"{limit[name]} {word}" for name, word in words.items() if limit[name])
