"""Commands about membership: invite, join, requests, approve, remove."""

import sys
from typing import Annotated, Any

import typer

from aigrid.node.cli import render
from aigrid.node.cli.session import Event, Json, Session, now_ms, session, show
from aigrid.protocol.errors import AigridError, Code, UsageError
from aigrid.protocol.limits import LIMITS

Did = Annotated[str, typer.Argument(metavar="DID", help="What `aigrid id` prints over there.")]


def invite(ctx: typer.Context, did: Did, *, as_json: Json = False) -> None:
    """Print an invitation bound to one key, for use once."""

    def person(body: dict[str, Any]) -> None:
        render.note(f"valid until {body.get('expires')}; over there run: aigrid join INVITATION")
        render.say(str(body["invitation"]))

    show(session(ctx).call("invite", {"did": did}), person, as_json=as_json)


def join(
    ctx: typer.Context,
    invitation: Annotated[
        str | None,
        typer.Argument(metavar="INVITATION", help="As `aigrid invite` printed it; - for stdin."),
    ] = None,
    grid: Annotated[
        str | None, typer.Option(help="Without an invitation: the DID of the grid to ask.")
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """Join a grid by an invitation, or one on the local network."""
    here = session(ctx)
    if invitation is None:
        body = _ask_to_join(here, grid or _choose(here, as_json=as_json), as_json=as_json)
    elif grid is not None:
        raise UsageError("an invitation already names its grid: leave out --grid")
    else:
        body = _redeem(
            here, sys.stdin.read(LIMITS.invitation_max_chars) if invitation == "-" else invitation
        )
    show(body, _show_joined, as_json=as_json)


def requests(ctx: typer.Context, *, as_json: Json = False) -> None:
    """Who asks to be let in; compare the code before you approve."""
    labels = {"code": "code", "name": "name", "did": "DID"}
    show(
        session(ctx).call("requests"),
        lambda body: render.cards(body["requests"], "id", labels, empty="Nobody is waiting."),
        as_json=as_json,
    )


def approve(
    ctx: typer.Context,
    request: Annotated[str, typer.Argument(metavar="ID", help="From `aigrid requests`.")],
    *,
    as_json: Json = False,
) -> None:
    """Let in who shows the same code as `aigrid requests` does."""
    show(
        session(ctx).call("approve", {"id": request}),
        lambda _: render.say("Approved."),
        as_json=as_json,
    )


def remove(ctx: typer.Context, did: Did, *, as_json: Json = False) -> None:
    """Revoke a membership; it is cut off at once. For the authority's node, or a delegate's."""
    show(
        session(ctx).call("remove", {"did": did}),
        lambda _: render.say("Removed."),
        as_json=as_json,
    )


def _redeem(here: Session, text: str) -> dict[str, Any]:
    """Through the running node; or, if there is none, keep the invitation for `up`."""
    try:
        return here.call("join", {"invitation": text})
    except UsageError as not_running:
        if not_running.code is not Code.NOT_RUNNING:
            raise
    from aigrid.node.key_store.keys import (
        data_directory_lock,
        own_did,
        store_pending_invitation,
    )
    from aigrid.protocol.membership import check_invitation, invitation_text, parse_invitation

    try:
        with data_directory_lock(here.data_dir):
            did = own_did(here.data_dir)
            record, body = check_invitation(parse_invitation(text)[0].raw, did=did, now_ms=now_ms())
            store_pending_invitation(here.data_dir, invitation_text(record))
    except UsageError as error:
        if error.code is not Code.ALREADY_RUNNING:
            raise
        raise UsageError(
            "the node is just starting or stopping: run `aigrid join` again", error.code
        ) from None
    return {"grid": body.grid, "state": "pending"}


def _choose(here: Session, *, as_json: bool) -> str:
    """The one grid that is seen nearby, or the one that the person picks."""
    grids = here.call("nearby")["grids"]
    if not grids:
        raise AigridError(
            "no other grid is seen on this network: use an invitation (`aigrid invite DID` there)",
            Code.UNREACHABLE,
        )
    if len(grids) == 1:
        return str(grids[0]["grid"])
    if as_json or not sys.stdin.isatty():
        listed = ", ".join(str(seen["grid"]) for seen in grids)
        raise UsageError(f"several grids are seen: name one with `--grid DID`: {listed}")
    for number, seen in enumerate(grids, start=1):
        render.say(f"{number}. {seen['name'] or '-'}: {seen['grid']}")
    number = typer.prompt("Which one", type=int)
    if not 1 <= number <= len(grids):
        raise UsageError(f"choose a number from 1 to {len(grids)}")
    return str(grids[number - 1]["grid"])


def _ask_to_join(here: Session, grid: str, *, as_json: bool) -> dict[str, Any]:
    def on_event(event: dict[str, Any]) -> None:
        if "code" in event:
            say = render.note if as_json else render.say
            say(f"Code: {event['code']}. It must be the one that `aigrid requests` shows there.")
            say("Waiting for `aigrid approve` over there; Ctrl-C gives up.")

    handler: Event = on_event
    return here.call("join_request", {"grid": grid}, handler)


def _show_joined(body: dict[str, Any]) -> None:
    if body.get("state") == "pending":
        render.say(f"The invitation to {body['grid']} is kept; `aigrid up` will redeem it.")
    else:
        render.say(f"This node is a member of {body['grid']}.")
