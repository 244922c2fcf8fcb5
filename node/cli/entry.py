"""The commands wired together, and the one place where a failure becomes an exit status.

0 done, 1 failed, 2 usage or environment, 3 denied, 4 no candidate, 130 interrupted. With `--json` a
failure is `{"error": {"code", "message"}}` on stdout, otherwise one sentence on stderr.
"""

import io
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from aigrid.node.cli import (
    capability_commands,
    credential_commands,
    delegate_commands,
    evaluate_commands,
    experience_command,
    grid_commands,
    id_commands,
    key_commands,
    model_commands,
    node_commands,
    policy_commands,
    pool_commands,
    publish_command,
    query_commands,
    receipt_commands,
    record_commands,
    run_command,
    top_command,
)
from aigrid.node.cli.session import Session, print_json, printable
from aigrid.node.control_client import expected_error
from aigrid.node.settings.setting import known_home, of_user
from aigrid.protocol.errors import CODES, EXIT_FAILED, EXIT_USAGE, Code

DISTRIBUTION = "aigrid-node"
EXIT_INTERRUPTED = 130
CRASH_FILE = "crash.log"

app = typer.Typer(
    name="aigrid",
    help="Pool machines and models into one inference grid without a centre.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(value: bool) -> None:  # noqa: FBT001 - the shape that typer calls
    if value:
        typer.echo(f"aigrid {version(DISTRIBUTION)}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def top(
    ctx: typer.Context,
    *,
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", help="The node's directory (AIGRID_DATA_DIR).")
    ] = None,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    ctx.obj = Session(_data_dir(data_dir))
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())
        raise typer.Exit(EXIT_USAGE)


app.command()(node_commands.up)
app.add_typer(id_commands.id_app, name="id")
app.command()(node_commands.status)
app.command()(node_commands.peers)
app.command("top")(top_command.show_top)
app.command()(node_commands.engines)
app.command()(grid_commands.invite)
app.command()(grid_commands.join)
app.command()(grid_commands.requests)
app.command()(grid_commands.approve)
app.command()(grid_commands.remove)
app.add_typer(delegate_commands.grid_app, name="grid")
app.add_typer(pool_commands.models_app, name="models")
app.command()(publish_command.publish)
app.command()(model_commands.withdraw)
app.command()(model_commands.find)
app.command()(model_commands.ask)
app.command("run")(run_command.run)
app.command()(evaluate_commands.evaluate)
app.command()(evaluate_commands.evaluations)
app.command()(experience_command.experience)
app.add_typer(capability_commands.capability_app, name="capability")
app.add_typer(credential_commands.credential_app, name="credential")
app.add_typer(policy_commands.policy_app, name="policy")
app.command()(query_commands.query)
app.command()(query_commands.export)
app.add_typer(record_commands.record_app, name="record")
app.add_typer(key_commands.key_app, name="key")
app.add_typer(receipt_commands.receipts_app, name="receipts")


def run(arguments: Sequence[str]) -> int:
    """Run one command line; the exit status. Nothing but an exit status leaves here."""
    as_json = "--json" in arguments
    _open_missing_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(
            stream, io.TextIOWrapper
        ):  # a terminal may know fewer letters than names have
            stream.reconfigure(errors="backslashreplace")
    try:
        status = app(list(arguments), standalone_mode=False, prog_name="aigrid")
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except BaseException as error:  # noqa: BLE001 - boundary: the process ends here, with a sentence
        if isinstance(error, SystemExit):
            return error.code if isinstance(error.code, int) else EXIT_FAILED
        return _failed(error, arguments, as_json=as_json)


def _open_missing_streams() -> None:
    """Have a stream that was closed read and write nothing; a file must not take its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = Path(os.devnull).open(mode, encoding="utf-8")  # noqa: SIM115 - open to the end
            setattr(sys, name, stream)


def _failed(error: BaseException, arguments: Sequence[str], *, as_json: bool) -> int:
    expected = expected_error(error)
    if expected is not None:
        help_ = _help_of(arguments)
        return _report(expected.code, expected.message, as_json=as_json, usage=help_)
    format_message = getattr(error, "format_message", None)
    if format_message is not None:  # what typer raises for a command line it cannot parse
        help_ = _help_of(arguments)
        return _report(Code.USAGE, str(format_message()), as_json=as_json, usage=help_)
    if isinstance(error, BaseExceptionGroup) and error.subgroup(KeyboardInterrupt) is not None:
        return EXIT_INTERRUPTED
    path = _write_crash_log(error, arguments)
    message = f"unexpected {type(error).__name__}: the details are in {path}"
    return _report(Code.INTERNAL, message, as_json=as_json)


def _help_of(arguments: Sequence[str]) -> str:
    """How to ask for the help of the command that was meant."""
    group: Any = typer.main.get_command(app)
    names = ["aigrid"]
    for word in arguments:
        following = getattr(group, "commands", {}).get(word)
        if following is not None:
            group = following
            names.append(word)
    return f"see `{' '.join(names)} --help`"


def _report(code: Code, message: str, *, as_json: bool, usage: str = "") -> int:
    info = CODES[code]
    if as_json:
        print_json({"error": {"code": code.value, "message": message}})
    else:
        sentence = " ".join(printable(message).split()).rstrip(".")
        if not any(mark in sentence for mark in "`;") and code is not Code.INTERNAL:
            step = usage if usage and code is Code.USAGE else info.next_step.rstrip(".")
            sentence += f"; {step[0].lower()}{step[1:]}"
        sys.stderr.write(f"aigrid: {sentence}{'' if sentence.endswith('?') else '.'}\n")
    return info.exit


def _write_crash_log(error: BaseException, arguments: Sequence[str]) -> Path:
    """Keep the traceback. The command's arguments may hold a prompt, so only its name is kept."""
    words = [word for word in arguments if not word.startswith("-")]
    command = next((word for word in words if word in _command_names()), "?")
    text = f"aigrid {version(DISTRIBUTION)}, python {sys.version.split()[0]}, command {command}\n"
    text += "".join(traceback.format_exception(error))
    for directory in (_data_dir_of(arguments), Path(tempfile.gettempdir())):
        path = directory / CRASH_FILE
        try:
            path.unlink(missing_ok=True)
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(text)
        except OSError:
            continue
        return path
    sys.stderr.write(text)
    return Path("stderr")


def _command_names() -> set[str]:
    registered = {
        info.name or getattr(info.callback, "__name__", "") for info in app.registered_commands
    }
    return registered | {str(group.name) for group in app.registered_groups}


def _data_dir(given: Path | None) -> Path:
    if given is not None:
        return of_user(given).absolute()
    from aigrid.node.settings.config import default_data_dir

    return default_data_dir(os.environ, known_home())


def _data_dir_of(arguments: Sequence[str]) -> Path:
    """The data directory of a command line that may not have been parsed to the end."""
    for index, word in enumerate(arguments):
        if word == "--data-dir" and index + 1 < len(arguments):
            return _data_dir(Path(arguments[index + 1]))
        if word.startswith("--data-dir="):
            return _data_dir(Path(word.removeprefix("--data-dir=")))
    return _data_dir(None)
