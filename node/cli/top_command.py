"""`aigrid top`: how busy this node is, or all members are, again and again."""

import math
import sys
import threading
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from aigrid.node.cli.session import Json, Session, print_json, session
from aigrid.node.cli.top_table import Line, layout
from aigrid.protocol.errors import UsageError

_PIPE_WIDTH = 100  # of a line that goes to no terminal


def show_top(
    ctx: typer.Context,
    *,
    grid: Annotated[bool, typer.Option("--grid", help="All members, not only this node.")] = False,
    once: Annotated[bool, typer.Option("--once", help="Print one table, and end.")] = False,
    interval: Annotated[
        float, typer.Option(min=0.5, max=3600.0, help="Seconds between two looks.")
    ] = 2.0,
    as_json: Json = False,
) -> None:
    """How busy this node is, or with --grid all members.

    Requests, tokens per second, latency and memory. Ends with Ctrl-C; at once with --once, with
    --json, and where the output is no terminal.
    """
    here = session(ctx)
    if math.isnan(interval):  # neither below the least nor above the most
        raise UsageError("--interval is no number of seconds")
    body = _look(here, grid=grid)
    if as_json:
        print_json(body)
    elif once or not sys.stdout.isatty():
        console = Console(highlight=False, soft_wrap=True)
        width = console.width if sys.stdout.isatty() else _PIPE_WIDTH
        console.print(_drawn(layout(body, width=width)))
    else:
        _watch(here, body, grid=grid, interval=interval)


def _look(here: Session, *, grid: bool) -> dict[str, Any]:
    return here.call("top", {"grid": grid})


def _watch(here: Session, body: dict[str, Any], *, grid: bool, interval: float) -> None:
    console, pause = Console(highlight=False), threading.Event()
    try:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                width, height = console.size
                live.update(_drawn(layout(body, width=width, height=height)), refresh=True)
                pause.wait(interval)
                body = _look(here, grid=grid)
    except KeyboardInterrupt:
        return  # how one leaves it


def _drawn(lines: list[Line]) -> Group:
    return Group(*(Text(line.text, style=line.style, no_wrap=True) for line in lines))
