"""The port by which an operator's tools load and unload the models of this node."""

from typing import Literal, Protocol

import msgspec

HeldState = Literal["READY", "LOADING", "UNAVAILABLE"]


class Held(msgspec.Struct, frozen=True):
    """A model on this node's disk. `reason` says how far it is, or what keeps it from serving."""

    name: str
    version: str
    state: HeldState
    reason: str = ""


class Repository(Protocol):
    """The models on this node's disk; each is called by its name or its id."""

    def index(self) -> list[Held]:
        """All of them, by name."""

    async def load(self, model: str) -> None:
        """Load a model, and keep it loaded until `unload`.

        Raises:
            AigridError: `model_not_found`, `ambiguous_model`, or why it cannot be loaded.
        """

    async def unload(self, model: str) -> None:
        """Unload a model; returns once whoever uses it has finished.

        It is loaded again as soon as somebody asks it.

        Raises:
            AigridError: `model_not_found`, `ambiguous_model`, or why it has to stay.
        """
