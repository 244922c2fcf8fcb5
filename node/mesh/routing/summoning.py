"""The seam between routing and placement: what is said when nobody can serve a request now."""

from dataclasses import dataclass
from typing import Literal, Protocol

import trio


@dataclass(frozen=True, slots=True)
class Unmet:
    """A demand that no candidate meets now.

    Attributes:
        model: model id; "" where any model with the capability will do.
        capability: name or IRI of the capability asked for; "" where a model was named.
        name: what the client called the model; "" where it named none.
        reason: whether those who offer it are all busy, or nobody who is alive offers it.
    """

    model: str
    capability: str
    name: str
    reason: Literal["nobody offers", "busy"]


class Summon(Protocol):
    """Says that nobody serves this now, and waits until somebody may."""

    async def __call__(self, unmet: Unmet, *, deadline: float) -> bool:
        """Whether it is worth ranking again; False when nobody will come before the deadline.

        Args:
            unmet: what is wanted.
            deadline: by trio's clock; it returns no later.
        """


async def nobody_comes(unmet: Unmet, *, deadline: float) -> bool:  # noqa: ARG001 - a Summon
    """The `Summon` of a node without placement."""
    await trio.lowlevel.checkpoint()
    return False
