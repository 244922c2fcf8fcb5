"""The echo engine, by the contract and by what it adds to it."""

import threading
import time

import pytest
from tests.engines.doubles import source as echo_source

from aigrid.engines.base import CancelToken, ModelSource
from aigrid.engines.contract import EngineContract
from aigrid.engines.echo import CONTEXT_TOKENS, EchoEngine, token_id
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.inference import (
    ChatMessage,
    Finish,
    InferRequest,
    Tensor,
    TensorChunk,
    TensorRequest,
    TextChunk,
    TextRequest,
)


class TestEchoEngine(EngineContract):
    engine = EchoEngine

    @pytest.fixture
    def source(self) -> ModelSource:
        return echo_source()

    @pytest.fixture
    def request_(self) -> InferRequest:
        return TextRequest(prompt="a few words")

    @pytest.fixture
    def wrong_request(self) -> None:
        return None


def answer(request: TextRequest) -> tuple[str, Finish, list[int]]:
    engine = EchoEngine()
    engine.load(echo_source(), threads=1)
    *chunks, finish = engine.infer(request, CancelToken())
    assert isinstance(finish, Finish)
    texts = [c for c in chunks if isinstance(c, TextChunk)]
    return "".join(c.text for c in texts), finish, [i for c in texts for i in c.token_ids]


def test_the_last_user_message_comes_back_exactly() -> None:
    text = "  two  spaces,\nand a line "
    messages = (
        ChatMessage("user", "first"),
        ChatMessage("assistant", "no"),
        ChatMessage("user", text),
    )
    said, finish, ids = answer(TextRequest(messages=messages))
    assert said == text
    assert finish == Finish("stop", 1 + 1 + 6, len(ids))


def test_max_tokens_ends_the_answer_with_length() -> None:
    assert answer(TextRequest(prompt="a b c", max_tokens=2))[:2] == ("a b", Finish("length", 3, 2))


def test_a_stop_string_ends_the_answer_and_is_not_part_of_it() -> None:
    said, finish, _ = answer(TextRequest(prompt="one two. three", stop=("!", ". ")))
    assert (said, finish.reason) == ("one two", "stop")


def test_a_continuation_goes_on_where_the_ids_end() -> None:
    _, _, ids = answer(TextRequest(prompt="a b c d"))
    said, _, rest = answer(TextRequest(prompt="a b c d", continued_ids=tuple(ids[:2])))
    assert said == " c d"
    assert rest == ids[2:]


def test_token_ids_are_the_same_everywhere() -> None:
    assert token_id("word") == 0x7511
    assert answer(TextRequest(prompt="a"))[2] == [0xBE43]


def test_too_many_words_do_not_fit() -> None:
    with pytest.raises(EngineError) as refused:
        answer(TextRequest(prompt="w " * (CONTEXT_TOKENS + 1)))
    assert refused.value.code is Code.CONTEXT_LENGTH_EXCEEDED


def test_tensors_come_back() -> None:
    engine = EchoEngine()
    engine.load(echo_source(), threads=1)
    inputs = {"x": Tensor("int8", (2,), b"ab")}
    assert list(engine.infer(TensorRequest(inputs), CancelToken())) == [
        TensorChunk(inputs),
        Finish("stop"),
    ]


def test_a_delay_is_cut_short_by_a_cancel() -> None:
    engine = EchoEngine()
    engine.load(echo_source(delay_ms=60_000), threads=1)
    cancel = CancelToken()
    started = time.monotonic()
    threading.Timer(0.05, cancel.cancel).start()
    assert list(engine.infer(TextRequest(prompt="a b"), cancel)) == [Finish("cancelled")]
    assert time.monotonic() - started < 30
