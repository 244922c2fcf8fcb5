"""What is held out stays unseen."""

import zipfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from scripts.translator.catalogues import Pair
from scripts.translator.corpus import pairs_in, split, unambiguous
from scripts.translator.grammar import sentences


def test_a_wheel_with_catalogues_of_every_kind(tmp_path: Path) -> None:
    wheel = tmp_path / "one.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("a/locale/fr/LC_MESSAGES/a.po", 'msgid "Yes"\nmsgstr "Oui"\n')
        archive.writestr("a/locale/fr/LC_MESSAGES/a.mo", b"not looked at: the source is there")
        archive.writestr("a/locale/de/LC_MESSAGES/a.po", 'msgid "Yes"\nmsgstr "Ja"\n')
        digest = "0" * 32
        archive.writestr(f"b/translations/x/en-{digest}.json", '{"k": "The door"}')
        archive.writestr(f"b/translations/x/fr-{digest}.json", '{"k": "La porte"}')
        archive.writestr("b/translations/fr.json", '{"k": "Seule"}')
    assert pairs_in(wheel) == [("Yes", "Oui"), ("The door", "La porte")]


def test_a_source_has_the_translation_that_most_give_it() -> None:
    given = [("b", "x"), ("a", "y"), ("b", "z"), ("b", "z")]
    assert unambiguous(given) == [("a", "y"), ("b", "z")]


WORDS = ("save", "the", "file", "now", "open", "door", "Door,", "3", "of", "all")
words = st.lists(st.sampled_from(WORDS), min_size=1)


@settings(deadline=None)
@given(st.dictionaries(words.map(" ".join), st.just("x")), st.integers(0, 9))
def test_nothing_like_a_held_out_source_is_trained_on(made: dict[str, str], seed: int) -> None:
    pairs: list[Pair] = sorted(made.items())
    corpus = split(pairs, tested=3, watched=2, seed=seed)
    held = {source for source, _ in (*corpus.tested, *corpus.watched)}
    bare = {"".join(c for c in source.casefold() if c.isalpha()) for source in held}
    assert len(bare) == len(held)
    for source, _ in corpus.trained:
        assert "".join(c for c in source.casefold() if c.isalpha()) not in bare
    assert corpus == split(pairs, tested=3, watched=2, seed=seed)


def test_one_letter_more_is_no_other_source() -> None:
    pairs = [("Choose a user account", "x"), ("Choose a user account!", "x"),
             ("Choose user accounts", "x"), ("Close the window", "x")]  # fmt: skip
    for seed in range(8):
        corpus = split(pairs, tested=1, watched=0, seed=seed)
        if corpus.tested[0][0].startswith("Choose a"):
            assert [source for source, _ in corpus.trained] == ["Close the window"]


def test_no_sentence_of_the_grammar_is_held_out_and_trained_on() -> None:
    corpus = sentences(seed=1)
    sides = (corpus.trained, corpus.watched, corpus.tested)
    assert sum(map(len, sides)) == len({source for side in sides for source, _ in side})
