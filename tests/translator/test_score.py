"""Scores of translations."""

import json
from pathlib import Path

import pytest
from scripts.translator.score import scored, write_dataset

from aigrid.node.evaluating import texts as measures


def test_the_same_text_scores_100_and_another_0() -> None:
    texts = ["le chat dort", "la porte est ouverte"]
    same, other = scored(texts, texts), scored(["www", "hhh"], texts)
    assert (same.chrf, same.low, same.high, same.bleu) == (100, 100, 100, 100)
    assert (other.chrf, other.high, other.bleu) == (0, 0, 0)


def test_chrf_by_hand() -> None:
    # "abc" for "abd": 2 of 3 letters, 1 of 2 pairs, 0 of 1 triple, nothing longer.
    precision = recall = (2 / 3 + 1 / 2 + 0) / 3
    assert scored(["a bc"], ["ab d"]).chrf == pytest.approx(100 * precision)
    assert precision == recall


def test_bleu_by_hand() -> None:
    # Of 5 words 4 are right, of 4 pairs 3, of 3 triples 2, of 2 runs of four 1; none is too short.
    made = scored(["the cat sat down today"], ["the cat sat down here"])
    assert made.bleu == pytest.approx(100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)


def test_the_interval_holds_the_score_and_is_the_same_each_time() -> None:
    answers = ["le chat", "un chien", "la porte", "rien du tout", "une fleur"]
    expected = ["le chat", "un chat", "la table", "tout", "une fleur bleue"]
    made = scored(answers, expected)
    assert made.low < made.chrf < made.high
    assert made == scored(answers, expected)


def test_a_dataset_for_evaluation(tmp_path: Path) -> None:
    write_dataset(tmp_path / "set.jsonl", [("Yes", "Oui"), ("Summer", "Été")])
    rows = [json.loads(line) for line in (tmp_path / "set.jsonl").read_text().splitlines()]
    assert rows[1] == {"input": "Summer", "expected": "Été"}


def test_chrf_is_that_of_evaluations() -> None:
    answers, expected = ["le chat e\u0301tait assis"], ["le chat \u00e9tait assis."]
    counts = measures.chrf_counts(answers[0], expected[0])
    assert scored(answers, expected).chrf == pytest.approx(100 * measures.chrf(counts))
