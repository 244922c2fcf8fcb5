"""What an answer costs, whoever counts."""

from hypothesis import given
from hypothesis import strategies as st

from aigrid.node.policy.charging import Charge
from aigrid.protocol.inference import ChatMessage, Finish, TaskRequest, TextChunk, TextRequest


def request(text: str = "x" * 100, max_tokens: int | None = 50) -> TextRequest:
    return TextRequest(messages=(ChatMessage("user", text),), max_tokens=max_tokens)


def test_what_came_is_charged_once_and_the_rest_with_the_end() -> None:
    charge = Charge(request())
    assert charge.chunks((TextChunk("a", (1, 2)), TextChunk("b", (3,)))) == 3
    assert charge.chunks((TextChunk("c", (4,)), Finish("stop", 9, 6))) == 1 + 9 + 2
    assert charge.broke_off() == 0


def test_tokens_without_ids_are_counted_by_the_end_alone() -> None:
    charge = Charge(request())
    assert charge.chunks((TextChunk("abc"),)) == 0
    assert charge.chunks((Finish("stop", 9, 6),)) == 15


def test_what_was_not_counted_is_estimated() -> None:
    charge = Charge(request())
    assert charge.chunks((TextChunk("abcde"), Finish("stop", 0, 0))) == 100 // 4 + 2
    charge = Charge(request())
    assert charge.chunks((TextChunk("abc", (1, 2, 3)), Finish("stop", 0, 0))) == 3 + 25
    charge = Charge(TaskRequest("image-classification", b"1234"))
    assert charge.chunks((Finish("stop", 0, 0),)) == 0  # pixels are no tokens


def test_what_broke_off_is_estimated() -> None:
    charge = Charge(request("é" * 100))
    assert charge.chunks((TextChunk("a" * 8),)) == 0
    assert charge.broke_off() == (200 + 8) // 4
    assert charge.broke_off() == 0
    assert Charge(TaskRequest("feature-extraction", b"1234")).broke_off() == 1


def test_what_is_said_beside_text_is_not_free() -> None:
    asked = TextRequest(messages=(ChatMessage("user", "x" * 8, b"{" + b"m" * 8),), more=b"x" * 7)
    charge = Charge(asked)
    assert charge.chunks((TextChunk("", more=b"y" * 16),)) == 0
    assert charge.broke_off() == (8 + 9 + 7 + 16) // 4


@given(
    st.integers(0, 2**53 - 1),
    st.integers(0, 2**53 - 1),
    st.lists(st.integers(0, 5), max_size=9),
    st.one_of(st.none(), st.integers(0, 1000)),
)
def test_no_serving_node_makes_an_answer_cost_more_than_it_can(
    prompt: int, completion: int, batches: list[int], max_tokens: int | None
) -> None:
    charge = Charge(request(max_tokens=max_tokens))
    seen = sum(charge.chunks((TextChunk("", tuple(range(count))),)) for count in batches)
    assert seen == sum(batches)
    total = seen + charge.chunks((Finish("stop", prompt, completion),))
    limit = 131_072 if max_tokens is None else max_tokens
    assert total <= 200 + 4096 + max(limit, seen)
    assert total >= min(prompt, 100) + max(seen, min(completion, limit))


def test_a_prompt_of_token_ids_is_not_free_either() -> None:
    assert Charge(TextRequest(token_ids=(1,) * 600, max_tokens=5)).broke_off() == 600
    assert Charge(TextRequest(prompt="", continued_ids=(1,) * 600, max_tokens=5)).broke_off() == 600
