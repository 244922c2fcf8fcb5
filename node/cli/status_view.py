"""How `aigrid status` looks to a person: what there is nothing of is left out."""

from collections.abc import Mapping
from typing import Any, Final

from aigrid.node.cli import render
from aigrid.node.cli.model_cards import summary

_LINES_OF_THEIR_OWN: Final = ("models", "loading", "withheld", "pins", "wanted")


def show_status(body: Mapping[str, Any]) -> None:
    """First what the node is, then a line for each model: here, withheld, pinned, wanted."""
    told = {
        member: said
        for member, said in body.items()
        if member not in _LINES_OF_THEIR_OWN and said is not False
    }
    if "peers" in told:
        told["peers"] = _peers(told["peers"])
    if isinstance(gateway := told.get("gateway"), dict):
        told["gateway"] = {"at": gateway.get("gateway"), **gateway, "gateway": None}
    render.pairs(told, {member: member.replace("_", " ") for member in told})
    for model in body.get("models", ()):
        render.say(f"model {summary(model)}")
    listed = {str(model["model"]) for model in body.get("models", ())}
    for one in body.get("withheld", ()):
        if one["model"] not in listed:  # else the model's line has it
            render.say(f"withheld {one['name'] or one['model']}: {one['problem']}")
    for name, why in body.get("pins", {}).items():
        render.say(f"pinned {name} is not loaded: {why}")
    for model, why in body.get("wanted", {}).items():
        render.say(f"wanted {model}: {why}")


def _peers(peers: Any) -> str:
    alive = sum(1 for one in peers if one["alive"])
    return f"{alive} alive, {len(peers) - alive} not" if peers else "none"
