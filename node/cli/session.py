"""What every command shares: the data directory, the way to the node, and how results leave."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from aigrid.node.control_client import SOCKET_FILE, ControlClient
from aigrid.protocol.errors import UsageError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")]
Event = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Session:
    """Where this invocation's node lives."""

    data_dir: Path

    @property
    def client(self) -> ControlClient:
        return ControlClient(self.data_dir / SOCKET_FILE)

    def call(
        self, method: str, params: dict[str, Any] | None = None, on_event: Event | None = None
    ) -> dict[str, Any]:
        """Run a command of the running node. Raises AigridError."""
        return self.client.call(method, params or {}, on_event)


def session(ctx: typer.Context) -> Session:
    """The session that the top-level callback made.

    Raises UsageError for an option that is given, but empty: a variable that a script forgot.
    """
    _refuse_empty(ctx)
    found = ctx.find_object(Session)
    if found is None:
        raise RuntimeError("no session: the top-level callback did not run")
    return found


def _refuse_empty(ctx: typer.Context) -> None:
    for parameter in ctx.command.params:
        given = ctx.params.get(parameter.name or "")
        option = parameter.opts[-1]
        source = ctx.get_parameter_source(parameter.name or "")
        if not option.startswith("--") or source is None or source.name != "COMMANDLINE":
            continue
        if given == Path() and parameter.name != "data_dir":
            raise UsageError(f"{option} names no file: leave it out, or give one")
        if given == "" or (isinstance(given, list | tuple) and "" in given):
            raise UsageError(f"{option} is empty: leave it out, or say what")


def show(body: dict[str, Any], person: Callable[[dict[str, Any]], None], *, as_json: bool) -> None:
    """Print a result: as one line of JSON, or as `person` shows it."""
    if as_json:
        print_json(body)
    else:
        person(body)


def print_json(body: dict[str, Any]) -> None:
    text = json.dumps(body, ensure_ascii=False)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:  # a name that is no text, or letters that the stream does not know
        text = json.dumps(body)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def printable(value: object) -> str:
    """`value` without control characters.

    Names and answers come from other machines, and a terminal obeys what it is sent.
    """
    return "".join(c for c in str(value) if c in "\n\t" or c.isprintable())


def now_ms() -> int:
    """Wall time in milliseconds since the epoch."""
    return int(datetime.now(tz=UTC).timestamp() * 1000)


def read_limited(path: Path, limit_bytes: int) -> bytes:
    """At most one byte more than `limit_bytes` of a file. Raises UsageError."""
    try:
        with path.open("rb") as file:
            return file.read(limit_bytes + 1)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
