"""`aigrid credential`: issue, delegate, revoke, show, verify, list, import, forget."""

from pathlib import Path
from typing import Annotated, Any

import typer

from aigrid.node.cli import render
from aigrid.node.cli.credential_files import read_credentials, write_credentials
from aigrid.node.cli.durations import seconds_of
from aigrid.node.cli.session import Json, now_ms, session, show
from aigrid.protocol.errors import CODES, AigridError, Code, UsageError

credential_app = typer.Typer(help="Grants and delegations: who may do what.", no_args_is_help=False)

To = Annotated[
    str, typer.Option("--to", metavar="DID", help="Whoever is to hold it: its `aigrid id`.")
]
Actions = Annotated[
    list[str] | None,
    typer.Option("--action", help="invoke, fetch, host or publish; repeatable. Default: invoke."),
]
Models = Annotated[
    list[str] | None, typer.Option("--model", help="On this model, by name or id; repeatable.")
]
Capabilities = Annotated[
    list[str] | None, typer.Option("--capability", help="On what has this capability; repeatable.")
]
Everything = Annotated[bool, typer.Option("--everything", help="On every model.")]
Purposes = Annotated[
    list[str] | None, typer.Option("--purpose", help="For this purpose alone; repeatable.")
]
Regions = Annotated[
    list[str] | None, typer.Option("--region", help="In this region alone; repeatable.")
]
Audience = Annotated[
    list[str] | None,
    typer.Option("--audience", metavar="DID", help="At this node alone; repeatable."),
]
RequestsPerDay = Annotated[
    int | None, typer.Option("--requests-per-day", help="At each node, by UTC day.")
]
TokensPerDay = Annotated[
    int | None, typer.Option("--tokens-per-day", help="At each node, by UTC day.")
]
Concurrency = Annotated[
    int | None, typer.Option("--concurrency", help="Requests at once, at each node.")
]
Delegable = Annotated[
    int, typer.Option("--delegable", help="How many times it may be passed on in turn.")
]
Valid = Annotated[
    str | None, typer.Option("--valid", metavar="TIME", help="Such as 30d, which is usual.")
]
StatusAge = Annotated[
    str | None,
    typer.Option(
        "--max-status-age",
        metavar="TIME",
        help="Not to be honoured on an older word on revocations; 10m is usual.",
    ),
]
Out = Annotated[
    Path | None, typer.Option("--out", metavar="FILE", help="Write it there, to be carried.")
]
Id = Annotated[
    str,
    typer.Argument(metavar="ID", help="From `aigrid credential list`, or the end of it."),
]
File = Annotated[
    Path, typer.Argument(metavar="FILE", help="One credential a line, as printed; - for stdin.")
]
IdOrFile = Annotated[
    str,
    typer.Argument(metavar="ID|FILE", help="From `aigrid credential list`, or its end; or a file."),
]


@credential_app.command()
def issue(
    ctx: typer.Context,
    *,
    to: To,
    action: Actions = None,
    model: Models = None,
    capability: Capabilities = None,
    everything: Everything = False,
    purpose: Purposes = None,
    region: Regions = None,
    audience: Audience = None,
    requests_per_day: RequestsPerDay = None,
    tokens_per_day: TokensPerDay = None,
    concurrency: Concurrency = None,
    delegable: Delegable = 0,
    valid: Valid = None,
    max_status_age: StatusAge = None,
    as_authority: Annotated[
        bool, typer.Option("--as-authority", help="Signed with the grid's key, which is here.")
    ] = False,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Let somebody do something; send it to its node, and print it."""
    params = {
        "to": to,
        "actions": action,
        "models": model,
        "capabilities": capability,
        "everything": everything,
        "purposes": purpose,
        "regions": region,
        "audience": audience,
        "requests_per_day": requests_per_day,
        "tokens_per_day": tokens_per_day,
        "concurrency": concurrency,
        "delegable": delegable,
        "valid_seconds": seconds_of(valid, "--valid"),
        "status_age_seconds": seconds_of(max_status_age, "--max-status-age"),
        "as_authority": as_authority,
    }
    body = session(ctx).call("credential_issue", _said(params))
    _hand_over(body, out, as_json=as_json)


@credential_app.command()
def delegate(
    ctx: typer.Context,
    credential: Id,
    *,
    to: To,
    on_behalf: Annotated[
        bool,
        typer.Option("--on-behalf", help="Only for requests of mine that the other passes on."),
    ] = False,
    action: Annotated[
        list[str] | None, typer.Option("--action", help="Only this action; repeatable.")
    ] = None,
    model: Models = None,
    capability: Capabilities = None,
    purpose: Purposes = None,
    region: Regions = None,
    audience: Audience = None,
    requests_per_day: RequestsPerDay = None,
    tokens_per_day: TokensPerDay = None,
    concurrency: Concurrency = None,
    delegable: Delegable = 0,
    valid: Valid = None,
    max_status_age: StatusAge = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Pass on a credential that is held here, or part of it: what is not said stays as it is."""
    params = {
        "id": credential,
        "to": to,
        "on_behalf": on_behalf,
        "actions": action,
        "models": model,
        "capabilities": capability,
        "purposes": purpose,
        "regions": region,
        "audience": audience,
        "requests_per_day": requests_per_day,
        "tokens_per_day": tokens_per_day,
        "concurrency": concurrency,
        "delegable": delegable,
        "valid_seconds": seconds_of(valid, "--valid"),
        "status_age_seconds": seconds_of(max_status_age, "--max-status-age"),
    }
    body = session(ctx).call("credential_delegate", _said(params))
    _hand_over(body, out, as_json=as_json)


@credential_app.command()
def revoke(ctx: typer.Context, credential: IdOrFile, *, as_json: Json = False) -> None:
    """Take a credential back for good, if its issuer's status list may be signed here."""
    named = {"id": credential}
    if _is_file(credential):
        named = {"raw": read_credentials(Path(credential))[-1]}
    body = session(ctx).call("credential_revoke", named)
    show(body, lambda _: render.say(f"Revoked {body['credential']}"), as_json=as_json)


@credential_app.command("show")
def show_credential(ctx: typer.Context, credential: IdOrFile, *, as_json: Json = False) -> None:
    """Print a credential, what it comes from, and whether all of that holds now."""
    if _is_file(credential):
        lines = read_credentials(Path(credential))
        body = session(ctx).call("credential_verify", {"credentials": lines})
    else:
        body = session(ctx).call("credential_show", {"id": credential})
    show(body, _show_chain, as_json=as_json)


@credential_app.command()
def verify(ctx: typer.Context, file: File, *, as_json: Json = False) -> None:
    """Check a chain: form, signatures, narrowing and dates; with a node, revocation as well."""
    lines = read_credentials(file)
    try:
        body = session(ctx).call("credential_verify", {"credentials": lines})
    except UsageError as error:
        if error.code is not Code.NOT_RUNNING:
            raise
        body = _verified_alone(lines)
    except AigridError as error:
        body = {"ok": False, "code": error.code.value, "message": error.message, "links": []}
    show(body, _show_verdict, as_json=as_json)
    if not body["ok"]:
        raise typer.Exit(CODES[Code(body["code"])].exit)


@credential_app.command("list")
def list_credentials(
    ctx: typer.Context,
    *,
    held: Annotated[bool, typer.Option("--held", help="Only those that this node holds.")] = False,
    issued: Annotated[bool, typer.Option("--issued", help="Only those issued here.")] = False,
    as_json: Json = False,
) -> None:
    """List the credentials that this node holds or has issued, and what is known of each."""
    body = session(ctx).call("credential_list", {"held": held, "issued": issued})
    show(body, _show_list, as_json=as_json)


@credential_app.command("import")
def import_credential(ctx: typer.Context, file: File, *, as_json: Json = False) -> None:
    """Hold a credential that was issued to this node."""
    body = session(ctx).call("credential_import", {"credentials": read_credentials(file)})

    def person(_: dict[str, Any]) -> None:
        render.say(f"This node holds {body['credentials'][-1]['id']} now.")
        for one in body.get("notes", ()):
            render.note(one)

    show(body, person, as_json=as_json)


@credential_app.command()
def forget(ctx: typer.Context, credential: Id, *, as_json: Json = False) -> None:
    """Hold a credential no longer, nor what was passed on from it."""
    body = session(ctx).call("credential_forget", {"id": credential})
    show(body, lambda _: render.say("Forgotten."), as_json=as_json)


def what_of(permission: dict[str, Any]) -> str:
    """A permission in a line for a person."""
    parts = [", ".join(permission.get("actions", ())), "on"]
    targets = permission.get("targets", ())
    parts.append(", ".join("everything" if one == "*" else one for one in targets))
    for name, word in (("purposes", "for"), ("regions", "in"), ("audience", "at")):
        if permission.get(name):
            parts.append(f"{word} {', '.join(permission[name])}")
    for name, unit in (
        ("requests_per_day", "requests a day"),
        ("tokens_per_day", "tokens a day"),
        ("concurrency", "at once"),
    ):
        if permission.get(name):
            parts.append(f"{permission[name]} {unit}")
    return " ".join(parts)


def _said(params: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in params.items() if value is not None}


def _is_file(credential: str) -> bool:
    return credential == "-" or Path(credential).is_file()


def _hand_over(body: dict[str, Any], out: Path | None, *, as_json: bool) -> None:
    if out is not None:
        write_credentials(out, body["chain"])

    def person(_: dict[str, Any]) -> None:
        render.note(f"credential {body['credential']}, valid until {body['valid_until']}")
        for one in body.get("notes", ()):
            render.note(one)
        if body["delivered"]:
            render.note("its holder's node has it now")
        else:
            render.note(f"not delivered: {body['because']}")
            what = out or "what is printed here"
            render.note(f"carry {what} to its holder: aigrid credential import FILE")
        for one in body["chain"] if out is None else ():
            render.say(one)

    show(body, person, as_json=as_json)


def _verified_alone(lines: list[str]) -> dict[str, Any]:
    """What can be said of a chain without a node: all but revocation."""
    from aigrid.node.policy.links import in_order
    from aigrid.protocol.chain import check_form
    from aigrid.protocol.record import verify as verify_record

    found: dict[str, Any] = {"ok": True, "code": "", "message": "", "links": []}
    try:
        chain = in_order([verify_record(line.encode("utf-8"), now_ms=now_ms()) for line in lines])
    except AigridError as error:
        return {**found, "ok": False, "code": error.code.value, "message": error.message}
    broken = check_form(chain, chain[-1].subject)
    if broken is not None:
        found |= {"ok": False, "code": broken.code.value, "message": broken.text}
    links = [
        {"id": link.content_id, "issuer": link.issuer, "holder": link.subject, "standing": ""}
        for link in chain
    ]
    return {**found, "owner": chain[0].issuer, "holder": chain[-1].subject, "links": links}


def _show_verdict(body: dict[str, Any]) -> None:
    if not body["ok"]:
        render.say(f"Refused: {body['code']}: {body['message']}. {_next_step(body['code'])}")
        return
    checked = "form, signatures, narrowing and dates"
    if all(link["standing"] for link in body["links"]):
        render.say(f"Good: {checked} hold, and nothing is revoked.")
    else:
        render.say(f"Good as far as can be told without a node: {checked} hold.")
    render.say(f"Held by {body['holder']}, from {body['owner']}")


def _show_chain(body: dict[str, Any]) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    for link in body["links"]:
        console.print_json(data=link["record"], ensure_ascii=True)
        render.say(f"{link['id']} is {link['standing']}", style="bold")
        render.say(f"{link['holder']} may {what_of(link.get('permission', {}))}")
    if body["ok"]:
        render.say("It holds.")
    else:
        render.say(f"It does not hold: {body['code']}: {body['message']}.")


def _show_list(body: dict[str, Any]) -> None:
    """Lines that nothing wraps: ids and DIDs are made to be copied."""
    for one in body["credentials"]:
        render.say(one["id"], style="bold")
        render.say(f"    {one['kind']}, {one['standing']}, until {one['valid_until']}")
        render.say(f"    from {one['issuer']}")
        render.say(f"    to   {one['holder']}")
        render.say(f"    may  {what_of(one.get('permission', {}))}")
    if not body["credentials"]:
        render.say("No credentials yet: aigrid credential issue --to DID ...")


def _next_step(code: str) -> str:
    return CODES[Code(code)].next_step
