"""Translation: what plain transformers generates from the same files."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.engines.torch_models import byte_level, marian, saved, t5, torch

from aigrid.engines.base import CancelToken, ModelSource
from aigrid.engines.contract import EngineContract
from aigrid.engines.onnx import OnnxEngine
from aigrid.engines.torch import TorchEngine
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.inference import Finish, InferRequest, TaskChunk, TaskRequest, TextRequest
from aigrid.protocol.task import TaskMapping, TextInput

TEXT = "The quick brown fox"
MAPPING = TaskMapping(text=TextInput(tokenizer="tokenizer.json", template="translate: {text}"))


def made(folder: Path, model: Any) -> ModelSource:
    return saved(folder, model, "translation", mapping=MAPPING, tokenizer=byte_level())


def load(source: ModelSource) -> TorchEngine:
    engine = TorchEngine()
    engine.load(source, threads=1)
    return engine


def ask(engine: TorchEngine, given: Any, **parameters: Any) -> tuple[Any, Finish]:
    request = TaskRequest("translation", json.dumps(given).encode(), parameters)
    chunk, finish = engine.infer(request, CancelToken())
    assert isinstance(chunk, TaskChunk)
    assert isinstance(finish, Finish)
    return json.loads(chunk.output), finish


class TestTorchEngineThatWrites(EngineContract):
    engine = TorchEngine

    @pytest.fixture
    def source(self, tmp_path: Path) -> ModelSource:
        return made(tmp_path, t5())

    @pytest.fixture
    def request_(self) -> InferRequest:
        return TaskRequest("translation", json.dumps(TEXT).encode(), {"max_tokens": 5})

    @pytest.fixture
    def wrong_request(self) -> InferRequest | None:
        return TextRequest(prompt="the cat")

    @pytest.fixture
    def failing(self, tmp_path: Path) -> tuple[ModelSource, InferRequest]:
        broken = t5()
        with torch.no_grad():
            broken.decoder.final_layer_norm.weight[0] = float("nan")
        request = TaskRequest("translation", json.dumps(TEXT).encode(), {"max_tokens": 5})
        return made(tmp_path, broken), request


@pytest.mark.parametrize("make", [t5, marian, lambda: marian(num_beams=3, length_penalty=0.6)])
def test_the_text_is_that_of_transformers(tmp_path: Path, make: Any) -> None:
    model = make()
    read = byte_level().encode(f"translate: {TEXT}").ids
    given = torch.tensor([read])
    expected = model.generate(
        given, attention_mask=torch.ones_like(given), do_sample=False, max_new_tokens=12
    )
    text = byte_level().decode(expected[0].tolist(), skip_special_tokens=True)
    assert text
    found, finish = ask(load(made(tmp_path, model)), TEXT, max_tokens=12)
    assert found == text
    assert finish.prompt_tokens == len(read)


@pytest.mark.parametrize(
    ("bias", "forced", "most", "reason"),
    [
        (1e4, None, 5, "stop"),
        (-1e4, None, 5, "length"),
        (-1e4, 1, 5, "length"),
        (1e4, 1, 5, "stop"),
        (-1e4, None, 512, "length"),  # the model takes 64
    ],
)
def test_a_text_that_is_cut_says_so(
    tmp_path: Path, bias: float, forced: int | None, most: int, reason: str
) -> None:
    model = marian(forced_eos_token_id=forced)
    model.final_logits_bias[0, model.config.eos_token_id] = bias
    _, finish = ask(load(made(tmp_path, model)), TEXT, max_tokens=most)
    assert finish.reason == reason


def test_a_text_that_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="takes 64") as caught:
        ask(load(made(tmp_path, marian())), "x y " * 60)
    assert caught.value.code is Code.INVALID_REQUEST


def test_cancelling_ends_the_writing(tmp_path: Path) -> None:
    engine, cancel, steps = load(made(tmp_path, t5())), CancelToken(), []
    assert engine._tasks is not None
    writer: Any = engine._tasks._tasks["translation"]

    def step(*_: Any) -> None:
        steps.append(0)
        if len(steps) == 3:
            cancel.cancel()

    writer._writer._model.decoder.register_forward_hook(step)
    request = TaskRequest("translation", json.dumps(TEXT).encode())
    assert list(engine.infer(request, cancel)) == [Finish("cancelled")]
    assert len(steps) == 3


def test_each_token_shows_that_the_writing_goes_on(tmp_path: Path) -> None:
    engine, cancel, steps = load(made(tmp_path, t5())), CancelToken(), []
    cancel.on_advance(lambda: steps.append(0))
    request = TaskRequest("translation", json.dumps(TEXT).encode(), {"max_tokens": 6})
    list(engine.infer(request, cancel))
    assert len(steps) >= 6 * 2  # two layers


def test_settings_that_would_take_all_memory_are_refused(tmp_path: Path) -> None:
    source = made(tmp_path, t5())
    (tmp_path / "generation_config.json").write_text(json.dumps({"num_beams": 10**6}))
    files = {**source.files, "generation_config.json": tmp_path / "generation_config.json"}
    with pytest.raises(EngineError, match="num_beams") as caught:
        load(ModelSource("m", "safetensors", files, "translation", {}, None, MAPPING))
    assert caught.value.code is Code.UNSUPPORTED_MODEL


def test_engines_that_cannot_write_do_not_say_so() -> None:
    assert "translation" in TorchEngine().probe().tasks
    assert "translation" not in OnnxEngine().probe().tasks
