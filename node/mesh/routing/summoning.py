"""The seam between routing and placement: what is said when nobody can serve a request now."""

import math
from dataclasses import dataclass
from typing import Literal

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


class Place:
    """Where one request stands among those that want the same: kept through all its tries.

    Attributes:
        since: when it came, by trio's clock: who came first goes first.
        busy: whether it waits for somebody who is busy, rather than for anybody at all.
        rests_until: it was let go in vain, and the next ones have their try before that.
        vain: how often it was.
        turn: set once it may go on; None while it stands in no line.
        went: whether it was ever let go.
        asks: whether it is at somebody's already, who is known to run it or to have it in a queue.
    """

    def __init__(self, since: float) -> None:
        self.since = since
        self.busy = False
        self.rests_until = -math.inf
        self.vain = 0
        self.turn: trio.Event | None = None
        self.went = False
        self.asks = False


class Summon:
    """Says that nobody serves this now, and waits until somebody may.

    This one is that of a node without placement: nobody comes.
    """

    async def __call__(self, unmet: Unmet, place: Place, *, deadline: float) -> bool:
        """Whether it is worth ranking again; False when nobody will come before the deadline.

        Args:
            unmet: what is wanted.
            place: of the request; the same at each of its tries.
            deadline: by trio's clock; it returns no later.
        """
        await trio.lowlevel.checkpoint()
        return False

    def crowded(self, model: str, capability: str) -> bool:
        """Whether others stand in line for the same, so that who comes now waits behind them."""
        return False

    def left(self, place: Place) -> None:
        """A request that was let go has begun to be answered, or is given up."""

    def freed(self) -> None:
        """An answer has ended: somebody may have room now."""


nobody_comes = Summon()
