"""`aigrid experience`: how requests to nodes went, as this one remembers it."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

import typer

from aigrid.node.cli import render
from aigrid.node.cli.session import Json, session, show

_LINES: Final = {
    "capability": "does",
    "model": "model",
    "requests": "requests",
    "audits": "audits",
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
    cards = (
        {**one, "requests": _requests(one), "audits": _audits(one)} for one in body["experience"]
    )
    render.cards(cards, "node", _LINES, empty="Nothing is remembered yet.")
    if body["told"]:
        render.note(f"signed {len(body['told'])} AuditRecords")
    if body.get("untold"):
        render.note(
            f"{body['untold']} more nodes have to wait: this node tells of as many as it may"
        )


def _requests(one: Mapping[str, Any]) -> str:
    first_ms = one.get("latencyMs")
    first = f", {first_ms} ms to the first chunk" if first_ms else ""
    return f"{one.get('served', 0)} served, {one.get('failed', 0)} failed{first}"


def _audits(one: Mapping[str, Any]) -> str:
    checked, standing = one.get("audited", 0), one.get("standing")
    said = f"{checked} checked, {one.get('wrong', 0)} wrong" if checked else "none"
    return said if standing is None else f"{said}; standing {standing}"
