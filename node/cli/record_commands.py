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
    as_json: Json = False,
) -> None:
    """Print a record as it was signed; with --json, byte for byte."""
    from aigrid.protocol.canonical import canonical

    body = session(ctx).call("record_show", {"id": record})
    document = body.get("record", body)
    if as_json:
        typer.echo(canonical(document).decode("utf-8"))
    else:
        from rich.console import Console

        Console(highlight=False, soft_wrap=True).print_json(data=document, ensure_ascii=True)


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
