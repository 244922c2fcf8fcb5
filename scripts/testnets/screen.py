"""Where a run is shown: a live table at a terminal, lines elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.text import Text
from scripts.testnets.figures import answered
from scripts.testnets.run import Run, Screen
from scripts.testnets.table import Row, line, screen


class Terminal:
    """One table that changes."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._event = ""

    def say(self, what: str) -> None:
        self._live.update(Text(what))

    def event(self, at_seconds: float, what: str) -> None:
        self._event = f"; {at_seconds:.0f} s: {what}"

    def show(self, run: Run, rows: list[Row], at_seconds: float) -> None:
        came = answered(run.workload.outcomes if run.workload else [])
        until = f" of {run.options.duration:g}" if run.options.duration else ", Ctrl-C ends it"
        title = f"{at_seconds:.0f} s{until}{self._event}"
        done = run.chaos.done if run.chaos else run.facts.done
        self._live.update(screen(rows, came, done, title))


class Lines:
    """For logs: a line each time."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said = ""

    def say(self, what: str) -> None:
        beginning = what.partition(":")[0]
        if beginning != self._said:
            self._said = beginning
            self._print(beginning)

    def event(self, at_seconds: float, what: str) -> None:
        self._print(f"{at_seconds:6.0f} s  {what}")

    def show(self, run: Run, rows: list[Row], at_seconds: float) -> None:
        came = answered(run.workload.outcomes if run.workload else [])
        self._print(line(rows, came, run.chaos.done if run.chaos else run.facts.done, at_seconds))

    def _print(self, what: str) -> None:
        self._console.print(what, markup=False, soft_wrap=True)


@contextmanager
def screen_for() -> Iterator[Screen]:
    """On standard output."""
    console = Console(highlight=False, emoji=False)
    if not console.is_terminal:
        yield Lines(console)
        return
    with Live(console=console, refresh_per_second=4) as live:
        yield Terminal(live)
