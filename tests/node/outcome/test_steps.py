"""Modes as requests say them, and the graph of a pipeline."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigrid.node.outcome.modes import Cascade, Fallback, Mode, Pipeline, Race, Step, Vote, mode_of
from aigrid.node.outcome.steps import Graph, Made, found_at, references
from aigrid.protocol.errors import InvalidRequestError
from aigrid.protocol.limits import LIMITS

FIRST = Step("first", "translation")


def pipeline(*steps: dict[str, Any], **more: Any) -> Pipeline:
    made = said({"name": "pipeline", "steps": steps, **more})
    assert isinstance(made, Pipeline)
    return made


def said(mode: Any) -> Mode:
    return mode_of(msgspec.json.encode(mode))


def step(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "capability": "text-classification", **more}


def made_of(mode: Pipeline) -> Graph:
    return Graph(FIRST, mode, b'"hello"')


def made(**outputs: Any) -> dict[str, Made]:
    return {name: Made(value, len(msgspec.json.encode(value))) for name, value in outputs.items()}


def test_a_mode_is_a_name_or_an_object() -> None:
    assert said(None) == said("fallback") == Fallback()
    assert said("race") == said({"name": "race"}) == Race(None, 2)
    assert said({"name": "vote", "of": 5}) == Vote(5)
    assert Vote(4).needed == Vote(5).needed == 3
    assert said({"name": "cascade", "confidence": 0.5}) == Cascade(0.5)


@pytest.mark.parametrize(
    "mode",
    [
        "race ",
        "pipeline",
        5,
        [],
        {},
        {"name": "swarm"},
        {"name": "race", "of": 1},
        {"name": "race", "of": 9},
        {"name": "race", "after_ms": -1},
        {"name": "vote", "of": 2, "agree": 3},
        {"name": "vote", "of": 3.5},
        {"name": "cascade", "confidence": 1.5},
        {"name": "fallback", "of": 2},
        {"name": "pipeline", "steps": []},
        {"name": "pipeline", "steps": [step("A")]},
        {"name": "pipeline", "steps": [step("a")] * (LIMITS.pipeline_steps_max + 1)},
    ],
)
def test_what_is_no_mode_is_refused_by_name(mode: Any) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        said(mode)
    assert refused.value.param == "mode"


def test_without_inputs_each_step_goes_on_with_the_one_before() -> None:
    graph = made_of(pipeline(step("second"), step("third")))
    assert graph.after == {
        "first": frozenset(),
        "second": frozenset({"first"}),
        "third": frozenset({"second"}),
    }
    assert graph.output == "third"
    assert graph.input_of("first", made(input="hello")) == "hello"
    assert graph.input_of("second", made(first="salut")) == "salut"


def test_parts_of_outputs_go_where_an_input_refers_to_them() -> None:
    graph = made_of(
        pipeline(
            step("labels", input={"$from": "first"}),
            step(
                "asked",
                input={"text": {"$from": "input"}, "labels": [{"$from": "labels", "path": "/0/l"}]},
            ),
            output="labels",
        ),
    )
    assert graph.after["asked"] == {"labels"}
    assert graph.output == "labels"
    given_to = graph.input_of("asked", made(input="hello", labels=[{"l": "good"}]))
    assert given_to == {"text": "hello", "labels": ["good"]}


def test_steps_that_wait_for_nobody_may_run_at_once() -> None:
    graph = made_of(pipeline(step("a", input="x"), step("b", input={"$from": "input"})))
    assert set(graph.waves().get_ready()) == {"first", "a", "b"}


@pytest.mark.parametrize(
    ("steps", "more"),
    [
        ([step("first")], {}),
        ([step("input")], {}),
        ([step("a"), step("a")], {}),
        ([step("a", input={"$from": "z"})], {}),
        ([step("a", input={"$from": "a"})], {}),
        ([step("a", input={"$from": "b"}), step("b", input={"$from": "a"})], {}),
        ([step("a", input={"$from": "first", "else": 1})], {}),
        ([step("a", input={"$from": 1})], {}),
        ([step("a", input={"$from": "first", "path": "0"})], {}),
        ([step("a", input={"$from": "first", "path": "/" * 300})], {}),
        ([step("a")], {"output": "z"}),
    ],
)
def test_a_graph_that_is_none_is_refused(steps: list[dict[str, Any]], more: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError):
        made_of(pipeline(*steps, **more))


def test_an_input_may_not_be_nested_without_end() -> None:
    deep: Any = "x"
    for _ in range(40):
        deep = [deep]
    with pytest.raises(InvalidRequestError):
        list(references(deep))


def test_what_is_referred_to_again_and_again_is_refused_before_it_is_put_together() -> None:
    graph = made_of(pipeline(step("a", input=[{"$from": "first"}] * 1000)))
    with pytest.raises(InvalidRequestError, match="too long"):
        graph.input_of("a", {"first": Made("x", LIMITS.task_json_max_bytes // 100)})


def test_a_pointer_that_finds_nothing_says_where() -> None:
    graph = made_of(pipeline(step("a", input={"$from": "first", "path": "/0/label"})))
    outputs: tuple[Any, ...] = ([], {}, "text", [{"score": 1}], None)
    for output in outputs:
        with pytest.raises(InvalidRequestError, match="/0/label"):
            graph.input_of("a", made(first=output))


# The examples of RFC 6901, section 5.
RFC_6901: dict[str, Any] = {"foo": ["bar", "baz"], "": 0, "a/b": 1, "m~n": 8, " ": 7, "%": 2}


@pytest.mark.parametrize(
    ("pointer", "value"),
    [
        ("", RFC_6901),
        ("/foo", ["bar", "baz"]),
        ("/foo/0", "bar"),
        ("/", 0),
        ("/a~1b", 1),
        ("/m~0n", 8),
        ("/ ", 7),
        ("/%", 2),
    ],
)
def test_json_pointers_as_their_standard_has_them(pointer: str, value: Any) -> None:
    assert found_at(RFC_6901, pointer) == value


@given(st.text(alphabet="/~01-abc", max_size=12))
def test_any_pointer_finds_something_or_raises_a_lookup_error(pointer: str) -> None:
    value = {"a": [{"b": "c"}], "~": {"/": 1}}
    try:
        found_at(value, f"/{pointer}")
    except LookupError:
        pass
