"""How sure an answer says it is."""

import math
from typing import Any

import pytest

from aigrid.node.outcome.confidence import confidence


@pytest.mark.parametrize(
    ("output", "logprobs", "sure"),
    [
        ([{"label": "a", "score": 0.2}, {"label": "b", "score": 0.7}], (), 0.7),
        ({"answer": "Paris", "score": 0.4}, (), 0.4),
        ([{"entity": "P", "score": 0.9}, {"entity": "L", "score": 0.6}], (), 0.6),
        ("text", (math.log(0.9), math.log(0.4)), 0.6),
        ("text", (0.1,), 1.0),  # rounding
        ("text", (), None),
        ([{"label": "a", "score": 3.5}], (), None),
        ([{"index": 0, "score": 0.5, "anomaly": True}], (), None),
        ([0.5, 0.7], (), None),
        ([], (), 0.0),
        ({"score": True}, (), None),
        ([{"label": "a"}], (), None),
    ],
)
def test_what_an_answer_says_of_itself(
    output: Any, logprobs: tuple[float, ...], sure: float | None
) -> None:
    assert confidence(output, logprobs) == (None if sure is None else pytest.approx(sure))
