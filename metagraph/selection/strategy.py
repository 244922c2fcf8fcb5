"""How to choose among nodes that can answer. Data alone."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Strategy:
    """How to choose.

    Attributes:
        cooling_failures: failures in a row from which on a node is left alone for a while.
        cooling_seconds: how long after that many; doubled by each further one.
        cooling_max_seconds: never longer than this; a single failure counts against a node as long.
        latency_step: latencies that differ by less than this factor count as equal.
        assumed_latency_ms: where nothing is known.
        assumed_tokens: of an answer; what they take counts as well as the wait for the first.
    """

    cooling_failures: int = 2
    cooling_seconds: float = 5.0
    cooling_max_seconds: float = 60.0
    latency_step: float = 2.0
    assumed_latency_ms: float = 500.0
    assumed_tokens: int = 64


DEFAULT_STRATEGY = Strategy()
