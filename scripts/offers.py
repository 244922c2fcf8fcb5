"""What live nodes offer, as one of them sees it: for tests and programs that wait for offers."""

from collections.abc import Iterable
from typing import Any, Final

from scripts.nodes import NodeProcess

from aigrid.node.control_client import SOCKET_FILE, ControlClient

STATES: Final = ("warm", "loading", "on_disk", "can_fetch")


def told(node: NodeProcess, method: str, **params: object) -> dict[str, Any]:
    """What a node says on its control socket: for who asks often, and needs no process to do so.

    Raises:
        AigridError: as `ControlClient.call`.
    """
    return ControlClient(node.data_dir / SOCKET_FILE).call(method, params)


def offers(node: NodeProcess) -> list[dict[str, Any]]:
    """`model`, `name`, `node` (PeerId), `state`: once for each node that offers it."""
    return offers_in(told(node, "models")["models"])


def offers_in(models: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same, of the member `models` of `aigrid models --json` or of the status."""
    return [
        {"model": model["model"], "name": model["name"], "node": peer, "state": state}
        for model in models
        for state in STATES
        for peer in model[state]
    ]
