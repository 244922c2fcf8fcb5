"""Commands about capabilities of one's own: publish, withdraw."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from aigrid.node.cli import render
from aigrid.node.cli.session import Json, read_limited, session, show
from aigrid.protocol.errors import UsageError
from aigrid.protocol.limits import LIMITS

capability_app = typer.Typer(help="Capabilities of one's own.", no_args_is_help=False)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Such as legal-summarization.")]


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
    as_json: Json = False,
) -> None:
    """Define a capability in this node's own namespace, below known ones."""
    params = {
        "name": name,
        "broader": broader,
        "labels": {language: label},
        "input_schema": _schema(input_schema),
        "output_schema": _schema(output_schema),
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
