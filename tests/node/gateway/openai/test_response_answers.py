"""Whatever a model says, the events of a response tell of it in order, and add up to its items."""

import json
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.node.gateway.double import MODEL, NAME, NODE

from aigrid.node.gateway.openai.response_answers import ResponseSpelling
from aigrid.node.gateway.step import Step
from aigrid.node.gateway.told import Told
from aigrid.node.mesh.routing.answer import Answer
from aigrid.protocol.errors import Code, RemoteError
from aigrid.protocol.inference import Finish, FinishReason, InferChunk


async def _nothing() -> AsyncIterator[tuple[InferChunk, ...]]:
    yield ()


def answer() -> Answer:
    return Answer("request", MODEL, NAME, NODE, _nothing(), segments=[])


TOLD = Told(answer(), (), 1, 0.5)


def spelling() -> ResponseSpelling:
    return ResponseSpelling({"store": False}, "request", 5)


def parsed(data: bytes) -> list[dict[str, Any]]:
    """The events, each of which names its type twice and alike."""
    found = []
    for block in data.decode().split("\n\n")[:-1]:
        name, _, payload = block.partition("\ndata: ")
        event = json.loads(payload)
        assert name == f"event: {event['type']}"
        found.append(event)
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


def streamed(steps: list[Step]) -> list[dict[str, Any]]:
    made = spelling()
    data = made.begin(answer())
    for step in steps:
        data += made.step(step)
    finish = steps[-1].finish
    assert finish is not None
    return parsed(data + made.end(finish, TOLD))


TEXT = st.text(max_size=4)
FUNCTION = st.fixed_dictionaries({}, optional={"name": TEXT, "arguments": TEXT | st.none()})
CALL = st.fixed_dictionaries(
    {}, optional={"index": st.integers(0, 2) | st.none(), "id": TEXT, "function": FUNCTION}
)
DELTA = st.fixed_dictionaries(
    {},
    optional={
        "reasoning_content": TEXT,
        "reasoning": TEXT | st.none(),
        "refusal": TEXT,
        "tool_calls": st.lists(CALL, max_size=3) | st.none(),
        "annotations": st.just([]),
    },
)
STEP = st.builds(
    lambda text, more: Step(text, (), None, more=tuple(json.dumps(one).encode() for one in more)),
    TEXT,
    st.lists(DELTA, max_size=2),
)
REASONS: list[FinishReason] = ["stop", "length", "tool_calls", "content_filter"]


@given(st.lists(STEP, max_size=6), st.sampled_from(REASONS))
def test_events_add_up_to_the_items_of_a_plain_answer(
    said: list[Step], reason: FinishReason
) -> None:
    steps = [*said, Step("", (), Finish(reason, 3, 2))]
    events = streamed(steps)
    whole = json.loads(spelling().whole(steps, TOLD))
    assert events[-1]["type"] == f"response.{whole['status']}"
    assert events[-1]["response"] == whole
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    output: list[dict[str, Any]] = whole["output"]
    kinds = Counter(event["type"] for event in events)
    assert kinds["response.output_item.added"] == kinds["response.output_item.done"] == len(output)
    assert len({item["id"] for item in output}) == len(output) > 0
    for index, item in enumerate(output):
        own = [event for event in events if event.get("output_index") == index]
        assert own[0]["type"] == "response.output_item.added"
        assert (own[-1]["type"], own[-1]["item"]) == ("response.output_item.done", item)
        assert {event.get("item_id", item["id"]) for event in own} == {item["id"]}
        deltas = "".join(event["delta"] for event in own if event["type"].endswith(".delta"))
        if item["type"] == "function_call":
            assert deltas == item["arguments"]
        else:
            (part,) = item["content"]
            assert deltas == part.get("text", part.get("refusal"))
    spoken = [item for item in output if item["type"] == "message"]
    texts = [part["text"] for item in spoken for part in item["content"] if "text" in part]
    assert "".join(texts) == "".join(step.text for step in steps)


def test_a_stream_that_fails_numbers_on_and_says_how_far_it_came() -> None:
    made = spelling()
    begun = Step("", (), None, more=(b'{"tool_calls":[{"function":{"arguments":"{"}}]}',))
    data = made.begin(answer()) + made.step(begun)
    events = parsed(data + made.failed(RemoteError("It died.", Code.CONNECTION_LOST), ()))
    assert [event["type"] for event in events[-2:]] == ["response.failed", "error"]
    (item,) = events[-2]["response"]["output"]
    assert (item["status"], item["arguments"]) == ("incomplete", "{")
    assert not any(event["type"].endswith(".done") for event in events)


def test_an_answer_without_a_word_has_an_empty_message() -> None:
    (item,) = json.loads(spelling().whole([Step("", (), Finish("stop"))], TOLD))["output"]
    assert item["content"] == [
        {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    ]


@pytest.mark.parametrize("more", [b'{"tool_calls":5}', b'{"tool_calls":[{"function":"f"}]}'])
def test_what_is_of_no_known_form_is_the_others_fault(more: bytes) -> None:
    with pytest.raises(RemoteError) as caught:
        spelling().step(Step("", (), None, more=(more,)))
    assert caught.value.code is Code.PROTOCOL_VIOLATION
