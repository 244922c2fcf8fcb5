"""`aigrid experience`: how requests to nodes went, as this one remembers it."""

from typing import Annotated, Any, Final

import typer

from aigrid.node.cli import render
from aigrid.node.cli.session import Json, session, show

_COLUMNS: Final = {
    "node": "NODE",
    "capability": "CAPABILITY",
    "model": "MODEL",
    "served": "SERVED",
    "failed": "FAILED",
    "latencyMs": "FIRST MS",
    "audited": "CHECKED",
    "wrong": "WRONG",
    "standing": "STANDING",
}


def experience(
    ctx: typer.Context,
    *,
    tell: Annotated[
        bool, typer.Option("--tell", help="Sign it, so that every member can read it.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show how requests to nodes went; what is old counts less."""
    body = session(ctx).call("experience", {"tell": True} if tell else {})
    show(body, _show, as_json=as_json)


def _show(body: dict[str, Any]) -> None:
    render.rows(body["experience"], _COLUMNS, empty="Nothing is remembered yet.")
    if body["told"]:
        render.note(f"signed {len(body['told'])} AuditRecords")
    if body.get("untold"):
        render.note(
            f"{body['untold']} more nodes have to wait: this node tells of as many as it may"
        )
