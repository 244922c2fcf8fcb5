"""`aigrid grid delegates`: nodes that stand in for the authority while its machine sleeps."""

from typing import Annotated, Any

import typer

from aigrid.node.cli import render
from aigrid.node.cli.session import Json, session, show
from aigrid.protocol.limits import LIMITS

grid_app = typer.Typer(help="The grid itself.", no_args_is_help=False)


@grid_app.command("delegates")
def delegates(
    ctx: typer.Context,
    dids: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="DID", help="Members that may revoke and renew; in place of those before."
        ),
    ] = None,
    *,
    quorum: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=LIMITS.status_delegates_max,
            show_default="more than half",
            help="How many of them have to be heard of where the authority is not.",
        ),
    ] = None,
    none: Annotated[bool, typer.Option("--none", help="Name nobody any more.")] = False,
    own: Annotated[
        bool, typer.Option("--own", help="For what this node itself issues: its grants.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Say who revokes and renews memberships while the authority sleeps; without DIDs, show it."""

    def person(body: dict[str, Any]) -> None:
        labels = {"heard": "last list"}
        render.cards(body["delegates"], "did", labels, empty="There are no delegates.")
        if body["delegates"]:
            render.note(
                f"{body['quorum']} of them have to be heard of where the issuer is not; "
                f"revocations are known up to {body['as_of'] or 'no time yet'}"
            )

    params = {"dids": dids or [], "quorum": quorum or 0, "none": none, "own": own}
    show(session(ctx).call("delegates", params), person, as_json=as_json)
