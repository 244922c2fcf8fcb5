"""Commands about records: show, verify (works without a node), import."""

from pathlib import Path
from typing import Annotated, Any

import typer

from aigrid.node.cli import render
from aigrid.node.cli.session import Json, now_ms, read_limited, session, show
from aigrid.protocol.errors import CODES, AigridError, Code, UsageError, VerificationError
from aigrid.protocol.limits import LIMITS

record_app = typer.Typer(help="Signed records.", no_args_is_help=False)

RecordFile = Annotated[Path, typer.Argument(metavar="FILE", help="A record in JSON.")]


@record_app.command("show")
def show_record(
    ctx: typer.Context,
    record: Annotated[str, typer.Argument(metavar="ID", help="Its content id.")],
    *,
    explain: Annotated[
        bool, typer.Option("--explain", help="With --json: the check and the origin, too.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Print a record, verify it anew, and say where it came from.

    With --json only the record, byte for byte as it was signed, unless --explain is given.
    """
    from aigrid.protocol.canonical import canonical

    body = session(ctx).call("record_show", {"id": record})
    if as_json and not explain:
        typer.echo(canonical(body["record"]).decode("utf-8"))
    else:
        show(body, _show_record, as_json=as_json)
    if not body["verified"]["ok"]:
        raise typer.Exit(CODES[Code(body["verified"]["code"])].exit)


def _show_record(body: dict[str, Any]) -> None:
    from rich.console import Console

    Console(highlight=False, soft_wrap=True).print_json(data=body["record"], ensure_ascii=True)
    verified = body["verified"]
    checked = "good" if verified["ok"] else f"{verified['code']}: {verified['message']}"
    peer = body["received_from"]
    origin = f" from {peer}" if peer else ", signed or imported on this node"
    for label, text in (
        ("Content id", body["id"]),
        ("Signed by", body["signer"]),
        ("Signature", f"{checked}, verified just now"),
        ("Valid", f"{body['valid_from']} to {body['valid_until']}"),
        ("State", f"{body['state']}: {body['because']}"),
        ("Received", f"{body['received']}{origin}"),
    ):
        render.say(f"{label:<12}{text}")


@record_app.command()
def verify(file: RecordFile, *, as_json: Json = False) -> None:
    """Check a record's form, signature and dates; no node is needed."""
    from aigrid.protocol.record import verify as verify_record

    code, message = None, ""
    try:
        verify_record(_read(file), now_ms=now_ms())
    except VerificationError as error:
        code, message = error.code, error.message
    _finish(code, message, as_json=as_json)


@record_app.command("import")
def import_record(ctx: typer.Context, file: RecordFile, *, as_json: Json = False) -> None:
    """Hand a record to the running node, which keeps it if it may."""
    raw = _read(file)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        _finish(Code.MALFORMED, "not UTF-8", as_json=as_json)
        return
    if len(raw) > LIMITS.record_max_bytes:
        _finish(Code.RECORD_TOO_LARGE, "the record is too large", as_json=as_json)
        return
    code, message = None, ""
    try:
        body = session(ctx).call("record_import", {"raw": text})
        if not body.get("ok"):
            code = Code(str(body.get("code")))
    except UsageError:
        raise
    except AigridError as error:
        code, message = error.code, error.message
    _finish(code, message, as_json=as_json)


def _read(file: Path) -> bytes:
    """A record's bytes: the newline that editors and shells put at the end is not part of it."""
    return read_limited(file, LIMITS.record_max_bytes + 2).rstrip(b"\r\n")


def _finish(code: Code | None, message: str, *, as_json: bool) -> None:
    def person(_: dict[str, Any]) -> None:
        if code is None:
            render.say("Good: form, signature and dates hold.")
        else:
            text = f"Refused: {code.value}{': ' if message else ''}{message}"
            render.say(f"{text}. {CODES[code].next_step}")

    body = {"ok": code is None, "code": "" if code is None else code.value}
    show(body, person, as_json=as_json)
    if code is not None:
        raise typer.Exit(CODES[code].exit)
