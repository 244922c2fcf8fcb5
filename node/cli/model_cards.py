"""A model in full: where it is, what it costs here, how long it stays. In a row: model_table."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from aigrid.node.cli import render
from aigrid.node.cli.evaluate_commands import evaluation_lines
from aigrid.protocol.limits import DAY, HOUR, MINUTE

_WHERE: Final = {
    "warm": "warm",
    "loading": "loading",
    "on_disk": "on disk",
    "can_fetch": "can fetch",
    "seeds": "seeds",
}
_LABEL_CHARS = 11


def show_cards(models: Sequence[Mapping[str, Any]], *, own: str) -> None:
    """A card for each. Ids are on lines of their own, to be copied; `own` is this node's PeerId."""
    for model in models:
        name = str(model.get("name", "")) or "-"
        also = [str(one) for one in model.get("names", ()) if one != name]
        render.say(name + (f" (elsewhere: {', '.join(also)})" if also else ""), style="bold")
        _line("model", str(model.get("model", "")))
        _line("does", ", ".join(model.get("capabilities", ())))
        _line("for", _who(model.get("policy", [])))
        for state, label in _WHERE.items():
            for number, node in enumerate(model.get(state, ())):
                _line("" if number else label, f"{node} (here)" if node == own else str(node))
        for number, found in enumerate(model.get("evaluations", ())):
            said, by = evaluation_lines(found)
            _line("" if number else "evaluated", said)
            _line("", by)
        _line("on its way", _coming(model))
        for label, text in _here(model.get("here")):
            _line(label, text)


def summary(model: Mapping[str, Any]) -> str:
    """One line: on how many nodes it is, and how it stands here."""
    counts = [f"{label} {len(model[s])}" for s, label in _WHERE.items() if model.get(s)]
    here = [text for label, text in _here(model.get("here")) if label in ("here", "problem")]
    said = [text for text in (", ".join(counts), _coming(model), *here) if text]
    return f"{model.get('name') or model.get('model')}: {'; '.join(said)}"


def _coming(model: Mapping[str, Any]) -> str:
    return str((model.get("fetching") or {}).get("text", ""))


def _line(label: str, text: str) -> None:
    if text:
        render.say(f"    {label:<{_LABEL_CHARS}} {text}")


def _here(use: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """(label, text) of what this node says of a model on its disk."""
    if use is None:
        return []
    lines = [("here", _state(use))]
    if use["problem"]:
        lines.append(("problem", str(use["problem"])))
    if use["state"] == "warm":
        memory = ", ".join(
            f"{render.size_text(size)} of {purse}" for purse, size in use["memory"].items()
        )
        lines.append(("memory", memory))
        waiting = f", {use['waiting']} waiting" if use["waiting"] else ""
        lines.append(("requests", f"{use['leases']} of {use['slots']} slots taken{waiting}"))
        lines.append(("unloads", unloads(use)))
    cold = use["cold_start"]
    if cold is not None:
        lines.append(("cold start", f"{cold['seconds']:.1f} s, {_span(cold['ago_seconds'])} ago"))
    return lines


def _state(use: Mapping[str, Any]) -> str:
    if use["state"] == "loading":
        return f"loading, {use['waiting']} waiting: {use['progress'] or 'starting'}"
    if use["state"] != "warm":
        return "on disk"
    workers = "1 worker" if use["workers"] == 1 else f"{use['workers']} workers"
    more = f", {use['loading']} more on the way" if use["loading"] else ""
    return f"warm, {workers} of {use['engine']} on {use['device']}{more}"


def unloads(use: Mapping[str, Any]) -> str:
    """When a loaded model goes."""
    if use["pinned"]:
        return "never: it is pinned"
    seconds = use["expires_in_seconds"]
    if seconds is not None:
        return f"in {_span(seconds)}"
    return "not while it is in use" if use["leases"] else "when its memory is needed"


def _who(rules: Sequence[Mapping[str, Any]]) -> str:
    """Who may ask a model; under which conditions, `aigrid policy explain` says."""
    found = [one for rule in rules if "invoke" in rule["actions"] for one in rule["assignees"]]
    words = {one: "" if one in ("members", "anyone") else f"a grant from {one}" for one in found}
    return ", ".join(text or one for one, text in words.items()) or "its owner"


def _span(seconds: float) -> str:
    """A duration in its largest unit."""
    for unit, size in (("d", DAY), ("h", HOUR), ("min", MINUTE)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
