"""What is no JSON is told in words, with a place, in every dialect."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigrid.node.gateway.ollama.requests import decode_show
from aigrid.node.gateway.open_inference.infer_request import decode_infer
from aigrid.node.gateway.openai.chat_request import decode_chat
from aigrid.node.gateway.tasks import decode_task
from aigrid.node.outcome.no_json import no_json
from aigrid.node.outcome.request import decode
from aigrid.protocol.errors import InvalidRequestError

DECODERS: dict[str, tuple[str, Callable[[bytes], Any]]] = {
    "capability": ("input", decode),
    "chat": ("model", decode_chat),
    "show": ("model", decode_show),
    "infer": ("id", lambda body: decode_infer(body, None)),
    "task": ("model", lambda body: decode_task("translation", body)),
}


@pytest.mark.parametrize("dialect", DECODERS)
@pytest.mark.parametrize(
    ("value", "said"),
    [
        (rb'"\ud800"', r"\ud800 at byte {} is half of a surrogate pair"),
        (b'"\xff"', "byte {} is not UTF-8"),
        (b'"', "it ends too early, after {} bytes"),
    ],
)
def test_every_dialect_says_what_and_where(dialect: str, value: bytes, said: str) -> None:
    member, decoder = DECODERS[dialect]
    head = f'{{"{member}": '.encode()
    body = head + value + (b"" if value == b'"' else b"}")
    with pytest.raises(InvalidRequestError) as caught:
        decoder(body)
    assert said.format(len(head) + 1) in caught.value.message


@given(st.binary(max_size=200) | st.text('"\\u0189dDcCaf[]{}:,', max_size=100).map(str.encode))
def test_there_are_words_for_whatever_was_sent(raw: bytes) -> None:
    for error in (ValueError("Input data was truncated"), ValueError("x"), RecursionError()):
        assert no_json(raw, error)


@pytest.mark.parametrize("depth", [1, 200])
def test_a_number_that_nobody_holds_is_refused_in_few_words(depth: int) -> None:
    raw = b"[" * depth + b"1e999" + b"]" * depth
    with pytest.raises(msgspec.DecodeError) as caught:
        msgspec.json.decode(raw)
    said = no_json(raw, caught.value)
    assert said.startswith("Number out of range - at `$[0]")
    assert len(said) <= 203


def test_brackets_in_a_text_are_no_nesting() -> None:
    raw = b'["' + b"[" * 300 + b'\\"[", ' + b"[" * 255
    assert no_json(raw, RecursionError()).endswith(f"at byte {len(raw) - 1}")
