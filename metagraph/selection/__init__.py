"""The one place where a choice between nodes is made. Pure, and it explains itself."""

from aigrid.metagraph.selection.constraints import UNWANTED, Reason
from aigrid.metagraph.selection.observation import Observation, Pace, known_latency
from aigrid.metagraph.selection.rank import Dropped, Kept, Ranking, rank
from aigrid.metagraph.selection.strategy import DEFAULT_STRATEGY, Strategy

__all__ = [
    "DEFAULT_STRATEGY",
    "UNWANTED",
    "Dropped",
    "Kept",
    "Observation",
    "Pace",
    "Ranking",
    "Reason",
    "Strategy",
    "known_latency",
    "rank",
]
