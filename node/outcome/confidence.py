"""How sure a model is of its answer, by what it says itself. Pure.

A cascade goes on to the next model where this is low. It is the score of what is said first, where
scores are probabilities: of the best label, of the answer to a question, of the least certain
entity; nothing found is nothing sure. Of text it is the geometric mean of the tokens'
probabilities, where the engine tells them.
Of other answers nothing is known: a rank, a distance or a forecast is no confidence.
"""

import math
from collections.abc import Sequence
from typing import Any


def confidence(output: Any, logprobs: Sequence[float] = ()) -> float | None:
    """Of a decoded answer, in [0, 1]; None where it does not say.

    `logprobs`: natural logarithms of the probabilities of its tokens, where they are known.
    """
    if logprobs:
        return math.exp(min(0.0, sum(logprobs) / len(logprobs)))
    if isinstance(output, dict):
        return _probability(output.get("score"))
    if not isinstance(output, list):
        return None
    if not output:
        return 0.0
    scores = [_probability(one.get("score")) if isinstance(one, dict) else None for one in output]
    if any("anomaly" in one for one in output if isinstance(one, dict)):
        return None  # how far a row is from the others
    known = [score for score in scores if score is not None]
    if len(known) != len(scores):
        return None
    labelled = all("label" in one and "box" not in one for one in output)
    return max(known) if labelled else min(known)


def _probability(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value <= 1 else None
