"""Tasks on text mean what people who know them elsewhere expect of them."""

from pathlib import Path

import pytest
from tests.engines.tasks.asking import refused, run
from tests.engines.tasks.text_models import lookup, plain_words, spaced_pieces, word_pieces
from tokenizers.processors import TemplateProcessing

from aigrid.engines.base import ModelSource
from aigrid.engines.tasks.entities import spans
from aigrid.protocol.errors import Code
from aigrid.protocol.task import TaskOutput, TextInput

BIO = TaskOutput(labels=("O", "B-PER", "I-PER", "B-LOC", "I-LOC"))
NEW, ON = [0.0, 0, 0, 5, 0], [0.0, 0, 0, 0, 5]
PERSON, NOTHING = [0.0, 3, 0, 0, 0], [9.0, 0, 0, 0, 0]


def places(folder: Path) -> ModelSource:
    """A model that was trained on the first pieces of words: of the others it says anything."""
    tokenizer = word_pieces("in", "new", "york", "##ton", "##s", "lives", "ann")
    rows = {"new": NEW, "york": ON, "##ton": PERSON, "ann": PERSON, "##s": NOTHING}
    rows |= {"in": NOTHING, "lives": NOTHING, "[UNK]": NOTHING}
    return lookup(folder, tokenizer, rows, task="token-classification", output=BIO)


def test_a_word_has_the_entity_of_its_first_piece(tmp_path: Path) -> None:
    model, text = places(tmp_path), "Ann lives in Newton York"
    found = run(model, text)
    assert [(e["entity"], text[e["start"] : e["end"]]) for e in found] == [
        ("PER", "Ann"),
        ("LOC", "Newton York"),
    ]
    simple = run(model, text, aggregation_strategy="simple")
    assert [(e["entity"], text[e["start"] : e["end"]]) for e in simple] == [
        ("PER", "Ann"),
        ("LOC", "New"),
        ("PER", "ton"),
        ("LOC", "York"),
    ]


def test_other_ways_to_judge_a_word(tmp_path: Path) -> None:
    model = places(tmp_path)
    assert run(model, "news") == [
        {"entity": "LOC", "score": pytest.approx(0.974, abs=1e-3), "start": 0, "end": 4}
    ]
    assert run(model, "news", aggregation_strategy="max") == []  # the second piece is surer
    assert run(model, "news", aggregation_strategy="average") == []
    assert [e["entity"] for e in run(model, "newton", aggregation_strategy="average")] == ["LOC"]
    error = refused(model, "new", aggregation_strategy="none at all")
    assert error.code is Code.INVALID_REQUEST
    assert "first, max, average, simple" in error.message


def test_spans_are_in_characters_and_without_the_space_before(tmp_path: Path) -> None:
    tokenizer = spaced_pieces("▁", "▁new", "▁york", ",", "▁🌍é", "t", "on")
    rows = {"▁new": NEW, "▁york": ON, "on": PERSON, ",": NOTHING, "▁🌍é": NOTHING, "t": NOTHING}
    model = lookup(tmp_path, tokenizer, rows, task="token-classification", output=BIO)
    text = "🌍é newton york, new"
    found = run(model, text)
    assert [text[e["start"] : e["end"]] for e in found] == ["newton york", "new"]
    assert {e["entity"] for e in found} == {"LOC"}


def test_plain_labels_and_those_with_a_beginning() -> None:
    def named(*labels: str) -> list[tuple[str, int, int]]:
        tokens = [(label, 1.0, n, n + 1) for n, label in enumerate(labels)]
        return [(e["entity"], e["start"], e["end"]) for e in spans(tokens)]

    assert named("PER", "PER", "O", "PER", "LOC") == [("PER", 0, 2), ("PER", 3, 4), ("LOC", 4, 5)]
    assert named("B-PER", "I-PER", "B-PER", "I-LOC") == [
        ("PER", 0, 2),
        ("PER", 2, 3),
        ("LOC", 3, 4),
    ]
    assert named("I-PER", "O", "I-PER") == [("PER", 0, 1), ("PER", 2, 3)]
    assert named() == named("O") == []


def test_texts_of_different_length_do_not_disturb_each_other(tmp_path: Path) -> None:
    # The token that padding would be has the largest numbers, and the model knows no mask.
    tokenizer = plain_words("a", "b")
    rows = {"[UNK]": [100.0, 100.0], "a": [1.0, 0.0], "b": [0.0, 1.0]}
    output = TaskOutput()
    model = lookup(tmp_path, tokenizer, rows, task="feature-extraction", output=output, pooled=True)
    found = run(model, ["a", "a b b", "b a", "b"])
    assert found == [[1, 0], [1, 2], [1, 1], [0, 1]]


def scored(folder: Path, rows: dict[str, list[float]], **output: object) -> ModelSource:
    tokenizer = plain_words("good", "bad")
    said = TaskOutput(**output)  # type: ignore[arg-type]
    task = "text-classification"
    return lookup(folder, tokenizer, rows, task=task, output=said, pooled=True)


ONE = {"good": [2.0], "bad": [-1.0]}


def test_one_probability_is_that_of_the_second_of_two_labels(tmp_path: Path) -> None:
    model = scored(tmp_path, ONE, labels=("no", "yes"), activation="sigmoid")
    assert run(model, "good") == [
        {"label": "yes", "score": pytest.approx(0.8808, abs=1e-4)},
        {"label": "no", "score": pytest.approx(0.1192, abs=1e-4)},
    ]
    assert run(model, "bad", top_k=1)[0]["label"] == "no"
    raw = scored(tmp_path, ONE, labels=("no", "yes"))
    assert "no probability" in refused(raw, "good").message


def test_one_number_is_one_score_and_its_softmax_is_refused(tmp_path: Path) -> None:
    stars = scored(tmp_path, ONE, labels=("stars",))
    assert run(stars, "good good") == [{"label": "stars", "score": 4.0}]
    error = refused(scored(tmp_path, ONE, labels=("stars",), activation="softmax"), "good")
    assert error.code is Code.UNSUPPORTED_MODEL


def test_several_labels_may_be_true_at_once(tmp_path: Path) -> None:
    rows = {"good": [3.0, 3.0], "bad": [-3.0, 3.0]}
    model = scored(tmp_path, rows, labels=("kind", "short"), activation="sigmoid")
    scores = {one["label"]: one["score"] for one in run(model, "good")}
    assert scores == pytest.approx({"kind": 0.9526, "short": 0.9526}, abs=1e-4)


def test_a_number_of_labels_is_a_whole_number(tmp_path: Path) -> None:
    model = scored(tmp_path, ONE, labels=("no", "yes"), activation="sigmoid")
    for wrong in (1.5, -1, True, "2"):
        assert refused(model, "good", top_k=wrong).code is Code.INVALID_REQUEST
    assert len(run(model, "good", top_k=1.0)) == 1


def test_texts_that_are_empty_or_too_long(tmp_path: Path) -> None:
    tokenizer = plain_words("a", "b")
    rows = {"a": [1.0, 0.0], "b": [0.0, 1.0]}
    task, output = "feature-extraction", TaskOutput()

    def model(**text: object) -> ModelSource:
        read = TextInput(tokenizer="tokenizer.json", mask="", **text)  # type: ignore[arg-type]
        return lookup(tmp_path, tokenizer, rows, task=task, output=output, pooled=True, text=read)

    for given, says in ((["a", ""], "text 1 has no tokens"), ([], "between 1 and"), ("a", "array")):
        error = refused(model(), given)
        assert error.code is Code.INVALID_REQUEST
        assert says in error.message
    assert (
        "takes 2: shorten it, or send it in parts"
        in refused(model(max_tokens=2), ["a b b"]).message
    )
    assert run(model(max_tokens=2, truncate=True), ["a b b", "a"]) == [[1, 1], [1, 0]]


def test_token_ids_are_taken_as_the_tokenizer_of_the_model_gives_them(tmp_path: Path) -> None:
    tokenizer = plain_words("a", "b", "<", ">")
    ids = {token: tokenizer.token_to_id(token) for token in ("a", "b", "<", ">")}
    rows = {"a": [1.0, 0.0], "b": [0.0, 1.0], "<": [8.0, 0.0], ">": [0.0, 8.0]}
    task, output = "feature-extraction", TaskOutput()
    bare = lookup(tmp_path, tokenizer, rows, task=task, output=output, pooled=True)
    # Nothing tells ids out of another vocabulary from those of a text.
    assert "send text" in refused(bare, [[ids["a"]]]).message
    tokenizer.post_processor = TemplateProcessing(
        single="< $A >", special_tokens=[("<", ids["<"]), (">", ids[">"])]
    )
    read = TextInput(tokenizer="tokenizer.json", mask="", max_tokens=4)
    model = lookup(tmp_path, tokenizer, rows, task=task, output=output, pooled=True, text=read)
    whole = [ids["<"], ids["b"], ids["a"], ids[">"]]
    assert run(model, [whole, "b", "b a"]) == [[9, 9], [8, 9], [9, 9]]
    for wrong in ([1, 2], whole[1:], whole[:-1], [ids["<"]], [ids["<"], 10**30, ids[">"]]):
        assert "send text" in refused(model, ["a", wrong]).message
    assert "takes 4" in refused(model, [[ids["<"], *whole[1:-1] * 2, ids[">"]]]).message


def entailing(folder: Path, *labels: str) -> ModelSource:
    """What follows from a text: the hypothesis has a word that counts for or against."""
    tokenizer = plain_words("good", "bad", "This", "is", ".")
    rows = {"good": [0.0, 0.0, 4.0], "bad": [4.0, 0.0, 0.0]}
    return lookup(
        folder,
        tokenizer,
        rows,
        task="zero-shot-classification",
        output=TaskOutput(labels=labels or ("contradiction", "neutral", "entailment")),
        pooled=True,
        text=TextInput(tokenizer="tokenizer.json", mask="", template="This is {label} ."),
    )


def test_labels_of_the_request_compete_or_are_judged_alone(tmp_path: Path) -> None:
    model, asked = entailing(tmp_path), {"text": "is", "labels": ["bad", "good"]}
    found = run(model, asked)
    assert [one["label"] for one in found] == ["good", "bad"]
    assert sum(one["score"] for one in found) == pytest.approx(1)
    alone = {one["label"]: one["score"] for one in run(model, asked, multi_label=True)}
    assert alone == pytest.approx({"good": 0.982, "bad": 0.018}, abs=1e-3)
    single = run(model, {"text": "is", "labels": ["good"]})
    assert single[0]["score"] == pytest.approx(0.982, abs=1e-3)  # one label is judged alone
    both = run(model, asked, hypothesis_template="{} {} .")  # as transformers spells it
    assert both[0]["score"] > found[0]["score"]
    assert refused(model, asked, hypothesis_template="This is.").code is Code.INVALID_REQUEST


def test_a_model_that_says_other_things_judges_no_labels(tmp_path: Path) -> None:
    asked = {"text": "is", "labels": ["bad", "good"]}
    for labels in (("sad", "glad", "mad"), ("contradiction", "entailment")):
        assert refused(entailing(tmp_path, *labels), asked).code is Code.UNSUPPORTED_MODEL
    assert run(entailing(tmp_path, "not_entailed", "so so", "ENTAILS"), asked)


def test_a_ranking_needs_one_number_for_a_pair(tmp_path: Path) -> None:
    asked = {"query": "good", "documents": ["bad", "good"]}
    tokenizer = plain_words("good", "bad")
    for rows, fits in ((ONE, True), ({"good": [0.0, 1.0], "bad": [1.0, 0.0]}, False)):
        model = lookup(
            tmp_path, tokenizer, rows, task="text-ranking", output=TaskOutput(), pooled=True
        )
        if fits:
            assert run(model, asked) == [1.0, 4.0]
        else:
            assert refused(model, asked).code is Code.UNSUPPORTED_MODEL
