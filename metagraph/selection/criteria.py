"""What a request says of who should answer it, beyond whom it prefers. Data alone."""

from dataclasses import dataclass
from typing import Final

from aigrid.metagraph.selection.constraints import Filters
from aigrid.metagraph.selection.strategy import DEFAULT_STRATEGY, Strategy


@dataclass(frozen=True, slots=True)
class Criteria:
    """What candidates have to be, and what counts among those that are.

    Attributes:
        constraints: checked; None: anything.
        strategy: how to choose.
        seed: of the draws: the same one gives the same order, wherever the same is known. None:
            they are drawn anew.
    """

    constraints: Filters | None = None
    strategy: Strategy = DEFAULT_STRATEGY
    seed: int | None = None


ANYTHING: Final = Criteria()
