"""How results look to a person.

Whatever came from another machine is stripped of control characters and printed without markup.
"""

import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from aigrid.node.cli.session import Event, printable

Columns = Mapping[str, str]
_PAIR_MIN_WIDTH = 40


def say(text: str, *, style: str = "") -> None:
    """One line on stdout, wrapped by nobody: ids and commands are made to be copied."""
    Console(highlight=False, soft_wrap=True).print(Text(printable(text), style=style))


def note(text: str) -> None:
    """A remark beside the result, on stderr."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(Text(printable(text), style="dim"))


@contextmanager
def progress(what: str) -> Iterator[Event]:
    """A line on stderr while something takes long; give it the events that say how far it is."""
    with Console(stderr=True).status(Text(printable(what))) as status:
        yield lambda event: status.update(Text(printable(event.get("progress", what))))


@contextmanager
def meanwhile() -> Iterator[Callable[[str], None]]:
    """A line on stderr for as long as the text that it was last given is not empty."""
    status = Console(stderr=True).status("")

    def show(text: str) -> None:
        if text:
            status.update(Text(printable(text)))
            status.start()
        else:
            status.stop()

    try:
        yield show
    finally:
        status.stop()


def rows(items: Iterable[Mapping[str, Any]], columns: Columns, *, empty: str) -> None:
    """A table of `items`: `columns` maps a member to its heading. `empty` is said for none."""
    found = list(items)
    if not found:
        say(empty)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in columns.values():
        table.add_column(heading, overflow="fold")
    for item in found:
        table.add_row(*(Text(_cell(item.get(member))) for member in columns))
    Console(highlight=False).print(table)


def cards(items: Iterable[Mapping[str, Any]], title: str, labels: Columns, *, empty: str) -> None:
    """`items` one below the other, in lines that nothing wraps: ids and DIDs are to be copied.

    A line for the member `title`, and one for each of `labels` of which there is something.
    """
    found = list(items)
    if not found:
        say(empty)
    width = max(len(label) for label in labels.values())
    for item in found:
        say(_cell(item.get(title)) or "-", style="bold")
        for member, label in labels.items():
            value = _cell(item.get(member))
            if value not in ("", "-"):
                say(f"    {label:<{width}} {value}")


def pairs(body: Mapping[str, Any], labels: Columns) -> None:
    """What there is of each member, beside its label; wrapped between words, never inside an id."""
    texts = {label: _cell(body.get(member), bare=True) for member, label in labels.items()}
    width = max((len(label) for label in labels.values()), default=0) + 2
    room = max(Console().width - width, _PAIR_MIN_WIDTH)
    for label, text in texts.items():
        lines = textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False)
        for number, line in enumerate(lines):
            say(f"{'' if number else label:<{width}}{line}")


def ready(event: Mapping[str, Any], command: str) -> None:
    """What `up` says once the node serves; `command` starts the commands it suggests."""
    gateway = str(event.get("gateway", ""))
    base = gateway if gateway.startswith("http") else f"http://{gateway}"
    lines = Text()
    for label, value in (
        ("Grid     ", event.get("grid", "")),
        ("Node     ", event.get("peer_id", "")),
        ("Gateway  ", f"{base.rstrip('/')}/v1"),
        ("SHA-256  ", event.get("tls_fingerprint", "")),
    ):
        if not value:
            continue
        lines.append(label, style="bold")
        lines.append(f"{printable(value)}\n")
    lines.append("\nIn another terminal:\n", style="dim")
    suggestions = [
        ("models fetch smollm2", "bring the starter model"),
        ('ask "What is a grid?"', "ask it"),
    ]
    if event.get("authority"):  # nobody else can
        suggestions.append(("invite DID", "let another machine in (its DID: `aigrid id` there)"))
    for suggestion, why in suggestions:
        lines.append(f"  {command} {suggestion}", style="cyan")
        lines.append(f"   {why}\n", style="dim")
    lines.append("\nCtrl-C stops the node.", style="dim")
    # No box: what is made to be copied may be wider than the terminal.
    console = Console(highlight=False, soft_wrap=True)
    console.print(Text("AIGrid node is ready\n", style="bold green"))
    console.print(lines)


def _cell(value: Any, *, bare: bool = False) -> str:
    """`value` as text; `bare` leaves out of a group whatever is nothing or none."""
    if value is None:
        return "" if bare else "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        if all(isinstance(item, str) for item in value):
            return printable(", ".join(value)) or ("" if bare else "-")
        return str(len(value))
    if isinstance(value, dict):
        told = (_member(str(key), inner, bare=bare) for key, inner in value.items())
        return printable(", ".join(text for text in told if text))
    return printable(value)


def _member(key: str, value: Any, *, bare: bool) -> str:
    """A member of a group, in words where `bare`; "" where it is left out."""
    if not bare:
        return f"{key} {_cell(value)}"
    name = key.removesuffix("_bytes")
    sized = name != key and isinstance(value, int)
    text = size_text(value) if sized else _cell(value, bare=True)
    if not value or not text:
        return ""
    return f"{name.replace('_', ' ')} {f'({text})' if isinstance(value, dict) else text}"


def size_text(size_bytes: int) -> str:
    """A size in the largest unit of which it has one, in at most 8 characters up to 1023 TiB."""
    for unit, size in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size_bytes >= size:
            precise = size >= 1 << 30 and size_bytes < 99 * size
            return f"{size_bytes / size:.1f} {unit}" if precise else f"{size_bytes // size} {unit}"
    return f"{size_bytes} B"
