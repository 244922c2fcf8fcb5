"""Encoders built from safetensors: what numpy computes from the same file, the engine answers."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace as changed
from safetensors.numpy import load_file, save_file
from tests.engines.bert_models import CONFIG, TEXT, VECTORS, Reference, save, tokenizer, weights

from aigrid.engines.base import CancelToken, ModelSource
from aigrid.engines.contract import EngineContract
from aigrid.engines.onnx_encoder import OnnxEncoderEngine
from aigrid.engines.registry import EngineTable, probe
from aigrid.engines.tasks.tokens import batches
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.inference import (
    Finish,
    InferRequest,
    TaskChunk,
    TaskRequest,
    Tensor,
    TensorRequest,
    TextRequest,
)
from aigrid.protocol.task import TaskMapping, TaskOutput

TEXTS = ("the quick fox ran", "a cat", "the dogs sat on the mat on the mat on the mat", "the")
KINDS = ("O", "B-animal", "I-animal")


def load(source: ModelSource) -> OnnxEncoderEngine:
    engine = OnnxEncoderEngine()
    engine.load(source, threads=1)
    return engine


def ask(engine: OnnxEncoderEngine, task: str, given: Any, **parameters: Any) -> Any:
    request = TaskRequest(task, json.dumps(given).encode(), parameters)
    chunk, finish = engine.infer(request, CancelToken())
    assert isinstance(chunk, TaskChunk)
    assert isinstance(finish, Finish)
    return json.loads(chunk.output)


def refused(source: ModelSource) -> EngineError:
    with pytest.raises(EngineError) as caught:
        OnnxEncoderEngine().estimate(source)
    return caught.value


class TestOnnxEncoderEngine(EngineContract):
    engine = OnnxEncoderEngine

    @pytest.fixture
    def source(self, tmp_path: Path) -> ModelSource:
        return save(tmp_path, CONFIG, weights(CONFIG))

    @pytest.fixture
    def request_(self) -> InferRequest:
        return TaskRequest("feature-extraction", json.dumps(TEXTS).encode())

    @pytest.fixture
    def wrong_request(self) -> InferRequest | None:
        return TextRequest(prompt="the cat")

    @pytest.fixture
    def failing(self, tmp_path: Path) -> tuple[ModelSource, InferRequest]:
        bad = weights(CONFIG)
        bad["embeddings.LayerNorm.bias"][0] = np.nan
        request = TaskRequest("feature-extraction", json.dumps(TEXTS).encode())
        return save(tmp_path, CONFIG, bad), request


@pytest.mark.parametrize("act", ["gelu", "relu", "gelu_new", "gelu_pytorch_tanh"])
def test_vectors_are_those_that_numpy_computes(tmp_path: Path, act: str) -> None:
    config = {**CONFIG, "hidden_act": act, "layer_norm_eps": 1e-6}
    source = save(tmp_path, config, weights(config, seed=4))
    reference = Reference(source)
    found = ask(load(source), "feature-extraction", TEXTS)
    # All in one batch, so what is padded must not be seen.
    for text, vector in zip(TEXTS, found, strict=True):
        assert np.allclose(vector, reference.vector(text), atol=1e-5)


@pytest.mark.parametrize("kind", [np.float16, "bfloat16"])
def test_halves_are_read_as_they_are(tmp_path: Path, kind: Any) -> None:
    whole = weights(CONFIG)
    source = save(tmp_path, CONFIG, whole)
    path = source.files["model.safetensors"]
    if kind == "bfloat16":
        _rewrite_as_brain_floats(path, whole)
        rounded = {name: _upper(array) for name, array in whole.items()}
    else:
        save_file({name: array.astype(kind) for name, array in whole.items()}, path)
        rounded = {name: array.astype(kind).astype(np.float32) for name, array in whole.items()}
    found = ask(load(source), "feature-extraction", TEXTS[:1])
    precision = OnnxEncoderEngine().estimate(source).precision
    save_file(rounded, path)
    assert np.allclose(found[0], Reference(source).vector(TEXTS[0]), atol=1e-5)
    assert precision == ("bfloat16" if kind == "bfloat16" else "float16")


def test_what_has_vectors_compares_and_ranks(tmp_path: Path) -> None:
    source = save(tmp_path, CONFIG, weights(CONFIG))
    engine, reference = load(source), Reference(source)
    first, *others = (reference.vector(text) for text in TEXTS)
    expected = [float(first @ other) for other in others]
    given = {"source": TEXTS[0], "sentences": TEXTS[1:]}
    assert np.allclose(ask(engine, "sentence-similarity", given), expected, atol=1e-5)
    given = {"query": TEXTS[0], "documents": TEXTS[1:]}
    assert np.allclose(ask(engine, "text-ranking", given), expected, atol=1e-5)


def test_each_batch_shows_that_the_work_goes_on(tmp_path: Path) -> None:
    engine, cancel, steps = load(save(tmp_path, CONFIG, weights(CONFIG))), CancelToken(), []
    cancel.on_advance(lambda: steps.append(0))
    texts = TEXTS[2:3] * 500
    runs = len(batches(tokenizer().encode_batch(texts)))
    assert runs > 1
    list(engine.infer(TaskRequest("feature-extraction", json.dumps(texts).encode()), cancel))
    assert len(steps) == runs


@pytest.mark.parametrize(("pooling", "of"), [("cls", lambda h: h[0]), ("max", lambda h: h.max(0))])
def test_other_poolings(tmp_path: Path, pooling: Any, of: Any) -> None:
    mapping = TaskMapping(text=TEXT, output=TaskOutput(pooling=pooling))
    source = save(tmp_path, CONFIG, weights(CONFIG), mapping=mapping)
    found = ask(load(source), "feature-extraction", TEXTS)
    expected = [of(Reference(source).hidden(text)) for text in TEXTS]
    assert np.allclose(found, expected, atol=1e-4)


def test_a_head_for_sequences_classifies(tmp_path: Path) -> None:
    config = {**CONFIG, "architectures": ["BertForSequenceClassification"]}
    output = TaskOutput(labels=("good", "bad", "odd"), activation="softmax")
    mapping = TaskMapping(text=TEXT, output=output)
    source = save(tmp_path, config, weights(config, 3), task="text-classification", mapping=mapping)
    logits = Reference(source).classes(TEXTS[0])
    expected = np.exp(logits) / np.exp(logits).sum()
    found = {item["label"]: item["score"] for item in ask(load(source), source.task, TEXTS[0])}
    assert np.allclose([found[label] for label in output.labels], expected, atol=1e-5)


def test_a_head_for_one_class_ranks_pairs(tmp_path: Path) -> None:
    config = {**CONFIG, "architectures": ["BertForSequenceClassification"]}
    mapping = TaskMapping(text=TEXT)
    source = save(tmp_path, config, weights(config, 1), task="text-ranking", mapping=mapping)
    given = {"query": TEXTS[0], "documents": TEXTS[1:]}
    expected = [Reference(source).classes(TEXTS[0], text)[0] for text in TEXTS[1:]]
    assert np.allclose(ask(load(source), "text-ranking", given), expected, atol=1e-4)


def test_a_head_for_tokens_finds_spans(tmp_path: Path) -> None:
    config = {**CONFIG, "architectures": ["BertForTokenClassification"]}
    mapping = TaskMapping(text=TEXT, output=TaskOutput(labels=KINDS))
    source = save(
        tmp_path, config, weights(config, 3), task="token-classification", mapping=mapping
    )
    reference = Reference(source)
    best = reference.dense(reference.hidden(TEXTS[0]), "classifier").argmax(axis=1)[1:-1]
    spans = ask(load(source), source.task, TEXTS[0])
    words = TEXTS[0].split()
    marked = {n for n, kind in enumerate(best) if kind}
    assert marked, "the weights should find something, else nothing is compared"
    at = [len(" ".join(words[:n])) + bool(n) for n in range(len(words))]
    covered = {n for n in range(len(words)) for s in spans if s["start"] <= at[n] < s["end"]}
    assert covered == marked


def test_a_text_that_is_too_long_is_refused_or_cut(tmp_path: Path) -> None:
    source = save(tmp_path, CONFIG, weights(CONFIG))
    with pytest.raises(EngineError) as caught:
        ask(load(source), "feature-extraction", ["the " * 30])
    assert caught.value.code is Code.INVALID_REQUEST
    text = changed(TEXT, max_tokens=10, truncate=True)
    cutting = replace(source, mapping=changed(VECTORS, text=text))
    (found,) = ask(load(cutting), "feature-extraction", ["the " * 30])
    assert np.allclose(found, Reference(source).vector("the " * 8), atol=1e-5)


def test_without_a_mapping_it_takes_tensors(tmp_path: Path) -> None:
    source = save(tmp_path, CONFIG, weights(CONFIG), mapping=None)
    read = tokenizer().encode(TEXTS[0])
    arrays = {
        "input_ids": read.ids,
        "attention_mask": read.attention_mask,
        "token_type_ids": read.type_ids,
    }
    inputs = {
        name: Tensor("int64", (1, len(ids)), np.array(ids, "<i8").tobytes())
        for name, ids in arrays.items()
    }
    answer, _ = load(source).infer(TensorRequest(inputs), CancelToken())
    tensor: Tensor = answer.outputs["last_hidden_state"]  # type: ignore[union-attr]
    found = np.frombuffer(tensor.data, "<f4").reshape(tensor.shape)
    assert np.allclose(found[0], Reference(source).hidden(TEXTS[0]), atol=1e-4)


def test_the_graph_is_built_once_per_content_and_a_damaged_one_again(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    source = save(tmp_path, CONFIG, weights(CONFIG), cache=cache)
    before = ask(load(source), "feature-extraction", TEXTS)
    (graph,) = cache.glob("bert-*/graph.onnx")
    built = graph.stat().st_mtime_ns
    assert ask(load(source), "feature-extraction", TEXTS) == before
    assert graph.stat().st_mtime_ns == built
    graph.write_bytes(b"damaged")
    assert ask(load(source), "feature-extraction", TEXTS) == before
    other = save(tmp_path, CONFIG, weights(CONFIG, seed=1), cache=cache)
    assert ask(load(other), "feature-extraction", TEXTS) != before
    save(tmp_path, {**CONFIG, "hidden_act": "relu"}, weights(CONFIG, seed=1), cache=cache)
    assert ask(load(other), "feature-extraction", TEXTS) != before
    assert len(list(cache.glob("bert-*"))) == 3


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_type": "roberta"}, "'roberta'"),
        ({"model_type": None}, "only 'bert'"),
        ({"architectures": ["BertLMHeadModel"]}, "'BertLMHeadModel'"),
        ({"hidden_act": "quick_gelu"}, "'quick_gelu'"),
        ({"position_embedding_type": "relative_key"}, "absolute positions"),
        ({"is_decoder": True}, "encoders"),
        ({"num_attention_heads": 5}, "5 heads"),
        ({"hidden_size": 2**40}, "hidden_size"),
        ({"num_hidden_layers": 1000}, "encoder.layer.2.attention.self.query.weight' is missing"),
        ({"num_hidden_layers": "two"}, "num_hidden_layers"),
        ({"vocab_size": 2**20}, "config.json wants [1048576, 24]"),
        ({"layer_norm_eps": -1.0}, "layer_norm_eps"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(
    tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    source = save(tmp_path, {**CONFIG, **change}, weights(CONFIG))
    error = refused(source)
    assert error.code is Code.UNSUPPORTED_MODEL
    assert says in error.message


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (b"", "not a model's configuration"),
        (b"[]", "not a model's configuration"),
        (b"{", "not a model's configuration"),
        (b'{"a":' * 9999, "not a model's configuration"),
        (b'{"a":' + b"[" * 32 + b"]" * 32 + b"}", "nested more than 32 deep"),
        (b'{"a":"' + b"x" * (2 << 20) + b'"}', "too large"),
    ],
)
def test_a_configuration_that_is_none_is_refused(tmp_path: Path, config: bytes, says: str) -> None:
    source = save(tmp_path, CONFIG, weights(CONFIG))
    source.files["config.json"].write_bytes(config)
    error = refused(source)
    assert error.code is Code.UNSUPPORTED_MODEL
    assert says in error.message


def test_weights_alone_are_not_a_model(tmp_path: Path) -> None:
    source = save(tmp_path, CONFIG, weights(CONFIG))
    files = {name: path for name, path in source.files.items() if name != "config.json"}
    assert "config.json" in refused(replace(source, files=files)).message


def test_weights_of_integers_are_refused(tmp_path: Path) -> None:
    source = save(tmp_path, CONFIG, weights(CONFIG))
    path = source.files["model.safetensors"]
    save_file({name: array.astype(np.int8) for name, array in load_file(path).items()}, path)
    with pytest.raises(EngineError) as caught:
        load(source)
    assert caught.value.code is Code.UNSUPPORTED_QUANTISATION


def test_weights_that_are_no_numbers_end_in_an_error(tmp_path: Path) -> None:
    bad = weights(CONFIG)
    bad["embeddings.LayerNorm.bias"][0] = np.nan
    with pytest.raises(EngineError, match="NaN") as caught:
        ask(load(save(tmp_path, CONFIG, bad)), "feature-extraction", TEXTS)
    assert caught.value.code is Code.ENGINE_FAILED


def test_it_is_installed_and_chosen_for_safetensors(tmp_path: Path) -> None:
    source = save(tmp_path, CONFIG, weights(CONFIG))
    table = EngineTable([probe("onnx"), probe("onnx_encoder"), probe("echo")])
    assert table.engines_for(source) == ("onnx_encoder",)


def _upper(array: np.ndarray) -> np.ndarray:
    return (array.view(np.uint32) & 0xFFFF0000).view(np.float32)


def _rewrite_as_brain_floats(path: Path, whole: dict[str, np.ndarray]) -> None:
    header, body = {}, b""
    for name, array in whole.items():
        data = (np.ascontiguousarray(array).view(np.uint32) >> 16).astype("<u2").tobytes()
        place = [len(body), len(body) + len(data)]
        header[name] = {"dtype": "BF16", "shape": array.shape, "data_offsets": place}
        body += data
    encoded = json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + body)
