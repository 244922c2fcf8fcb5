"""Text to tokens and back, for the tokenizers that a GGUF may carry."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.engines.gguf_writer import SPECIALS, TOKENS, Gguf, tokenizer_metadata

from aigrid.engines import gguf
from aigrid.engines.gguf_tokenizer import GgufTokenizer
from aigrid.protocol.errors import Code, EngineError


def tokenizer(**changes: Any) -> GgufTokenizer:
    metadata = tokenizer_metadata(**changes)
    kept = {key: item for key, item in metadata.items() if item is not None}
    return GgufTokenizer(gguf.parse(Gguf(kept).build()), len(TOKENS))


def pieces(made: GgufTokenizer, text: str) -> list[str]:
    return [made.name(token) for token in made.encode(text)]


PLAIN = tokenizer()


@pytest.mark.parametrize("pre", ["smollm", "default", "gpt-2", "llama-bpe"])
@given(st.text(max_size=40).filter(lambda text: "<|" not in text))  # no control token
def test_text_survives_the_way_there_and_back(pre: str, text: str) -> None:
    made = MADE[pre]
    assert b"".join(map(made.piece, made.encode(text))).decode() == text


MADE = {
    pre: tokenizer(**{"tokenizer.ggml.pre": pre})
    for pre in ("smollm", "default", "gpt-2", "llama-bpe")
}


def test_merges_are_applied_in_order() -> None:
    assert pieces(PLAIN, "hello w") == ["hello", " w"]
    assert pieces(PLAIN, "hell") == ["hell"]


@pytest.mark.parametrize(
    ("pre", "expected"),
    [
        ("smollm", ["1", "2", "3", "4"]),
        ("qwen2", ["1", "2", "3", "4"]),
        ("llama-bpe", ["123", "4"]),
        ("default", ["123", "4"]),
        ("gpt-2", ["1234"]),
    ],
)
def test_digits_are_split_as_the_model_was_trained(pre: str, expected: list[str]) -> None:
    spare = ["12", "123", "1234"]
    tokens = [*TOKENS[: -len(spare)], *spare]
    made = tokenizer(
        **{
            "tokenizer.ggml.pre": pre,
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.merges": ["1 2", "12 3", "123 4"],
        }
    )
    assert pieces(made, "1234") == expected


def test_control_tokens_are_read_and_not_said() -> None:
    tokens = PLAIN.encode("<|im_start|>a<|im_end|>")
    assert [tokens[0], tokens[-1]] == [1, 2]
    assert b"".join(map(PLAIN.piece, tokens)) == b"a"
    assert PLAIN.name(1) == "<|im_start|>"
    assert PLAIN.ending == {0, 2}


def test_a_beginning_is_added_once_where_the_model_wants_it() -> None:
    made = tokenizer(**{"tokenizer.ggml.add_bos_token": True})
    assert made.encode("a")[:1] == [1]
    assert made.encode("<|im_start|>a")[:2] != [1, 1]
    assert PLAIN.encode("a")[:1] != [1]


def test_tokens_of_the_user_are_literal() -> None:
    kinds = [3, 3, 4] + [1] * (len(TOKENS) - 3)
    made = tokenizer(**{"tokenizer.ggml.token_type": kinds, "tokenizer.ggml.eos_token_id": 0})
    assert made.encode("<|im_end|>") == [2]
    assert made.piece(2) == b"<|im_end|>"


def test_a_lone_surrogate_is_an_invalid_request() -> None:
    with pytest.raises(EngineError) as caught:
        PLAIN.encode("\ud800")
    assert caught.value.code == Code.INVALID_REQUEST


@pytest.mark.parametrize(
    "changes",
    [
        {"tokenizer.ggml.model": "llama"},
        {"tokenizer.ggml.model": None},
        {"tokenizer.ggml.pre": "mystery"},
        {"tokenizer.ggml.pre": "mystery" * 1000},
        {"tokenizer.ggml.model": "llama" * 1000},
        {"tokenizer.ggml.merges": ["nosuch " + "token" * 1000]},
        {"tokenizer.ggml.tokens": None},
        {"tokenizer.ggml.tokens": ["a", "b"]},
        {"tokenizer.ggml.tokens": [1, 2]},
        {"tokenizer.ggml.tokens": [*TOKENS[:-1], TOKENS[0]]},
        {"tokenizer.ggml.merges": ["nosuch token"]},
        {"tokenizer.ggml.merges": ["single"]},
        {"tokenizer.ggml.merges": None},
        {"tokenizer.ggml.token_type": [1, 1]},
        {"tokenizer.ggml.eos_token_id": len(TOKENS)},
        {"tokenizer.ggml.bos_token_id": "one"},
    ],
)
def test_what_does_not_fit_is_unsupported(changes: Any) -> None:
    with pytest.raises(EngineError) as caught:
        tokenizer(**changes)
    assert caught.value.code == Code.UNSUPPORTED_MODEL
    assert len(caught.value.message) < 600


def test_a_vocabulary_without_specials_has_no_ending() -> None:
    made = tokenizer(
        **{
            "tokenizer.ggml.token_type": None,
            "tokenizer.ggml.eos_token_id": None,
            "tokenizer.ggml.bos_token_id": None,
        }
    )
    assert made.ending == frozenset()
    assert made.text_of(made.bos) == ""
    assert len(made.encode(SPECIALS[0])) > 1
