"""Texts beside texts: known values, and what holds of any."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigrid.node.evaluating import texts

phrases = st.text("ab c", max_size=12)
sequences = st.lists(st.sampled_from("abc"), max_size=10)

# What sacreBLEU 2.x's CHRF() says of these, as shares of 1.
HYPOTHESES = ("Le chat est assis sur le tapis .", "bonjour le monde", "a", "la maison bleue")
REFERENCES = (
    "Le chat \u00e9tait assis sur le tapis.",
    "bonjour tout le monde",
    "b",
    "la maison rouge",
)
SENTENCES = (0.740544187257807, 0.5931686519948626, 0.0, 0.5362438487438488)
CORPUS = 0.6516423193433994


def test_chrf_is_that_of_sacrebleu() -> None:
    counts = [texts.chrf_counts(*pair) for pair in zip(HYPOTHESES, REFERENCES, strict=True)]
    assert [texts.chrf(one) for one in counts] == pytest.approx(SENTENCES)
    assert texts.chrf([sum(column) for column in zip(*counts, strict=True)]) == pytest.approx(
        CORPUS
    )


@given(phrases, phrases)
def test_chrf_lies_between_nothing_and_the_same(a: str, b: str) -> None:
    score = texts.chrf(texts.chrf_counts(a, b))
    assert 0 <= score <= 1
    if "".join(a.split()) == "".join(b.split()):
        assert score == pytest.approx(1)
    elif not a.strip():
        assert score == 0


def test_normal_forms_and_blanks_make_no_difference() -> None:
    assert texts.chrf(texts.chrf_counts("e\u0301t e\u0301", "\u00e9t\u00e9")) == pytest.approx(1)
    assert texts.token_f1("\u00c9t\u00e9", ["e\u0301te\u0301"]) == 1


def table_distance(a: list[str], b: list[str]) -> int:
    """By dynamic programming, cell by cell."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        above, row = row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (x != y)))
    return row[-1]


def table_common(a: list[str], b: list[str]) -> int:
    row = [0] * (len(b) + 1)
    for x in a:
        above, row = row, [0]
        for j, y in enumerate(b, 1):
            row.append(above[j - 1] + 1 if x == y else max(above[j], row[-1]))
    return row[-1]


@given(sequences, sequences)
def test_bits_say_what_tables_say(a: list[str], b: list[str]) -> None:
    assert texts.distance(a, b) == table_distance(a, b)
    assert texts.common(a, b) == table_common(a, b)


def test_short_answers_are_compared_as_squad_does() -> None:
    assert texts.exact_match("The Eiffel tower!", ["no", "eiffel Tower"]) == 1
    assert texts.exact_match("the", ["a"]) == 1  # articles alone are nothing
    assert texts.exact_match("Eiffel", ["Eiffel tower"]) == 0
    # 2 of 3 words answered, 2 of 2 expected
    assert texts.token_f1("big Eiffel tower", ["Eiffel tower"]) == pytest.approx(0.8)
    assert texts.token_f1("", ["x"]) == 0
    assert texts.token_f1("", ["the"]) == 1


def test_rouge_l_goes_by_the_longest_common_subsequence() -> None:
    # Lin, 2004, section 3.1: "police killed the gunman" beside these two.
    wanted = ["police killed the gunman"]
    assert texts.rouge_l("police kill the gunman", wanted) == pytest.approx(0.75)
    assert texts.rouge_l("the gunman kill police", wanted) == pytest.approx(0.5)


def test_word_errors() -> None:
    assert texts.word_errors("the cat sat", "the cat sat down") == (1, 4)
    assert texts.word_errors("", "a b") == (2, 2)
    assert texts.word_errors("a b", "") == (2, 0)
