"""A translator is trained by the script, published, and translates what it never saw."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from scripts.nodes import wait_for
from scripts.offers import offers
from scripts.translator.grammar import sentences
from scripts.translator.score import scored
from tests.faults.test_more_tasks import Grid, ask
from tests.faults.test_tasks import grid

__all__ = ["grid"]
pytest.importorskip("torch", reason="the extra `torch` is not installed")
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.process
def test_unseen_sentences_through_another_node(grid: Grid, tmp_path: Path) -> None:
    folder = tmp_path / "translator"
    command = [sys.executable, "-m", "scripts.translator.train", str(folder), "--smoke"]
    subprocess.run([*command, "--threads", "1"], check=True, cwd=ROOT, timeout=240)
    grid[1].cli("publish", str(folder), "--capability", "translation", "--name", "translator")
    wait_for(
        lambda: any(model["name"] == "translator" for model in offers(grid[0])) or None,
        timeout_seconds=30,
        what="an offer of the translator",
    )
    tested = sentences(seed=8).tested[:20]
    sources, expected = zip(*tested, strict=True)
    answers = [ask(grid, "translator", "translation", source) for source in sources]
    copied = scored(sources, expected)
    assert scored(answers, expected).low > copied.high + 30
    assert len(set(answers)) > 10


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
