"""The starter model: real answers from real weights."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.engines.requantise import requantise
from tests.engines.texts import ask, inside, load, source

from aigrid.engines.base import CancelToken
from aigrid.engines.onnx_text import OnnxTextEngine
from aigrid.engines.sampling import NEAR_TIE
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.inference import ChatMessage, Finish, TextRequest

pytestmark = pytest.mark.model
FRANCE = (ChatMessage("user", "What is the capital of France?"),)
STORY = (ChatMessage("user", "Tell a story about a fox."),)


@pytest.fixture(scope="module")
def engine(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> OnnxTextEngine:
    return load(smollm2_path, cache=tmp_path_factory.mktemp("cache"), threads=2, spin=False)


def test_it_knows_the_capital_of_france(engine: OnnxTextEngine) -> None:
    text, _, _, finish = ask(engine, messages=FRANCE, max_tokens=40)
    assert "Paris" in text
    assert finish.reason == "stop"
    assert "<|" not in text


def test_in_other_types_it_says_what_its_weights_say(smollm2_path: Path, tmp_path: Path) -> None:
    # Rows of 576 are too short for the K types, so Q5_0 and Q8_0 stand beside Q4_K and Q6_K.
    mixed = requantise(smollm2_path, "Q4_K_M", tmp_path / "mixed.gguf")
    widened = requantise(mixed, "F32", tmp_path / "widened.gguf")
    answers = [
        ask(load(path, threads=2, spin=False, exact_inputs=True), messages=FRANCE, max_tokens=12)
        for path in (mixed, widened)
    ]
    assert answers[0][1] == answers[1][1]
    assert "City of Light" in answers[0][0]


def test_it_ends_by_itself_and_knows_the_conversation(engine: OnnxTextEngine) -> None:
    first = ask(engine, messages=FRANCE, max_tokens=40)[0]
    turns = (*FRANCE, ChatMessage("assistant", first), ChatMessage("user", "And of Italy?"))
    assert "Rome" in ask(engine, messages=turns, max_tokens=60)[0]


@pytest.mark.parametrize("fields", [{"temperature": 0.0}, {"temperature": 0.9, "top_p": 0.9}])
def test_a_continuation_is_the_rest_of_the_answer(engine: OnnxTextEngine, fields: Any) -> None:
    fields = {"messages": STORY, "seed": 42, **fields}
    text, ids, _, _ = ask(engine, max_tokens=40, **fields)
    # Another conversation in between, so that no keys and values are left from the first.
    ask(engine, messages=FRANCE, max_tokens=1)
    _, rest, _, finish = ask(engine, max_tokens=25, continued_ids=tuple(ids[:15]), **fields)
    assert rest == ids[15:]
    assert finish.completion_tokens == 25
    assert text


def test_chats_at_once_say_what_each_says_alone_up_to_a_near_tie(engine: OnnxTextEngine) -> None:
    chats = [(ChatMessage("user", f"Tell a story about {n} foxes."),) for n in range(2, 6)]

    def say(messages: Any) -> Any:
        return ask(engine, messages=messages, max_tokens=16, top_logprobs=2)

    alone = [say(messages) for messages in chats]
    with ThreadPoolExecutor(len(chats)) as pool:
        together = list(pool.map(say, chats))
    for (_, ids, logprobs, _), (_, others, _, _) in zip(alone, together, strict=True):
        pairs = enumerate(zip(ids, others, strict=False))
        differs = next((n for n, (one, other) in pairs if one != other), None)
        if differs is not None:
            first, second = logprobs[differs].top
            assert first[2] - second[2] < NEAR_TIE


def test_a_stop_string_that_spans_tokens_is_not_said(engine: OnnxTextEngine) -> None:
    text, _, _, _ = ask(engine, messages=STORY, max_tokens=40)
    stop = text[30:45]
    cut, _, _, finish = ask(engine, messages=STORY, max_tokens=40, stop=("never said", stop))
    assert cut == text[: text.index(stop)]
    assert finish.reason == "stop"


def test_log_probabilities_are_sane(engine: OnnxTextEngine) -> None:
    logprobs = ask(engine, messages=FRANCE, max_tokens=6, top_logprobs=5)[2]
    for entry in logprobs:
        assert entry.logprob <= 0
        assert entry.top[0][:2] == (entry.token_id, entry.token)
        assert len(entry.top) == 5
    assert "Paris" in "".join(entry.token for entry in logprobs)


def test_cancelling_stops_within_a_token(engine: OnnxTextEngine) -> None:
    cancel, chunks = CancelToken(), []
    for chunk in engine.infer(TextRequest(messages=STORY, temperature=0.0), cancel):
        chunks.append(chunk)
        if len(chunks) == 4:
            cancel.cancel()
    finish = chunks[-1]
    assert isinstance(finish, Finish)
    assert (finish.reason, finish.completion_tokens, len(chunks)) == ("cancelled", 4, 5)


def test_cancelling_cuts_a_prefill_short(engine: OnnxTextEngine) -> None:
    cancel = CancelToken()
    tokens = tuple(1000 + index for index in range(3500))
    began = time.process_time()  # what others compute meanwhile is not counted
    timer = threading.Timer(0.1, cancel.cancel)
    timer.start()
    chunks = list(engine.infer(TextRequest(token_ids=tokens), cancel))
    took = time.process_time() - began
    timer.join()
    assert chunks == [Finish("cancelled", 3500, 0)]
    # Of two threads: the whole would take many seconds, one chunk of 256 tokens less than one.
    assert took < 2
    assert "Paris" in ask(engine, messages=FRANCE, max_tokens=20)[0]


def test_context_overflow_is_typed(engine: OnnxTextEngine) -> None:
    long = (ChatMessage("user", "one two three " * 2000),)
    with pytest.raises(EngineError, match=r"has \d+ tokens .* 4096 fit") as caught:
        ask(engine, messages=long)
    assert caught.value.code == Code.CONTEXT_LENGTH_EXCEEDED


def test_other_scripts_come_out_whole(engine: OnnxTextEngine) -> None:
    tokenizer = inside(engine).tokenizer
    for text in ("你好,世界 🌍", "naïve Ελλάδα", "  two\n\n\tthree 1234"):
        tokens = tokenizer.encode(text)
        assert b"".join(map(tokenizer.piece, tokens)).decode() == text


def test_loading_is_quick_once_built_and_within_the_estimate(
    smollm2_path: Path, tmp_path: Path
) -> None:
    load(smollm2_path, cache=tmp_path, context=256)
    began = time.perf_counter()
    engine = OnnxTextEngine()
    model = source(smollm2_path, cache=tmp_path, context=256)
    estimate = engine.estimate(model)
    engine.load(model, threads=1)
    assert time.perf_counter() - began < 10
    assert (estimate.precision, estimate.context_tokens) == ("q4_1", 256)
    assert smollm2_path.stat().st_size < estimate.memory_bytes < 2**30
