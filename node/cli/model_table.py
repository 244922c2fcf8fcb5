"""A row for each model, within 100 columns and seldom more than 80. In full: model_cards.

Names and ids are whole and on one line, as they are made to be copied: one that is too long for its
column has a line of its own above the row. Models of one name have their ids below their rows.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.cells import cell_len, set_cell_size

from aigrid.node.cli import render
from aigrid.node.cli.model_cards import unloads
from aigrid.node.cli.session import printable

_HEADINGS: Final = ("NAME", "TASK", "WARM ON", "HERE", "MEMORY", "UNLOADS")
_WIDTHS: Final = (24, 20, 8, 20, 8, 10)  # at most, in columns; with the gaps 100
_GAP: Final = "  "
_UNLOADS: Final = {
    "never: it is pinned": "never",
    "not while it is in use": "when idle",
    "when its memory is needed": "if needed",
}


def show_table(models: Sequence[Mapping[str, Any]]) -> None:
    """Name, task, nodes where it is loaded of those that offer it, how it stands here; notes."""
    called = Counter(_name(model) for model in models)
    rows = [_row(model) for model in models]
    widths = [
        min(most, max(cell_len(row[column]) for row in (_HEADINGS, *rows)))
        for column, most in enumerate(_WIDTHS)
    ]
    render.say(_line(_HEADINGS, widths), style="bold")
    for model, row in zip(models, rows, strict=True):
        name, *others = row
        if cell_len(name) > widths[0]:
            render.say(name)
            name = ""
        render.say(_line((name, *others), widths))
        if called[_name(model)] > 1:
            render.say(f"    {_word(model['model'])}")
    for model in models:
        if problem := (model.get("here") or {}).get("problem"):
            render.note(f"{_name(model)}: {_word(problem)}")


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    sized = (set_cell_size(cell, width) for cell, width in zip(cells, widths, strict=True))
    return _GAP.join(sized).rstrip()


def _row(model: Mapping[str, Any]) -> tuple[str, ...]:
    use = model.get("here") or {}
    loaded = use.get("state") == "warm"
    memory = render.size_text(sum(use["memory"].values())) if loaded and use["memory"] else "-"
    gone = unloads(use) if loaded else "-"
    warm = len(model.get("warm", ()))
    offers = warm + sum(len(model.get(state, ())) for state in ("loading", "on_disk", "can_fetch"))
    return (
        _name(model),
        _task(model),
        f"{warm} of {offers}" if offers else "-",
        _here(use, model.get("fetching") or {}),
        memory,
        _UNLOADS.get(gone, gone),
    )


def _name(model: Mapping[str, Any]) -> str:
    return _word(model.get("name") or model["model"])


def _task(model: Mapping[str, Any]) -> str:
    """The first capability; of one that lives under somebody's DID, what it is called there."""
    first = next(iter(model.get("capabilities", ())), "-")
    text = _word(first).rpartition("#")[2]
    return text if cell_len(text) <= _WIDTHS[1] else set_cell_size(text, _WIDTHS[1] - 1) + "…"


def _here(use: Mapping[str, Any], fetching: Mapping[str, Any]) -> str:
    if not use:
        return f"fetching {fetching['percent']} %" if fetching else "-"
    state = {"warm": "loaded", "loading": "loading"}.get(use["state"], "on disk")
    more = ", withheld" if use["problem"] else ", pinned" if use["pinned"] else ""
    if state == "loading":
        text = _share(state, use.get("progress", "")) + more
        return text if len(text) <= _WIDTHS[3] else state + more
    return state + more


def _share(doing: str, text: object) -> str:
    """`doing`, with the percentage of a text such as "building the graph: 43 %", if it has one."""
    before, mark, _ = str(text).partition(" %")
    number = before.rpartition(" ")[2]
    return f"{doing} {number} %" if mark and number.isdecimal() and len(number) <= 3 else doing


def _word(text: object) -> str:
    """On one line, whoever wrote it."""
    return " ".join(printable(text).split())
