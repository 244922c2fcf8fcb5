"""The one place where a choice between nodes is made. Pure, and it explains itself."""

from aigrid.metagraph.selection.constraints import (
    CONSTRAINTS,
    UNWANTED,
    Filters,
    Reason,
    Stated,
    check_language,
)
from aigrid.metagraph.selection.criteria import ANYTHING, Criteria
from aigrid.metagraph.selection.explained import (
    Explained,
    explain,
    nearest_miss,
    what_would_admit,
)
from aigrid.metagraph.selection.observation import (
    Observation,
    Outcomes,
    Pace,
    known_latency,
    measured_ms,
)
from aigrid.metagraph.selection.rank import rank, sift
from aigrid.metagraph.selection.ranking import NOBODY, Dropped, Kept, Ranking
from aigrid.metagraph.selection.strategy import (
    DEFAULT_STRATEGY,
    STRATEGIES,
    Parts,
    Strategy,
    Weights,
    strategy_of,
)

__all__ = [
    "ANYTHING",
    "CONSTRAINTS",
    "DEFAULT_STRATEGY",
    "NOBODY",
    "STRATEGIES",
    "UNWANTED",
    "Criteria",
    "Dropped",
    "Explained",
    "Filters",
    "Kept",
    "Observation",
    "Outcomes",
    "Pace",
    "Parts",
    "Ranking",
    "Reason",
    "Stated",
    "Strategy",
    "Weights",
    "check_language",
    "explain",
    "known_latency",
    "measured_ms",
    "nearest_miss",
    "rank",
    "sift",
    "strategy_of",
    "what_would_admit",
]
