"""llama.cpp beneath our sampling: what `onnx_text` answers, and models that it does not take."""

import struct
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio
from tests.engines.gguf_writer import TOKENS, tiny_llama, write
from tests.engines.requantise import requantise
from tests.engines.texts import load as load_onnx
from tests.engines.texts import source

from aigrid.engines import llama_cpp_model
from aigrid.engines.base import CancelToken, Device, ModelSource, Probe
from aigrid.engines.contract import EngineContract
from aigrid.engines.devices import resident_bytes
from aigrid.engines.llama_cpp import LlamaCppEngine
from aigrid.engines.llama_cpp_model import Run
from aigrid.engines.onnx_text import OnnxTextEngine
from aigrid.engines.registry import EngineTable, probe
from aigrid.node.workers.spawning import ProcessSpawner
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.inference import (
    ChatMessage,
    Finish,
    InferRequest,
    TensorRequest,
    TextChunk,
    TextRequest,
)

pytest.importorskip("llama_cpp", reason="the extra `llama_cpp` is not installed")

HELLO = (ChatMessage("user", "hello world"),)
FRANCE = (ChatMessage("user", "What is the capital of France?"),)
SEEDED: dict[str, Any] = {"prompt": "hello", "temperature": 3.0, "seed": 12}
ARRAY, FLOAT = 9, 6


def load(path: Path, *, threads: int = 1, **options: Any) -> LlamaCppEngine:
    engine = LlamaCppEngine()
    engine.load(source(path, **options), threads=threads)
    return engine


def ask(
    engine: Any, cancel: CancelToken | None = None, **fields: Any
) -> tuple[str, list[int], Finish]:
    """Text, token ids and Finish; greedy unless told."""
    request = TextRequest(**{"temperature": 0.0, **fields})
    *chunks, finish = engine.infer(request, cancel or CancelToken())
    said = [chunk for chunk in chunks if isinstance(chunk, TextChunk)]
    assert isinstance(finish, Finish)
    return "".join(c.text for c in said), [t for c in said for t in c.token_ids], finish


def refused(call: Any) -> EngineError:
    with pytest.raises(EngineError) as caught:
        call()
    return caught.value


def inside(engine: LlamaCppEngine) -> Any:
    assert engine._loaded is not None
    return engine._loaded


def sentencepiece() -> dict[str, Any]:
    """A tokenizer of the kind that came with the first llamas, as large as that of the others."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", "he"]
    words += [f"word{n}" for n in range(len(TOKENS) - len(words))]
    kinds = [2, 3, 3, *[6] * 256, *[1] * (len(words) - 259)]
    scores = struct.pack(f"<IIQ{len(words)}f", ARRAY, FLOAT, len(words), *[0.0] * len(words))
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": words,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.add_bos_token": True,
    }


@pytest.fixture(scope="module")
def plain_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("plain"), tiny_llama("F32", seed=3))


@pytest.fixture(scope="module")
def engine(plain_path: Path) -> LlamaCppEngine:
    return load(plain_path)


class TestLlamaCppEngine(EngineContract):
    engine = LlamaCppEngine

    @pytest.fixture
    def source(self, tiny_path: Path) -> ModelSource:
        return source(tiny_path)

    @pytest.fixture
    def request_(self) -> InferRequest:
        return TextRequest(prompt="hello", max_tokens=6, top_logprobs=2, seed=3)

    @pytest.fixture
    def wrong_request(self) -> InferRequest:
        return TensorRequest(inputs={})


@pytest.mark.parametrize("fields", [{"messages": HELLO}, SEEDED, {**SEEDED, "top_p": 0.5}])
def test_it_answers_what_the_other_engine_answers(
    engine: LlamaCppEngine, plain_path: Path, fields: Any
) -> None:
    other = load_onnx(plain_path, exact_inputs=True)
    # Keys and values in halves shift a draw now and then, so not for ever.
    assert ask(engine, max_tokens=10, **fields) == ask(other, max_tokens=10, **fields)


def test_log_probabilities_are_those_of_the_other_engine(
    engine: LlamaCppEngine, plain_path: Path
) -> None:
    request = TextRequest(prompt="hello", max_tokens=8, top_logprobs=4, temperature=0.0)
    both = [
        [c.logprobs[0] for c in made.infer(request, CancelToken()) if isinstance(c, TextChunk)]
        for made in (engine, load_onnx(plain_path, exact_inputs=True))
    ]
    for one, other in zip(*both, strict=True):
        assert one.token == other.token
        assert one.logprob == pytest.approx(other.logprob, abs=0.02)
        assert [n for _, n, _ in one.top] == [n for _, n, _ in other.top]


def test_tokens_of_a_text_are_those_of_the_other_engine(
    engine: LlamaCppEngine, plain_path: Path
) -> None:
    one, other = inside(engine).tokenizer, OnnxTextEngine()
    other.load(source(plain_path), threads=1)
    assert other._loaded is not None
    theirs = other._loaded.tokenizer
    for text in ("hello world", "<|im_start|>user\nhello<|im_end|>", "naïve 你好 🌍", "a\x00b", ""):
        assert one.encode(text) == theirs.encode(text)
    for token in range(len(TOKENS)):
        assert one.piece(token) == theirs.piece(token)
        assert one.name(token) == theirs.name(token)
    assert one.ending == theirs.ending
    assert refused(lambda: one.encode("\ud800")).code is Code.INVALID_REQUEST


def test_a_continuation_is_the_rest_of_the_answer(engine: LlamaCppEngine) -> None:
    for fields in ({"prompt": "hello", "temperature": 0.0}, SEEDED):
        text, ids, finish = ask(engine, max_tokens=30, **fields)
        for count in (1, 7, 20):
            ask(engine, messages=HELLO, max_tokens=1)
            more, rest, end = ask(
                engine, **fields, continued_ids=tuple(ids[:count]), max_tokens=30 - count
            )
            assert rest == ids[count:]
            assert text.endswith(more)
            assert end.prompt_tokens == finish.prompt_tokens


def test_a_stop_string_ends_the_answer_and_is_not_said(engine: LlamaCppEngine) -> None:
    fields = {**SEEDED, "max_tokens": 40}
    stop = ask(engine, **fields)[0][5:8]
    cut, _, finish = ask(engine, **fields, stop=(stop,))
    assert len(stop) == 3
    assert (cut, finish.reason) == (ask(engine, **fields)[0].partition(stop)[0], "stop")


def test_a_common_beginning_is_not_computed_again_and_changes_nothing(
    plain_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama_cpp_model, "PREFILL_CHUNK", 8)
    engine = load(plain_path)
    steps: list[int] = []
    fresh = load(plain_path, reuse_prefix=False)
    decoder = inside(engine).decoder
    real, decoder._c = decoder._c, _Counting(decoder._c, steps)
    first, second = (tuple(range(3, 33)), (*range(3, 25), *range(90, 100)))
    for prompt, computed in ((first, 4), (first, 1), (second, 2), (first[:4], 1), (first, 4)):
        steps.clear()
        found = ask(engine, token_ids=prompt, max_tokens=1)
        assert len(steps) == computed
        assert found == ask(fresh, token_ids=prompt, max_tokens=1)
    decoder._c = real


class _Counting:
    """The library, with its computations counted."""

    def __init__(self, library: Any, steps: list[int]) -> None:
        self._library, self._steps = library, steps

    def __getattr__(self, name: str) -> Any:
        if name == "llama_decode":
            self._steps.append(0)
        return getattr(self._library, name)


@pytest.mark.parametrize(("number", "size"), [(20, 18), (23, 136), (39, 17)])
def test_types_that_are_for_it_alone(tmp_path: Path, number: int, size: int) -> None:
    """IQ4_NL, IQ4_XS and MXFP4: the other engine refuses them and says where to go."""
    model = tiny_llama("F32", kinds={"blk.0.ffn_up": "Q4_K"})
    tensor = next(t for t in model.tensors if t.name == "blk.1.ffn_down.weight")
    blocks = 256 * 512 // (256 if number == 23 else 32)
    tensor.kind, tensor.data = number, bytes(blocks * size)
    path = write(tmp_path, model)
    error = refused(lambda: load_onnx(path))
    assert error.code is Code.UNSUPPORTED_QUANTISATION
    assert "aigrid-node[llama_cpp]" in error.message
    assert ask(load(path), prompt="hello", max_tokens=4)[2].completion_tokens == 4


def test_a_tokenizer_that_is_for_it_alone(tmp_path: Path) -> None:
    without = ("tokenizer.ggml.merges", "tokenizer.ggml.pre", "tokenizer.chat_template")
    path = write(tmp_path, tiny_llama("F32", metadata=sentencepiece(), without=without))
    assert "aigrid-node[llama_cpp]" in refused(lambda: load_onnx(path)).message
    engine = load(path)
    tokenizer = inside(engine).tokenizer
    ids = tokenizer.encode("he é")
    assert ids[0] == tokenizer.bos == 1
    assert b"".join(map(tokenizer.piece, ids)).decode() == " he é"
    assert ask(engine, prompt="he", max_tokens=4)[2].completion_tokens == 4
    assert refused(lambda: ask(engine, messages=HELLO)).code is Code.INVALID_REQUEST


def test_it_comes_last_unless_it_is_preferred(plain_path: Path) -> None:
    probes = [probe("llama_cpp"), probe("onnx_text")]
    model = source(plain_path)
    assert EngineTable(probes).engines_for(model) == ("onnx_text", "llama_cpp")
    assert EngineTable(probes, ["llama_cpp"]).engines_for(model)[0] == "llama_cpp"


def test_without_the_package_it_names_the_way_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aigrid.engines.llama_cpp._PACKAGE", "llama-cpp-python-that-is-not")
    found: Probe = LlamaCppEngine().probe()
    assert "pip install 'aigrid-node[llama_cpp]'" in found.problem


def test_what_llama_cpp_refuses_is_typed_and_names_no_path(tmp_path: Path) -> None:
    path = write(tmp_path, tiny_llama("F32", architecture="unheard"))
    error = refused(lambda: load(path))
    assert error.code is Code.UNSUPPORTED_MODEL
    assert "unheard" in error.message
    assert str(tmp_path) not in error.message


def test_a_file_that_is_cut_short_never_reaches_llama_cpp(
    plain_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama_cpp_model, "library", None)
    (tmp_path / "cut.gguf").write_bytes(plain_path.read_bytes()[:-4096])
    assert refused(lambda: load(tmp_path / "cut.gguf")).code is Code.UNSAFE_FILE


def test_logits_that_are_not_finite_end_in_an_error(tmp_path: Path) -> None:
    model = tiny_llama("F32")
    norm = next(t for t in model.tensors if t.name == "output_norm.weight")
    norm.data = np.full(norm.dims, np.nan, "<f4").tobytes()
    engine = load(write(tmp_path, model))
    assert refused(lambda: ask(engine, prompt="hello")).code is Code.ENGINE_FAILED


@pytest.mark.parametrize(
    "options", [{"context": 0}, {"gpu_layers": "all"}, {"gpu_layers": -2}, {"reuse_prefix": 1}]
)
def test_options_of_another_type_are_refused(plain_path: Path, options: Any) -> None:
    assert refused(lambda: load(plain_path, **options)).code is Code.UNSUPPORTED_MODEL


def test_the_estimate_tells_context_and_precision(tiny_path: Path) -> None:
    estimate = LlamaCppEngine().estimate(source(tiny_path))
    assert (estimate.context_tokens, estimate.precision, estimate.slots) == (128, "q4_1", 1)
    assert LlamaCppEngine().estimate(source(tiny_path, context=32)).context_tokens == 32


def test_a_computation_that_runs_hears_of_the_cancel(engine: LlamaCppEngine) -> None:
    """llama.cpp looks at the byte between two steps of its graph, not only we before a run."""
    before = ask(engine, prompt="hello", max_tokens=3)
    run = Run(CancelToken())
    run.flag.value = b"x"  # as the cancel sets it, once `step` is past its own question
    decoder = inside(engine).decoder
    assert "(2)" in refused(lambda: list(decoder.prefill((3, 4, 5), run))).message
    assert ask(engine, prompt="hello", max_tokens=3) == before


def test_a_cancel_that_comes_late_does_not_stop_the_next_request(engine: LlamaCppEngine) -> None:
    cancel = CancelToken()
    before = ask(engine, cancel, prompt="hello", max_tokens=3)
    cancel.cancel()
    assert ask(engine, prompt="hello", max_tokens=3) == before


def test_nothing_is_printed(plain_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ask(load(plain_path), prompt="hello", max_tokens=3)
    LlamaCppEngine().probe()
    assert capfd.readouterr() == ("", "")


async def test_it_runs_confined_in_a_worker(plain_path: Path, tmp_path: Path) -> None:
    spawner = ProcessSpawner(tmp_path / "logs")
    async with trio.open_nursery() as nursery:
        await nursery.start(spawner.run)
        worker = await spawner.spawn(source(plain_path), engine="llama_cpp", threads=2)
        request = TextRequest(prompt="hello", max_tokens=5, temperature=0.0)
        async with worker.infer(request) as batches:
            chunks = [chunk async for batch in batches for chunk in batch]
        assert chunks[-1] == Finish("length", 1, 5)
        await worker.kill()
        nursery.cancel_scope.cancel()


@pytest.mark.model
def test_the_starter_model_says_what_it_says_elsewhere(smollm2_path: Path, tmp_path: Path) -> None:
    # Each engine rounds the inputs of 4-bit matrices in its own way, so the weights are widened.
    path = requantise(smollm2_path, "F32", tmp_path / "widened.gguf")
    found = ask(load(path, threads=2), messages=FRANCE, max_tokens=30)
    other = load_onnx(path, threads=2, spin=False, exact_inputs=True)
    assert found == ask(other, messages=FRANCE, max_tokens=30)
    assert "Paris" in found[0]


@pytest.mark.model
def test_cancelling_cuts_a_prefill_short(smollm2_path: Path) -> None:
    engine, cancel = load(smollm2_path, threads=2), CancelToken()
    tokens = tuple(1000 + index for index in range(3500))
    timer = threading.Timer(0.1, cancel.cancel)
    began = time.perf_counter()
    timer.start()
    assert ask(engine, cancel, token_ids=tokens)[2] == Finish("cancelled", 3500, 0)
    timer.join()
    assert time.perf_counter() - began < 2  # the whole takes many seconds
    assert ask(engine, messages=FRANCE, max_tokens=4)[2].completion_tokens == 4


@pytest.mark.model
def test_the_starter_model_stays_within_what_loading_reported(smollm2_path: Path) -> None:
    before = resident_bytes()
    engine = LlamaCppEngine()
    reported = engine.load(replace(source(smollm2_path), options={}), threads=1).memory_bytes
    ask(engine, token_ids=tuple(1000 + index for index in range(700)), max_tokens=4)
    assert resident_bytes() - before <= reported
    assert reported <= LlamaCppEngine().estimate(source(smollm2_path)).memory_bytes


def test_without_an_accelerator_it_is_the_processors_alone() -> None:
    """An empty list of devices, not none: that would be all there are."""
    handles = llama_cpp_model._handles(None)
    assert list(handles) == [None]
    gone = Device("cuda", "a card", index=7)
    assert refused(lambda: llama_cpp_model._handles(gone)).code is Code.ENGINE_FAILED
