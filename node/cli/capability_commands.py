"""Commands about capabilities: what there is, and those of one's own: publish, withdraw."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from aigrid.node.cli import render
from aigrid.node.cli.session import Json, printable, read_limited, session, show
from aigrid.protocol.errors import UsageError
from aigrid.protocol.limits import LIMITS

capability_app = typer.Typer(help="What can be asked for.", no_args_is_help=False)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Such as legal-summarization.")]


@capability_app.command("list")
def list_all(ctx: typer.Context, *, as_json: Json = False) -> None:
    """Every capability that is known here, and how many models have it."""
    show(session(ctx).call("capabilities"), _table, as_json=as_json)


@capability_app.command("show")
def show_one(ctx: typer.Context, name: Name, *, as_json: Json = False) -> None:
    """What goes in and comes out, and which models can be asked."""
    show(session(ctx).call("capability_show", {"name": name}), _whole, as_json=as_json)


@capability_app.command()
def publish(
    ctx: typer.Context,
    name: Name,
    *,
    broader: Annotated[
        list[str], typer.Option(help="A capability that whatever offers this offers too.")
    ],
    label: Annotated[str, typer.Option(help="What people read.")],
    language: Annotated[str, typer.Option(help="Of the label.")] = "en",
    input_schema: Annotated[
        Path | None, typer.Option(help="JSON Schema of the input, a file.")
    ] = None,
    output_schema: Annotated[
        Path | None, typer.Option(help="JSON Schema of the output, a file.")
    ] = None,
    parameters_schema: Annotated[
        Path | None, typer.Option(help="JSON Schema of the settings of a request, a file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Define a capability in this node's own namespace, below known ones."""
    params = {
        "name": name,
        "broader": broader,
        "labels": {language: label},
        "input_schema": _schema(input_schema),
        "output_schema": _schema(output_schema),
        "parameters_schema": _schema(parameters_schema),
    }
    show(
        session(ctx).call("capability_publish", params),
        lambda body: render.say(f"Published {body['capability']}"),
        as_json=as_json,
    )


@capability_app.command()
def withdraw(ctx: typer.Context, name: Name, *, as_json: Json = False) -> None:
    """Take a capability of this node's back."""
    show(
        session(ctx).call("capability_withdraw", {"name": name}),
        lambda _: render.say("Withdrawn."),
        as_json=as_json,
    )


def _schema(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        schema = json.loads(read_limited(path, LIMITS.record_max_bytes))
    except (ValueError, RecursionError):
        schema = None
    if not isinstance(schema, dict):
        raise UsageError(f"{path} is not a JSON Schema: it has to be a JSON object")
    return schema


def _table(body: dict[str, Any]) -> None:
    columns = {"name": "Capability", "label": "", "models": "Models"}
    rows = ({**one, "models": one["models"] or ""} for one in body["capabilities"])
    render.rows(rows, columns, empty="Nothing is known.")
    groups = [str(one["name"]) for one in body["capabilities"] if not one["askable"]]
    if groups:
        render.note(f"groups, which `run` does not take: {', '.join(groups)}")


def _whole(body: dict[str, Any]) -> None:
    render.say(printable(f"{body['name']}: {body['label']}"))
    if not body["askable"]:
        render.say(f"{body['reason']}.")
    for name in ("input", "output", "parameters"):
        if body[name]:
            render.say(f"{name}: {printable(json.dumps(body[name], ensure_ascii=False))}")
    for one in body["models"]:
        render.say(printable(f"  {one['name']} ({one['state']}, {one['nodes']} nodes)"))
