"""Datasets are lines that anybody may have written."""

import hashlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.protocol.strategies import NOW_MS, json_values

from aigrid.metagraph.capabilities import default_taxonomy
from aigrid.metagraph.concepts import LiveConcepts
from aigrid.node.evaluating import dataset as dataset_module
from aigrid.node.evaluating.dataset import Dataset, parse_dataset
from aigrid.node.evaluating.forms import EVALUATED, form_of
from aigrid.node.outcome.contracts import Contracts
from aigrid.protocol.errors import UsageError
from aigrid.protocol.inference import TaskRequest, TextRequest
from aigrid.protocol.limits import Limits

CONTRACTS = Contracts(LiveConcepts(default_taxonomy()), now_ms=lambda: NOW_MS)
ITEM: dict[str, Any] = {"input": "hello", "expected": "salut"}


def parsed(data: bytes, task: str = "translation", **parameters: str) -> Dataset:
    return parse_dataset(data, CONTRACTS.of(task), form_of(task)[0], parameters)


def lines(*items: Any) -> bytes:
    return b"".join(json.dumps(item).encode() + b"\n" for item in items)


def refusal(data: bytes, task: str = "translation") -> str:
    with pytest.raises(UsageError) as caught:
        parsed(data, task)
    return caught.value.message


def test_lines_become_requests_and_what_is_expected() -> None:
    data = lines({**ITEM, "parameters": {"max_tokens": 9}}) + b"\n" + lines(ITEM)
    found = parsed(data, source="en", target="fr")
    assert found.sha256 == hashlib.sha256(data).hexdigest()
    first, second = found.items
    assert first.want.request == TaskRequest("translation", b'"hello"', {"max_tokens": 9})
    assert first.expected == second.expected == ("salut",)
    constraints = first.want.criteria.constraints
    assert constraints is not None
    assert constraints.selecting == {"source": "en", "target": "fr"}
    assert found.seed == parsed(data).seed != parsed(lines(ITEM)).seed


def test_a_byte_order_mark_is_no_part_of_the_first_line() -> None:
    data = b"\xef\xbb\xbf" + lines(ITEM, {"input": 1, "expected": "x"})
    assert refusal(data).startswith("line 2")
    found = parsed(b"\xef\xbb\xbf" + lines(ITEM))
    assert found.sha256 == hashlib.sha256(b"\xef\xbb\xbf" + lines(ITEM)).hexdigest()
    assert [item.line for item in found.items] == [1]


def test_what_a_model_writes_is_not_left_to_chance() -> None:
    said = {"messages": [{"role": "user", "content": "hi"}]}
    items = ({"input": said, "expected": "hi"},)
    (item,) = parsed(lines(*items), "text-generation").items
    request = item.want.request
    assert isinstance(request, TextRequest)
    assert (request.temperature, request.seed, request.max_tokens) == (0.0, 0, 256)
    longer = {"input": said, "expected": "hi", "parameters": {"max_tokens": 5}}
    (item,) = parsed(lines(longer), "text-generation").items
    assert isinstance(item.want.request, TextRequest)
    assert item.want.request.max_tokens == 5


def test_what_cannot_be_used_is_told_by_its_line() -> None:
    good = lines(ITEM)
    for bad, why in (
        (b"{", "JSON"),
        (b'{"input": "\xff", "expected": "x"}', "UTF-8"),
        (b'{"input": "a"}', "expected"),
        (b'{"input": "a", "expected": "b", "label": "c"}', "label"),
        (b'{"input": 5, "expected": "b"}', "input of translation"),
        (b'{"input": "a", "expected": 5}', "cannot be an answer"),
        (b'{"input": "a", "expected": []}', "cannot be an answer"),
        (b'{"input": "a", "expected": "b", "parameters": {"beams": 2}}', "beams"),
        (b'{"input": "a", "expected": "b", "parameters": {"source": "en"}}', "--param"),
        (b'{"input": "a", "expected": "b", "parameters": {"max_tokens": 1%021d}}' % 0, "64 bits"),
        (b'{"input": "a", "expected": NaN}', "JSON"),
        (b"[" * 100_000, ""),
        (b'{"input": "a", "expected": ' + b"[" * 10_000 + b"]" * 10_000 + b"}", ""),
    ):
        said = refusal(good + bad + b"\n" + good)
        assert said.startswith("line 2 of the dataset: "), said
        assert why in said
    assert "empty" in refusal(b"\n \n")


def test_nothing_is_larger_than_it_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    small = Limits(dataset_max_bytes=200, dataset_line_max_bytes=60, dataset_items_max=3)
    monkeypatch.setattr(dataset_module, "LIMITS", small)
    assert len(parsed(lines(*[ITEM] * 3)).items) == 3
    assert "at most 3 items" in refusal(lines(*[ITEM] * 4))
    assert "longer than 60" in refusal(lines({**ITEM, "input": "x" * 60}))
    assert "at most 200 bytes" in refusal(lines(*[ITEM] * 10))


def test_what_is_wrong_with_a_line_is_said_briefly() -> None:
    assert len(refusal(lines({**ITEM, "x" * 5000: 1}))) < 600


EXPECTED: dict[str, Any] = {
    "zero-shot-classification": ({"text": "x", "labels": ["a"]}, "a"),
    "token-classification": ("Ann", [{"entity": "PER", "start": 0, "end": 3}]),
    "question-answering": ({"question": "q", "context": "c"}, ["a", "b"]),
    "text-ranking": ({"query": "q", "documents": ["a", "b"]}, [1, 0]),
    "tabular-classification": ([{"x": 1}, {"x": 2}], ["a", "b"]),
    "tabular-regression": ([{"x": 1}, {"x": 2}], [0.5, 2]),
    "anomaly-detection": ([1.0, 2.0], [True, False]),
    "fill-mask": ("a [MASK]", "b"),
}


@pytest.mark.parametrize("task", list(EXPECTED))
def test_every_form_reads_what_it_expects(task: str) -> None:
    value, expected = EXPECTED[task]
    assert parsed(lines({"input": value, "expected": expected}), task).items
    for wrong in (None, True, {"a": 1}, [None], [[1]], [-1, "x"]):
        refusal(lines({"input": value, "expected": wrong}), task)


@given(st.sampled_from(EVALUATED), json_values, json_values)
def test_no_value_whatever_raises_anything_else(task: str, output: Any, expected: Any) -> None:
    form, measure = form_of(task)
    try:
        wanted = form.expected(expected)
    except ValueError:
        return
    answer = form.matched(output, wanted)
    assert 0 <= measure.value([measure.tally(answer, wanted)]) <= 1


@given(st.binary(max_size=200))
def test_random_bytes_are_refused_in_words(data: bytes) -> None:
    try:
        parsed(data)
    except UsageError as error:
        assert error.message  # noqa: PT017 - either will do


def test_the_metric_is_one_of_those_that_the_task_has() -> None:
    assert form_of("translation")[1].name == "chrf"
    assert form_of("translation", "exact_match")[1].name == "exact_match"
    with pytest.raises(UsageError, match="`chrf`"):
        form_of("translation", "accuracy")
    with pytest.raises(UsageError, match="cannot be compared"):
        form_of("text-to-image")


def test_answers_are_read_as_the_engines_write_them() -> None:
    def read(task: str, output: Any, expected: Any) -> Any:
        form = form_of(task)[0]
        return form.matched(output, form.expected(expected))

    ranked = [{"label": "a", "score": 0.1}, {"label": "b", "score": 0.9}]
    assert read("text-classification", ranked, "b") == [("b", "a")]
    assert read("fill-mask", [{"token": "x", "score": 1}], "x") == [("x",)]
    assert read("tabular-classification", ranked, ["a", "b"]) == [("a",), ("b",)]
    assert read("tabular-classification", ranked, ["a"]) is None  # of another length
    assert read("text-generation", {"text": "hi"}, "hi") == "hi"
    assert read("question-answering", {"answer": "hi", "score": 1}, "hi") == "hi"
    assert read("translation", {"score": 1}, "hi") is None
    flags = [{"index": 0, "score": 2.0, "anomaly": True}]
    assert read("anomaly-detection", flags, [True]) == [(2.0, True)]
    form = form_of("anomaly-detection")[0]
    assert form.matched(flags, [True], negated=True) == [(-2.0, True)]
    assert msgspec.json.encode(read("translation", "x" * 20_000, "x")) != b"null"
