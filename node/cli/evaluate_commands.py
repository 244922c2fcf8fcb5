"""`aigrid evaluate` and `aigrid evaluations`: how good models are, and who says so."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from aigrid.node.cli import render
from aigrid.node.cli.run_command import pairs
from aigrid.node.cli.session import Json, session, show
from aigrid.node.settings.setting import of_user

_MEASURED: Final = {
    "name": "MODEL",
    "shown": "VALUE (95 %)",
    "unanswered": "UNANSWERED",
    "seconds_per_item": "S/ITEM",
}
_KNOWN: Final = {
    "asked": "does",
    "shown": "value",
    "signed": "by",
    "dataset": "dataset",
    "record": "record",
}


class _Seen:
    """What the node has told so far, for whoever presses Ctrl-C."""

    def __init__(self) -> None:
        self._measured: list[dict[str, Any]] = []
        self._progress = ""

    def hear(self, event: dict[str, Any]) -> None:
        self.heard(event)

    def heard(self, event: dict[str, Any]) -> dict[str, Any]:
        """Remember an event, and hand it on."""
        if "measured" in event:
            self._measured.append(event["measured"])
            self._progress = ""
        self._progress = str(event.get("progress", self._progress))
        return event

    def show(self, *, signed: bool) -> None:
        """Say what was measured, and what was published of it."""
        done = "and signed" if signed else "and not signed"
        for row in self._measured:
            render.note(f"measured {done}: {row['name']} {value_text(row)}")
        if self._progress:
            render.note(f"broken off: {self._progress}; nothing of it was published")
        elif not self._measured:
            render.note("broken off before anything was measured; nothing was published")
        else:
            render.note("broken off; nothing else was published")


def evaluate(
    ctx: typer.Context,
    capability: Annotated[str, typer.Argument(metavar="CAPABILITY", help="Such as translation.")],
    *,
    dataset: Annotated[
        Path,
        typer.Option(help='Lines of JSON: {"input": ..., "expected": ...[, "parameters": {...}]}.'),
    ],
    metric: Annotated[str | None, typer.Option(help="Default: the capability's usual one.")] = None,
    source: Annotated[str | None, typer.Option(help="Language of the input, such as en.")] = None,
    target: Annotated[str | None, typer.Option(help="Language of the answer.")] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="What else chooses among models; repeatable."),
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Only this one, by name or id; repeatable.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Sign nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Put a dataset to the models of a capability, and sign it."""
    named = {"source": source, "target": target}
    params: dict[str, Any] = {
        "capability": capability,
        "path": str(of_user(dataset).absolute()),
        "metric": metric or "",
        "parameters": pairs(param, "--param") | {n: v for n, v in named.items() if v is not None},
        "models": model or [],
        "sign": not dry_run,
    }
    node, seen = session(ctx), _Seen()
    try:
        if as_json:
            body = node.call("evaluate", params, seen.hear)
        else:
            with render.progress("Evaluating...") as on_event:
                body = node.call("evaluate", params, lambda event: on_event(seen.heard(event)))
    except KeyboardInterrupt:
        seen.show(signed=not dry_run)
        raise
    show(body, _show_measured, as_json=as_json)


def evaluations(
    ctx: typer.Context,
    capability: Annotated[
        str | None, typer.Argument(metavar="CAPABILITY", help="Without it: of all.")
    ] = None,
    *,
    model: Annotated[str | None, typer.Option(help="Only of this one, by name or id.")] = None,
    as_json: Json = False,
) -> None:
    """Show what members have found models to be worth."""
    params = {"capability": capability or "", "model": model or ""}
    show(session(ctx).call("evaluations", params), _show_known, as_json=as_json)


def value_text(found: Mapping[str, Any]) -> str:
    """A value with its interval."""
    return f"{found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f})"


def evaluation_lines(found: Mapping[str, Any]) -> tuple[str, str]:
    """What an evaluation says of a model, and who says so."""
    said = f"{found['metric']} {value_text(found)} on {found['items']} items of {_asked(found)}"
    return said, f"by {_signed(found)}"


def _asked(found: Mapping[str, Any]) -> str:
    chosen = ",".join(f"{name}={value}" for name, value in found["parameters"].items())
    return f"{found['capability']}:{chosen}" if chosen else str(found["capability"])


def _signed(found: Mapping[str, Any]) -> str:
    return f"{found['issuer']} (its owner)" if found["owner"] else str(found["issuer"])


def _show_measured(body: dict[str, Any]) -> None:
    render.say(f"{body['capability']}: {body['metric']} on {body['items']} items")
    rows = (
        {**row, "shown": row["problem"] if "problem" in row else value_text(row)}
        for row in body["models"]
    )
    render.rows(rows, _MEASURED, empty="")
    if any(row.get("record") for row in body["models"]):
        render.note(f"signed; `aigrid evaluations {body['capability']}` shows what is known")


def _show_known(body: dict[str, Any]) -> None:
    rows = (
        {
            **one,
            "name": one["name"] or one["model"],
            "asked": _asked(one),
            "shown": f"{one['metric']} {value_text(one)} on {one['items']} items",
            "signed": _signed(one),
        }
        for one in body["evaluations"]
    )
    empty = "Nobody has evaluated such a model; `aigrid evaluate` does."
    render.cards(rows, "name", _KNOWN, empty=empty)
