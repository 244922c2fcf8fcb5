"""Text from torch: what plain transformers generates from the same files, token for token."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.engines.torch_models import byte_level, gpt2, llama, saved, speaker, torch

from aigrid.engines.base import CancelToken, ModelSource
from aigrid.engines.contract import EngineContract
from aigrid.engines.torch import TorchEngine
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.inference import (
    ChatMessage,
    Finish,
    InferRequest,
    TaskRequest,
    TextChunk,
    TextRequest,
    TokenLogprob,
)

PROMPT = tuple(range(20, 60))
MESSAGES = (ChatMessage("user", "the quick fox"),)


def load(source: ModelSource) -> TorchEngine:
    engine = TorchEngine()
    engine.load(source, threads=1)
    return engine


def ask(
    engine: TorchEngine, cancel: CancelToken | None = None, **fields: Any
) -> tuple[str, list[int], list[TokenLogprob], Finish]:
    """Greedy unless told."""
    request = TextRequest(**{"temperature": 0.0, **fields})
    *chunks, finish = engine.infer(request, cancel or CancelToken())
    assert isinstance(finish, Finish)
    texts = [chunk for chunk in chunks if isinstance(chunk, TextChunk)]
    return (
        "".join(chunk.text for chunk in texts),
        [token for chunk in texts for token in chunk.token_ids],
        [entry for chunk in texts for entry in chunk.logprobs],
        finish,
    )


@pytest.fixture(scope="module")
def model() -> Any:
    return llama()


@pytest.fixture(scope="module")
def source(model: Any, tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    return speaker(tmp_path_factory.mktemp("llama"), model)


@pytest.fixture(scope="module")
def engine(source: ModelSource) -> TorchEngine:
    return load(source)


def generated(model: Any, prompt: tuple[int, ...], count: int) -> list[int]:
    made = model.generate(
        torch.tensor([prompt]), do_sample=False, max_new_tokens=count, min_new_tokens=count
    )
    tokens: list[int] = made[0, len(prompt) :].tolist()
    return tokens


class TestTorchEngine(EngineContract):
    engine = TorchEngine

    @pytest.fixture
    def source(self, tmp_path: Path) -> ModelSource:
        return speaker(tmp_path, llama())

    @pytest.fixture
    def request_(self) -> InferRequest:
        return TextRequest(token_ids=PROMPT, max_tokens=6, temperature=0.0)

    @pytest.fixture
    def wrong_request(self) -> InferRequest | None:
        return TaskRequest("feature-extraction", b'["a"]')

    @pytest.fixture
    def failing(self, tmp_path: Path) -> tuple[ModelSource, InferRequest]:
        broken = llama()
        with torch.no_grad():
            broken.model.norm.weight[0] = float("nan")
        return speaker(tmp_path, broken), TextRequest(token_ids=PROMPT, max_tokens=2)


@pytest.mark.parametrize("make", [llama, gpt2])
def test_greedy_tokens_are_those_of_transformers(tmp_path: Path, make: Any) -> None:
    model = make()
    engine = load(speaker(tmp_path, model))
    expected = generated(model, PROMPT, 30)
    if 1 in expected:
        expected = expected[: expected.index(1)]
    assert len(expected) > 10
    _, tokens, _, finish = ask(engine, token_ids=PROMPT, max_tokens=30)
    assert tokens == expected
    assert finish.prompt_tokens == len(PROMPT)


def test_a_prompt_longer_than_a_chunk_is_the_same(engine: TorchEngine, model: Any) -> None:
    prompt = tuple(2 + n * 7 % 300 for n in range(400))
    expected = generated(model, prompt, 5)
    assert 1 not in expected
    assert ask(engine, token_ids=prompt, max_tokens=5)[1] == expected


def test_log_probabilities_are_those_of_the_forward_pass(engine: TorchEngine, model: Any) -> None:
    _, tokens, logprobs, _ = ask(engine, token_ids=PROMPT, max_tokens=8, top_logprobs=3)
    with torch.inference_mode():
        logits = model(torch.tensor([[*PROMPT, *tokens]])).logits[0]
    expected = torch.log_softmax(logits, dim=-1)
    for n, entry in enumerate(logprobs):
        row = expected[len(PROMPT) - 1 + n]
        assert entry.token_id == tokens[n]
        assert entry.logprob == pytest.approx(float(row[tokens[n]]), abs=1e-4)
        values, ids = row.topk(3)
        assert [token for token, _, _ in entry.top] == ids.tolist()
        assert np.allclose([value for _, _, value in entry.top], values, atol=1e-4)


@pytest.mark.parametrize("fields", [{}, {"temperature": 0.9, "top_p": 0.9, "seed": 7}])
def test_a_continuation_is_the_rest_of_the_answer(engine: TorchEngine, fields: Any) -> None:
    fields = {"token_ids": PROMPT, **fields}
    text, whole, _, _ = ask(engine, max_tokens=20, **fields)
    ask(engine, token_ids=(5, 6, 7), max_tokens=2)
    _, rest, _, finish = ask(engine, max_tokens=12, continued_ids=tuple(whole[:8]), **fields)
    assert rest == whole[8:]
    assert finish.completion_tokens == len(rest)
    assert text


def test_a_chat_is_rendered_with_the_models_template(engine: TorchEngine) -> None:
    rendered = "<s><user>the quick fox<assistant>"
    expected = ask(engine, token_ids=tuple(byte_level().encode(rendered).ids), max_tokens=9)
    assert ask(engine, messages=MESSAGES, max_tokens=9)[:2] == expected[:2]


def test_text_is_what_the_tokenizer_decodes(engine: TorchEngine) -> None:
    text, tokens, _, _ = ask(engine, token_ids=PROMPT, max_tokens=40, temperature=1.5, seed=3)
    assert text == byte_level().decode(tokens)


def test_a_stop_string_is_not_said(engine: TorchEngine) -> None:
    text, _, _, _ = ask(engine, token_ids=PROMPT, max_tokens=30)
    stop = text[8:14]
    cut, _, _, finish = ask(engine, token_ids=PROMPT, max_tokens=30, stop=(stop,))
    assert cut == text[: text.index(stop)]
    assert finish.reason == "stop"


def test_cancelling_stops_within_a_token(engine: TorchEngine) -> None:
    cancel, chunks = CancelToken(), []
    for chunk in engine.infer(TextRequest(token_ids=PROMPT, temperature=0.0), cancel):
        chunks.append(chunk)
        if len(chunks) == 3:
            cancel.cancel()
    assert chunks[-1] == Finish("cancelled", len(PROMPT), 3)
    assert ask(engine, token_ids=PROMPT, max_tokens=4)[3].reason == "length"


def test_cancelling_stops_between_two_layers(model: Any, source: ModelSource) -> None:
    engine, cancel = load(source), CancelToken()
    assert engine._speaker is not None
    inner = engine._speaker.decoder._model.model.layers
    reached: list[int] = []

    def first(*_: Any) -> None:
        reached.append(0)
        cancel.cancel()

    def second(*_: Any) -> None:
        reached.append(1)

    inner[0].register_forward_hook(first)
    inner[1].register_forward_hook(second)
    chunks = list(engine.infer(TextRequest(token_ids=PROMPT), cancel))
    assert chunks == [Finish("cancelled", len(PROMPT), 0)]
    assert reached == [0]


def test_what_does_not_fit_is_refused(engine: TorchEngine) -> None:
    with pytest.raises(EngineError) as caught:
        ask(engine, token_ids=PROMPT * 20, max_tokens=1)
    assert caught.value.code is Code.CONTEXT_LENGTH_EXCEEDED
    with pytest.raises(EngineError) as caught:
        ask(engine, token_ids=(319, 320), max_tokens=1)
    assert caught.value.code is Code.INVALID_REQUEST


def test_the_estimate_holds_for_context_and_precision(tmp_path: Path) -> None:
    half = speaker(tmp_path, llama().to(torch.bfloat16), context=100)
    estimate = TorchEngine().estimate(half)
    assert estimate.context_tokens == 100
    on_cpu = not torch.accelerator.is_available()
    assert estimate.precision == ("float32" if on_cpu else "bfloat16")
    assert load(half).stats().requests == 0


def test_a_model_that_speaks_nonsense_ends_in_an_error(tmp_path: Path) -> None:
    broken = llama()
    with torch.no_grad():
        broken.model.norm.weight[0] = float("nan")
    with pytest.raises(EngineError, match="finite") as caught:
        ask(load(speaker(tmp_path, broken)), token_ids=PROMPT, max_tokens=2)
    assert caught.value.code is Code.ENGINE_FAILED


def test_without_a_tokenizer_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"tokenizer\.json") as caught:
        load(saved(tmp_path, llama(), "text-generation"))
    assert caught.value.code is Code.UNSUPPORTED_MODEL
