"""Looking for offers: those of a capability, sifted, and why each passed or did not. Pure."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from aigrid.metagraph.index import Candidate, Index
from aigrid.metagraph.selection import (
    CONSTRAINTS,
    DEFAULT_STRATEGY,
    Dropped,
    Filters,
    Kept,
    Observation,
    Ranking,
    Reason,
    check_language,
    sift,
)
from aigrid.metagraph.stated import facts_of
from aigrid.protocol.limits import LIMITS

__all__ = ["Filters", "Found", "Sieve", "check_language"]


@dataclass(frozen=True, slots=True)
class Found:
    """What filters and selection made of the offers of a capability.

    Attributes:
        kept: best first.
        dropped: with the first filter that it failed, or why it cannot serve; the explanation has
            every filter.
        removed: how many offers each filter removed, by its name; one that fails several counts
            for the first.
        more: how many that fit were not ranked, for there are too many.
    """

    kept: tuple[Kept, ...]
    dropped: tuple[Dropped, ...]
    removed: Mapping[str, int]
    more: int


class Sieve:
    """Takes the offers of a capability one by one and says what filters leave of them.

    Of those that fit, and of those that do not, `limit` are kept; the others are counted.
    """

    def __init__(
        self,
        index: Index,
        filters: Filters,
        observe: Callable[[str], Observation | None],
        *,
        now_ms: int,
        limit: int = LIMITS.find_offers_max,
    ) -> None:
        """Start with nothing.

        Args:
            index: where manifests, nodes and capabilities are looked up.
            filters: checked.
            observe: what was seen of the node with this PeerId.
            now_ms: wall time.
            limit: see above.
        """
        self._facts = facts_of(index, filters.capability, now_ms)
        self._filters = filters
        self._observe = observe
        self._limit = limit
        self._fitting: dict[tuple[str, str], tuple[Candidate, tuple[str, ...]]] = {}
        self._unfit: list[Dropped] = []
        self._removed: Counter[Reason] = Counter()
        self._more = 0

    def add(self, candidate: Candidate) -> None:
        """Consider an offer of `filters.capability`."""
        seen = self._observe(candidate.node)
        result = sift(candidate, self._filters, self._facts, seen, DEFAULT_STRATEGY)
        if isinstance(result, Dropped):
            self._removed[result.reason] += 1
            if len(self._unfit) < self._limit:
                self._unfit.append(result)
        elif len(self._fitting) < self._limit:
            self._fitting[candidate.signer, candidate.model] = candidate, result
        else:
            self._more += 1

    def found(self, rank: Callable[[tuple[Candidate, ...]], Ranking]) -> Found:
        """Order what is left by `rank`: `selection.rank` with all that it needs besides."""
        ranking = rank(tuple(candidate for candidate, _ in self._fitting.values()))
        return Found(
            tuple(replace(kept, before=self._before(kept)) for kept in ranking.kept),
            (
                *self._unfit,
                *(
                    replace(one, explanation=self._before(one) + one.explanation)
                    for one in ranking.dropped
                ),
            ),
            {name.value: self._removed[name] for name in CONSTRAINTS if self._removed[name]},
            self._more,
        )

    def _before(self, ranked: Kept | Dropped) -> tuple[str, ...]:
        """What the filters said of an offer."""
        return self._fitting[ranked.candidate.signer, ranked.candidate.model][1]
