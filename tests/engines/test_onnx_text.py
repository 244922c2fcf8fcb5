"""The whole engine on a tiny random model: requests, endings, continuations, cancelling, errors."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from tests.engines.gguf_writer import ENDING, tiny_llama, write
from tests.engines.texts import ask, inside, load, source, stream

from aigrid.engines import keys_and_values, onnx_decoder, onnx_text, text_generate
from aigrid.engines.base import CancelToken, Engine, ModelSource
from aigrid.engines.contract import EngineContract
from aigrid.engines.onnx_text import OnnxTextEngine
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.inference import ChatMessage, Finish, TensorRequest, TextChunk, TextRequest

HELLO = (ChatMessage("user", "hello world"),)
# Bytes that decode to letters, so that stop strings can be taken from the answers.
SEEDED: dict[str, Any] = {"prompt": "hello", "temperature": 3.0, "seed": 11}


@pytest.fixture(scope="module")
def engine(tiny_path: Path) -> OnnxTextEngine:
    return load(tiny_path)


class TestOnnxTextEngine(EngineContract):
    engine = OnnxTextEngine

    @pytest.fixture
    def source(self, tiny_path: Path) -> ModelSource:
        return source(tiny_path)

    @pytest.fixture
    def request_(self) -> TextRequest:
        return TextRequest(prompt="hello", max_tokens=6, top_logprobs=2, seed=3)

    @pytest.fixture
    def wrong_request(self) -> TensorRequest:
        return TensorRequest(inputs={})

    @pytest.fixture
    def failing(self, tmp_path: Path) -> tuple[ModelSource, TextRequest]:
        bad = tiny_llama("F32", seed=3)
        for n, tensor in enumerate(bad.tensors):
            if tensor.name == "output_norm.weight":
                nothing = np.full(len(tensor.data) // 4, np.nan, "<f4").tobytes()
                bad.tensors[n] = replace(tensor, data=nothing)
        return source(write(tmp_path, bad)), TextRequest(prompt="hello", max_tokens=2)


def refused(engine: OnnxTextEngine, code: Code, **fields: Any) -> str:
    with pytest.raises(EngineError) as caught:
        ask(engine, **fields)
    assert caught.value.code == code
    return str(caught.value)


def test_it_is_an_engine(engine: OnnxTextEngine) -> None:
    assert isinstance(engine, Engine)
    found = OnnxTextEngine().probe()
    assert (found.problem, found.formats) == ("", ("gguf",))


def test_an_answer_has_a_chunk_for_each_token_and_counts(engine: OnnxTextEngine) -> None:
    chunks, finish = stream(engine, messages=HELLO, max_tokens=9, seed=1)
    assert [len(chunk.token_ids) for chunk in chunks[:9]] == [1] * finish.completion_tokens
    rendered = inside(engine).template.render(HELLO)
    assert finish.prompt_tokens == len(inside(engine).tokenizer.encode(rendered))


def test_greedy_takes_the_likeliest_of_the_distribution_it_reports(engine: OnnxTextEngine) -> None:
    _, ids, logprobs, _ = ask(engine, prompt="hello", max_tokens=12, top_logprobs=3)
    assert [entry.token_id for entry in logprobs] == ids
    for entry in logprobs:
        assert entry.top[0][0] == entry.token_id
        assert entry.top[0][2] == entry.logprob
        values = [value for _, _, value in entry.top]
        assert values == sorted(values, reverse=True)
        assert sum(map(np.exp, values)) <= 1 + 1e-6


def test_log_probabilities_do_not_depend_on_how_it_samples(engine: OnnxTextEngine) -> None:
    plain = ask(engine, prompt="hello", max_tokens=1, top_logprobs=4)[2]
    shaped = ask(engine, **SEEDED, top_p=0.3, max_tokens=1, top_logprobs=4)[2]
    assert shaped[0].top == plain[0].top


def test_no_log_probabilities_unless_asked(engine: OnnxTextEngine) -> None:
    assert ask(engine, prompt="hello", max_tokens=3)[2] == []
    assert ask(engine, prompt="hello", max_tokens=1, top_logprobs=0)[2][0].top == ()


def test_the_same_seed_gives_the_same_answer(engine: OnnxTextEngine) -> None:
    assert ask(engine, **SEEDED, max_tokens=30) == ask(engine, **SEEDED, max_tokens=30)
    answers = {ask(engine, prompt="hello", temperature=2.0, max_tokens=30)[0] for _ in range(3)}
    assert len(answers) > 1


@pytest.mark.parametrize("fields", [{"temperature": 0.0}, {"temperature": 3.0, "seed": 11}])
def test_a_continuation_elsewhere_is_the_rest_of_the_answer(
    engine: OnnxTextEngine, tiny_path: Path, fields: Any
) -> None:
    text, ids, _, finish = ask(engine, prompt="hello", max_tokens=30, **fields)
    chunks, _ = stream(engine, prompt="hello", max_tokens=30, **fields)
    elsewhere = load(tiny_path)
    for count in (1, 7, len(ids) - 1):
        said = "".join(chunk.text for chunk in chunks[:count])
        more, rest, _, end = ask(
            elsewhere,
            prompt="hello",
            continued_ids=tuple(ids[:count]),
            max_tokens=30 - count,
            **fields,
        )
        assert rest == ids[count:]
        assert said + more == text
        assert (end.reason, end.prompt_tokens) == (finish.reason, finish.prompt_tokens)


def test_a_stop_string_ends_the_answer_and_is_not_said(engine: OnnxTextEngine) -> None:
    text, ids, _, _ = ask(engine, **SEEDED, max_tokens=40)
    for start in range(1, len(text) - 3):
        stop = text[start : start + 3]
        cut, fewer, _, finish = ask(engine, **SEEDED, max_tokens=40, stop=(stop,))
        assert cut == text[: text.index(stop)]
        assert fewer == ids[: len(fewer)]
        assert finish.reason == "stop"


def test_a_continuation_goes_on_within_a_stop_string(engine: OnnxTextEngine) -> None:
    text, ids, _, _ = ask(engine, **SEEDED, max_tokens=40)
    stop = text[5:9]
    whole = ask(engine, **SEEDED, max_tokens=40, stop=(stop,))
    chunks, _ = stream(engine, **SEEDED, max_tokens=40, stop=(stop,))
    for count in range(1, len(whole[1]) + 1):
        said = "".join(chunk.text for chunk in chunks[:count])
        more, rest, _, finish = ask(
            engine, **SEEDED, continued_ids=tuple(ids[:count]), max_tokens=40, stop=(stop,)
        )
        assert (said + more, rest) == (whole[0], whole[1][count:])
        assert finish.reason == "stop"


def test_an_answer_that_already_ended_is_not_continued(engine: OnnxTextEngine) -> None:
    assert ask(engine, prompt="hello", continued_ids=(7, ENDING))[1:] == (
        [],
        [],
        Finish("stop", 1, 0),
    )


def test_the_ending_token_ends_the_answer(
    engine: OnnxTextEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, ids, _, _ = ask(engine, prompt="hello", max_tokens=10)
    ended = ids.index(ids[4])
    monkeypatch.setattr(inside(engine).tokenizer, "ending", frozenset({ids[4]}))
    _, fewer, _, finish = ask(engine, prompt="hello", max_tokens=10)
    assert (fewer, finish.reason) == (ids[:ended], "stop")


def test_max_tokens_and_the_context_bound_the_answer(engine: OnnxTextEngine) -> None:
    assert ask(engine, prompt="hello", max_tokens=5)[3] == Finish("length", 1, 5)
    inside(engine).tokenizer.ending, kept = frozenset(), inside(engine).tokenizer.ending
    try:
        assert ask(engine, prompt="hello")[3] == Finish("length", 1, 127)
    finally:
        inside(engine).tokenizer.ending = kept


def test_context_overflow_says_how_many_and_how_many_fit(engine: OnnxTextEngine) -> None:
    code = Code.CONTEXT_LENGTH_EXCEEDED
    message = refused(engine, code, token_ids=(5,) * 128)
    assert "128" in message
    assert "128 fit" in message
    assert "100 more" in refused(engine, code, token_ids=(5,) * 29, max_tokens=100)
    refused(engine, code, token_ids=(5,) * 100, continued_ids=(5,) * 29)
    assert "or more" in refused(engine, code, prompt="a" * 10_000_000)
    assert "or more" in refused(engine, code, messages=(ChatMessage("user", "a" * 10_000_000),))
    assert ask(engine, token_ids=(5,) * 127, max_tokens=1)[3].completion_tokens <= 1


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"messages": HELLO, "prompt": "hello"},
        {"prompt": ""},
        {"token_ids": ()},
        {"token_ids": (10_000,)},
        {"token_ids": (-1,)},
        {"prompt": "a", "continued_ids": (10_000,)},
        {"prompt": "\ud800"},
        {"prompt": "a", "max_tokens": 0},
        {"prompt": "a", "temperature": -1.0},
        {"prompt": "a", "top_p": 0.0},
        {"prompt": "a", "stop": ("",)},
        {"prompt": "a", "stop": ("a",) * 17},
        {"prompt": "a", "top_logprobs": 21},
        {"messages": HELLO * 2049},
        {"messages": (ChatMessage("tool", "4"),)},
    ],
)
def test_a_request_out_of_range_is_invalid(engine: OnnxTextEngine, fields: Any) -> None:
    refused(engine, Code.INVALID_REQUEST, **fields)
    assert ask(engine, prompt="hello", max_tokens=1)[3].completion_tokens == 1


def test_a_model_without_a_template_takes_prompts_only(tmp_path: Path) -> None:
    bare = load(write(tmp_path, tiny_llama("F32", without=("tokenizer.chat_template",))))
    refused(bare, Code.INVALID_REQUEST, messages=HELLO)
    assert ask(bare, prompt="hello", max_tokens=2)[3].completion_tokens == 2


def test_work_before_the_first_token_shows_signs_of_life(
    tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_text, "PREFILL_CHUNK", 4)
    engine = load(tiny_path, reuse_prefix=False)
    request = TextRequest(
        token_ids=(3, 4, 5) * 4, continued_ids=(7, 8, 9), max_tokens=2, temperature=0.0
    )
    plain = list(engine.infer(request, CancelToken()))
    assert TextChunk("") not in plain  # it took no second

    monkeypatch.setattr(text_generate, "_SIGN_OF_LIFE_SECONDS", 0.0)
    told = list(engine.infer(request, CancelToken()))
    assert [chunk for chunk in told if chunk != TextChunk("")] == plain
    assert told.index(plain[0]) == 6  # after 3 blocks and 3 tokens


def test_cancelling_stops_before_the_next_token(engine: OnnxTextEngine) -> None:
    cancel, seen = CancelToken(), []
    for chunk in engine.infer(TextRequest(prompt="hello", max_tokens=100, seed=1), cancel):
        seen.append(chunk)
        if len(seen) == 3:
            cancel.cancel()
    assert seen[-1] == Finish("cancelled", 1, 3)
    assert len(seen) == 4
    assert engine.stats().running == 0


def test_a_request_cancelled_before_it_began_computes_nothing(engine: OnnxTextEngine) -> None:
    cancel = CancelToken()
    cancel.cancel()
    assert ask(engine, cancel, prompt="hello")[1:] == ([], [], Finish("cancelled", 1, 0))


def test_cancelling_reaches_into_a_running_step(engine: OnnxTextEngine) -> None:
    """The hook ends a run that is under way; the engine answers the next request as before."""
    before = ask(engine, prompt="hello again", max_tokens=3)
    cancel = CancelToken()

    class Stuck:
        """A session whose run ends only when it is told to."""

        def run_with_iobinding(self, binding: object, options: Any) -> None:
            started.set()
            while not options.terminate:
                released.wait(0.001)
            raise RuntimeError("Exiting due to terminate flag being set to true.")

    started, released = threading.Event(), threading.Event()
    rows = inside(engine).batch._computer
    real, rows._session = rows._session, Stuck()

    def cancel_once_started() -> None:
        started.wait()
        cancel.cancel()

    canceller = threading.Thread(target=cancel_once_started)
    canceller.start()
    try:
        assert ask(engine, cancel, prompt="hello again")[3].reason == "cancelled"
    finally:
        canceller.join()
        rows._session = real
    assert ask(engine, prompt="hello again", max_tokens=3) == before


def test_a_failing_runtime_is_a_typed_error(
    engine: OnnxTextEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def run_with_iobinding(self, *_: object) -> None:
            raise RuntimeError("/secret/path is broken")

    monkeypatch.setattr(inside(engine).batch._computer, "_session", Broken())
    assert "secret" not in refused(engine, Code.ENGINE_FAILED, prompt="hello")


def test_memory_that_is_not_there_is_a_typed_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object, **__: object) -> NoReturn:
        raise MemoryError

    monkeypatch.setattr(onnx_decoder, "rotary_tables", none)
    with pytest.raises(EngineError) as caught:
        load(write(tmp_path, tiny_llama("F32")))
    assert caught.value.code == Code.OUT_OF_MEMORY


def test_rows_that_cannot_be_reserved_are_fewer_slots(
    tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = keys_and_values.Past

    def past(names: list[str], shape: tuple[int, int, int, int]) -> Any:
        if shape[0] > 2:
            raise OSError(12, "Cannot allocate memory")
        return real(names, shape)

    monkeypatch.setattr(onnx_decoder, "Past", past)
    engine = OnnxTextEngine()
    assert engine.load(source(tiny_path), threads=1).slots == 2
    assert ask(engine, prompt="hello", max_tokens=3)[3].completion_tokens == 3


def test_conversations_at_once_say_what_each_says_alone(tiny_path: Path) -> None:
    fields: list[dict[str, Any]] = [
        {
            "token_ids": (3, 4, 5) * (n + 1),
            "temperature": n % 2 * 2.0,
            "seed": n,
            "max_tokens": 20 - n,
        }
        for n in range(8)
    ]
    # Inputs that are not rounded: the last bits may differ beside others, but nothing makes more
    # of them, and in no step the two likeliest are as near as that.
    engine = load(tiny_path, exact_inputs=True)
    alone = [ask(engine, **each)[1] for each in fields]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda each: ask(engine, **each)[1], fields))
    assert together == alone
    assert engine.stats().running == 0


def test_one_that_fails_or_is_cancelled_does_not_disturb_another(tiny_path: Path) -> None:
    engine = load(tiny_path)
    expected = ask(engine, prompt="hello", max_tokens=40)
    begun, cancel = threading.Event(), CancelToken()

    def other() -> None:
        for _ in engine.infer(TextRequest(token_ids=(9, 8) * 30, temperature=0.0), cancel):
            begun.set()

    thread = threading.Thread(target=other)
    thread.start()
    begun.wait()
    answer = engine.infer(
        TextRequest(prompt="hello", max_tokens=40, temperature=0.0), CancelToken()
    )
    ids: list[int] = []
    for chunk in answer:
        ids += chunk.token_ids if isinstance(chunk, TextChunk) else ()
        if len(ids) == 5:
            cancel.cancel()
            thread.join(20)
    assert ids == expected[1]


def test_stats_count_what_was_done(tiny_path: Path) -> None:
    engine = load(tiny_path)
    prompt = inside(engine).tokenizer.encode("hello")
    ask(engine, prompt="hello", max_tokens=4)
    with pytest.raises(EngineError):
        ask(engine, prompt="")
    stats = engine.stats()
    assert (stats.requests, stats.running) == (2, 0)
    assert (stats.tokens_in, stats.tokens_out) == (len(prompt), 4)
    assert stats.busy_seconds > 0


def test_the_estimate_tells_context_precision_and_memory(tiny_path: Path) -> None:
    estimate = OnnxTextEngine().estimate(source(tiny_path))
    assert (estimate.context_tokens, estimate.precision, estimate.slots) == (128, "q4_1", 8)
    assert estimate.memory_bytes > 1024 * 1024
    assert OnnxTextEngine().estimate(source(tiny_path, context=32)).context_tokens == 32
    assert OnnxTextEngine().estimate(source(tiny_path, context=10**9)).context_tokens == 128


@pytest.mark.parametrize(
    "options",
    [{"context": 0}, {"context": "all"}, {"spin": 1}, {"exact_inputs": "yes"}, {"slots": 0}],
)
def test_options_of_another_type_are_refused(tiny_path: Path, options: Any) -> None:
    with pytest.raises(EngineError) as caught:
        load(tiny_path, **options)
    assert caught.value.code == Code.UNSUPPORTED_MODEL


def test_a_source_without_one_gguf_is_refused(tiny_path: Path) -> None:
    for files, form in (
        ({}, "gguf"),
        ({"a.gguf": tiny_path, "b.gguf": tiny_path}, "gguf"),
        ({"a.gguf": tiny_path}, "onnx"),
    ):
        with pytest.raises(EngineError) as caught:
            OnnxTextEngine().estimate(ModelSource("m", form, files, "text-generation"))
        assert caught.value.code == Code.UNSUPPORTED_MODEL


def test_an_unloaded_engine_says_so(tiny_path: Path) -> None:
    engine = load(tiny_path)
    engine.unload()
    refused(engine, Code.ENGINE_FAILED, prompt="hello")
