"""Commands about receipts: receipts, receipts show, receipts verify."""

import re
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from aigrid.node.cli import render
from aigrid.node.cli.session import Json, now_ms, read_limited, session, show
from aigrid.protocol.errors import CODES, EXIT_FAILED, Code, UsageError, VerificationError
from aigrid.protocol.limits import LIMITS

receipts_app = typer.Typer(invoke_without_command=True, help="What was served and asked for.")

_SINCE = re.compile(r"([0-9]{1,6})([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_LISTED = {"what": "what", "model": "model", "peer": "peer", "actor": "actor"}
_NOTHING = "Nothing was served or asked for yet."
_SUMMED = {"role": "role", "segments": "segments", "tokens": "tokens", "seconds": "seconds"}


class RoleOption(StrEnum):
    """Which end this node was."""

    SERVED = "served"
    ASKED = "asked"


class StateOption(StrEnum):
    """What there is to show for a segment."""

    RECEIPTED = "receipted"
    UNRECEIPTED = "unreceipted"
    DISPUTED = "disputed"


class TotalsOption(StrEnum):
    """What to sum by."""

    ACTOR = "actor"
    MODEL = "model"
    PEER = "peer"


@receipts_app.callback()
def receipts(
    ctx: typer.Context,
    *,
    role: Annotated[RoleOption | None, typer.Option(help="Which end this node was.")] = None,
    state: Annotated[
        StateOption | None, typer.Option(help="Whether there is a receipt that holds.")
    ] = None,
    actor: Annotated[
        str, typer.Option(help="Who asked: a name here, or the DID that presented.")
    ] = "",
    model: Annotated[str, typer.Option(help="Its name or id.")] = "",
    peer: Annotated[str, typer.Option(metavar="DID", help="The other node; or its PeerId.")] = "",
    since: Annotated[str, typer.Option(metavar="TIME", help="Such as 90m, 12h, 1d or 2w.")] = "",
    limit: Annotated[int, typer.Option(help="At most so many.")] = 50,
    totals: Annotated[TotalsOption | None, typer.Option(help="Sums instead of a list.")] = None,
    as_json: Json = False,
) -> None:
    """List what this node served and asked for, newest first; or sum it up."""
    if ctx.invoked_subcommand is not None:
        return
    params: dict[str, Any] = {
        "role": "" if role is None else role.value,
        "state": "" if state is None else state.value,
        "actor": actor,
        "model": model,
        "peer": peer,
        "since_seconds": _seconds(since),
        "limit": limit,
    }
    if totals is None:
        body = session(ctx).call("receipts", params)
    else:
        body = session(ctx).call("receipt_totals", {**params, "by": totals.value})
    filtered = any(value for name, value in params.items() if name != "limit")
    empty = "Nothing kept fits these filters." if filtered else _NOTHING
    show(body, partial(_list if totals is None else _sum, empty), as_json=as_json)


@receipts_app.command("show")
def show_receipt(
    ctx: typer.Context,
    receipt: Annotated[str, typer.Argument(metavar="ID", help="Its id, or the end of it.")],
    *,
    salt: Annotated[
        bool, typer.Option("--salt", help="Give the salt: who has it can test guesses.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the receipt there, as it was signed.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Print a receipt, verified anew, or what is known of a segment without one."""
    body = session(ctx).call("receipt_show", {"id": receipt, "salt": salt})
    if out is not None:
        _write(out, body["record"])
    show(body, _show if out is None else partial(_written, out), as_json=as_json)
    if not body["verified"]["ok"]:
        raise typer.Exit(CODES[Code(body["verified"]["code"])].exit)


@receipts_app.command()
def verify(
    ctx: typer.Context,
    receipt: Annotated[
        str, typer.Argument(metavar="ID|FILE", help="Its id, or the end of it; or a record.")
    ],
    request: Annotated[
        Path, typer.Option(metavar="FILE", help="A body for OpenAI's API, or of SPEC.md.")
    ],
    *,
    salt: Annotated[
        str, typer.Option(metavar="HEX", help="Of a FILE; no node is needed then.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Check whether a receipt is of a request."""
    body = read_limited(request, LIMITS.body_max_bytes)
    if salt or Path(receipt).is_file():
        found = _prove(Path(receipt), body, salt)
    else:
        params = {"id": receipt, "request": body.decode("utf-8", "replace")}
        found = session(ctx).call("receipt_prove", params)
    show(found, _proved, as_json=as_json)
    if not (found["ok"] and found["request"]):
        raise typer.Exit(EXIT_FAILED)


def _seconds(since: str) -> int:
    """How long ago. Raises UsageError."""
    if not since:
        return 0
    parts = _SINCE.fullmatch(since)
    if parts is None or not int(parts[1]):
        raise UsageError("--since takes a number and one of s, m, h, d, w: such as 12h")
    return int(parts[1]) * _SECONDS[parts[2]]


def _write(path: Path, record: Any) -> None:
    """The bytes that were signed: what is kept is canonical, and only that verifies."""
    from aigrid.protocol.canonical import canonical

    if record is None:
        raise UsageError("nothing that was signed is kept of this segment: there is no receipt")
    try:
        path.write_bytes(canonical(record))
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None


def _prove(path: Path, request: bytes, salt: str) -> dict[str, Any]:
    """What a FILE proves; `because` where it is no receipt at all."""
    from aigrid.node.policy.receipt_proof import hashes_of, proved, requests_in
    from aigrid.protocol.receipt import SALT_BYTES
    from aigrid.protocol.record import check_time, verify_form_and_signature

    if not re.fullmatch(f"[0-9a-f]{{{2 * SALT_BYTES}}}", salt):
        raise UsageError("give the salt with --salt, as `aigrid receipts show ID --salt` prints it")
    raw = read_limited(path, LIMITS.record_max_bytes + 2).rstrip(b"\r\n")
    asked = requests_in(request)
    try:
        record = verify_form_and_signature(raw)
        hashes = hashes_of(record)
    except VerificationError as error:
        because = f"{path} is no receipt as it was signed: {error.message}"
        none = {"ok": False, "code": error.code.value, "request": False, "prefix": False}
        return {**none, "because": because}
    code = ""
    try:
        check_time(record, now_ms())
    except VerificationError as error:
        code = error.code.value
    return {"ok": not code, "code": code, **proved(hashes, bytes.fromhex(salt), *asked)}


def _list(empty: str, body: dict[str, Any]) -> None:
    listed = [
        {
            **one,
            "what": f"{one['role']} {one['kept']}, {one['state']}, {_tokens(one)},"
            f" {one['seconds']} s",
        }
        for one in body["receipts"]
    ]
    render.cards(listed, "id", _LISTED, empty=empty)
    if body["more"]:
        render.note("There are older ones: --limit, --since.")


def _sum(empty: str, body: dict[str, Any]) -> None:
    summed = [
        {
            **one,
            "segments": f"{one['segments']} of {one['requests']} requests:"
            f" {one['unreceipted']} unreceipted, {one['disputed']} disputed",
            "tokens": _tokens(one),
        }
        for one in body["totals"]
    ]
    render.cards(summed, body["by"], _SUMMED, empty=empty)
    if body["more"]:
        render.note("There are smaller ones: --limit.")


def _tokens(one: dict[str, Any]) -> str:
    return f"{one['prompt_tokens']} in, {one['completion_tokens']} out"


def _show(body: dict[str, Any]) -> None:
    from rich.console import Console

    for said in (body["record"], body["seen"]):
        if said is not None:
            console = Console(highlight=False, soft_wrap=True)
            console.print_json(data=said, ensure_ascii=True)
    verified = body["verified"]
    took = f"{body['began']} to {body['ended']}"
    lines = [
        ("Receipt", body["id"]),
        ("State", f"{body['state']}{', ' + body['code'] if body['code'] else ''}"),
        ("Verified", "form and signature, just now" if verified["ok"] else verified["message"]),
        ("This node", f"{body['role']}; the other is {body['peer']}"),
        ("Actor", body["actor"] or "-"),
        ("Took", took),
        ("Check", f"aigrid receipts verify {body['id']} --request FILE"),
    ]
    if "salt" in body:
        lines.append(("Salt", body["salt"]))
    for label, text in lines:
        render.say(f"{label:<12}{text}")


def _written(path: Path, body: dict[str, Any]) -> None:
    render.say(f"{body['id']} is in {path}, as it was signed.")
    if not body["verified"]["ok"]:
        render.say(f"It does not hold: {body['verified']['message']}.")
    if "salt" in body:
        render.say(f"{'Salt':<12}{body['salt']}")


def _proved(body: dict[str, Any]) -> None:
    if "because" in body:
        render.say(f"{body['because']}.")
        render.say("`aigrid receipts show ID --out FILE` writes one.")
        return
    if not body["request"]:
        render.say("It is not of this request.")
    elif not body["prefix"]:
        render.say("It is of this request, for a segment that goes on from output before it.")
    else:
        render.say("It is of this request.")
    if not body["ok"]:
        render.say(f"No receipt that holds: {body['code']}.")
