"""`aigrid run`: an outcome by the name of a capability."""

import base64
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from aigrid.node.cli import render
from aigrid.node.cli.session import Json, print_json, printable, read_limited, session
from aigrid.protocol.errors import UsageError
from aigrid.protocol.limits import LIMITS, MIB


def run(
    ctx: typer.Context,
    capability: Annotated[str, typer.Argument(metavar="CAPABILITY", help="Such as translation.")],
    text: Annotated[
        str | None,
        typer.Argument(metavar="INPUT", help="Text or JSON; - reads it from standard input."),
    ] = None,
    *,
    file: Annotated[
        Path | None, typer.Option(help="The input is in this file: a picture, a table, a text.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="Language of the input, such as en.")] = None,
    target: Annotated[str | None, typer.Option(help="Language of the answer.")] = None,
    param: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A parameter; may be repeated.")
    ] = None,
    constraint: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="What whoever answers has to be; repeatable."),
    ] = None,
    strategy: Annotated[
        str | None,
        typer.Option(help="balanced, quality, fastest, local_first; or weights as JSON."),
    ] = None,
    mode: Annotated[
        str | None, typer.Option(help="fallback, race, vote, cascade; or an object as JSON.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of what is drawn.")] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say why each candidate was asked or not.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Ask for an outcome; the grid finds who gives it."""
    parameters = {name: _value(said) for name, said in pairs(param, "--param").items()}
    parameters |= {n: v for n, v in (("source", source), ("target", target)) if v is not None}
    constraints = {name: _value(said) for name, said in pairs(constraint, "--constraint").items()}
    params: dict[str, Any] = {
        "capability": capability,
        "parameters": parameters,
        "constraints": constraints,
        "strategy": strategy,
        "mode": mode,
        "seed": seed,
        "explain": explain,
        **_input(text, file),
    }
    with render.meanwhile():
        body = session(ctx).call("run", params)
    if as_json:
        print_json(body)
        return
    render.say(_shown(body["output"]))
    told = body["aigrid"]
    for one in told.get("explain", ()):
        render.note(_explained(one))
    nodes = ", ".join(dict.fromkeys(str(one["node"]) for one in told.get("segments", ())))
    render.note(f"{told.get('mode')} on {nodes}")


def _input(text: str | None, file: Path | None) -> dict[str, Any]:
    if file is not None:
        if text is not None:
            raise UsageError("give an INPUT or --file, not both")
        data = read_limited(file, LIMITS.task_json_max_bytes)
        return {"data": base64.b64encode(data).decode()}
    if text is None:
        raise UsageError("there is no input: give an INPUT, - to read it, or --file")
    return {"text": sys.stdin.read(MIB) if text == "-" else text}


def pairs(given: list[str] | None, option: str) -> dict[str, str]:
    """What `NAME=VALUE`, given any number of times, says. Raises UsageError."""
    found: dict[str, str] = {}
    for pair in given or ():
        name, is_pair, said = pair.partition("=")
        if not (is_pair and name) or name in found:
            raise UsageError(f"{option} is NAME=VALUE, each name once: {pair[:64]!r} is not")
        found[name] = said
    return found


def _value(said: str) -> str | int | float | bool:
    """A number or truth where it is written as one, else text."""
    try:
        value = json.loads(said)
    except ValueError:
        return said
    return value if isinstance(value, str | int | float | bool) else said


def _shown(output: Any) -> str:
    if isinstance(output, dict) and output.keys() == {"text"}:
        output = output["text"]
    if isinstance(output, str):
        return printable(output)
    return printable(json.dumps(output, ensure_ascii=False, indent=2))


def _explained(one: dict[str, Any]) -> str:
    place = f"{one['place']}." if one.get("place") else f"not asked ({one.get('reason')}):"
    total = f" scores {one['total']:.2f}" if one.get("total") is not None else ""
    return printable(f"{place} {one['name']} on {one['node']}{total}: {', '.join(one['why'])}")
