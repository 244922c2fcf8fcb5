"""A translator is trained by the script; `tests/faults/test_outcomes.py` has it translate."""

from typing import Any

import pytest
from scripts.translator.grammar import sentences

pytest.importorskip("torch", reason="the extra `torch` is not installed")


def test_the_same_seed_trains_the_same_weights() -> None:
    from dataclasses import replace

    from scripts.translator.model import SMOKE
    from scripts.translator.train import trained

    def weights() -> dict[str, Any]:
        plan = replace(SMOKE, steps=3, warmup=1, copied=0.5, blanked=0.3)
        model, _ = trained(sentences(seed=2), plan, seed=2, threads=1)
        return dict(model.state_dict())

    first, second = weights(), weights()
    assert all(first[name].equal(second[name]) for name in first)
