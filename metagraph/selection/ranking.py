"""What a choice comes to: who may be asked, in which order, and who may not be. Data alone."""

from dataclasses import dataclass
from typing import Final

from aigrid.metagraph.index import Candidate
from aigrid.metagraph.selection.constraints import Check, Reason
from aigrid.metagraph.selection.score import Scored, Weighed


@dataclass(frozen=True, slots=True)
class Kept:
    """A candidate that may be asked.

    Attributes:
        candidate: the offer.
        scored: what is known of it.
        weighed: its score, where the strategy has weights.
        explored: it comes first because it was drawn to be tried, and not because it is the best.
        before: what is said of it before that: how it fulfils the constraints.
    """

    candidate: Candidate
    scored: Scored
    weighed: Weighed | None = None
    explored: bool = False
    before: tuple[str, ...] = ()

    @property
    def full(self) -> bool:
        """All its slots seem to be taken, or it did not begin when it was asked lately."""
        return self.scored.full

    @property
    def explanation(self) -> tuple[str, ...]:
        """What put it where it stands, in words."""
        drawn = ("drawn to be tried",) if self.explored else ()
        quality = () if self.weighed is None else (self.weighed.quality.text,)
        return self.before + drawn + self.scored.explanation + quality


@dataclass(frozen=True, slots=True)
class Dropped:
    """A candidate that may not be asked now; `retry_after_seconds` where that is known.

    `missed`: the constraints that it does not fulfil, if that is why; `besides`: why it could not
    be asked even if it did.
    """

    candidate: Candidate
    reason: Reason
    explanation: tuple[str, ...]
    retry_after_seconds: float | None = None
    missed: tuple[Check, ...] = ()
    besides: Reason | None = None


@dataclass(frozen=True, slots=True)
class Ranking:
    """`kept` best first; every candidate is in one of the two."""

    kept: tuple[Kept, ...]
    dropped: tuple[Dropped, ...]

    @property
    def best(self) -> Candidate | None:
        return self.kept[0].candidate if self.kept else None

    @property
    def retry_after_seconds(self) -> float | None:
        """When the first of the dropped may be asked again, where that is known."""
        known = [d.retry_after_seconds for d in self.dropped if d.retry_after_seconds is not None]
        return min(known, default=None)


NOBODY: Final = Ranking((), ())
