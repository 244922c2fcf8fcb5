"""Tasks on torch: the numbers of plain transformers, and those of the other engine."""

import base64
import io
import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file
from tests.engines import bert_models
from tests.engines.bert_models import CONFIG, TEXT, VECTORS, weights
from tests.engines.torch_models import llama, saved, speaker, torch, transformers

from aigrid.engines.base import CancelToken, Engine, ModelSource
from aigrid.engines.contract import EngineContract
from aigrid.engines.onnx_encoder import OnnxEncoderEngine
from aigrid.engines.registry import EngineTable, probe
from aigrid.engines.torch import TorchEngine
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.inference import Finish, InferRequest, TaskChunk, TaskRequest, TextRequest
from aigrid.protocol.task import ImageInput, TaskMapping, TaskOutput

TEXTS = ("the quick fox ran", "a cat", "the dogs sat on the mat on the mat on the mat", "the")
LABELS = ("cat", "dog", "fox")


def load(source: ModelSource, kind: type[Engine] = TorchEngine) -> Engine:
    engine = kind()
    engine.load(source, threads=1)
    return engine


def ask(engine: Engine, task: str, given: Any) -> Any:
    chunk, finish = engine.infer(TaskRequest(task, json.dumps(given).encode()), CancelToken())
    assert isinstance(chunk, TaskChunk)
    assert isinstance(finish, Finish)
    return json.loads(chunk.output)


def refused(source: ModelSource) -> EngineError:
    with pytest.raises(EngineError) as caught:
        TorchEngine().load(source, threads=1)
    return caught.value


@pytest.fixture
def bert(tmp_path: Path) -> ModelSource:
    return bert_models.save(tmp_path, CONFIG, weights(CONFIG))


class TestTorchEngineOnTasks(EngineContract):
    engine = TorchEngine

    @pytest.fixture
    def source(self, bert: ModelSource) -> ModelSource:
        return bert

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
        return bert_models.save(tmp_path, CONFIG, bad), request


def test_the_engine_beneath_a_model_can_be_another(bert: ModelSource) -> None:
    one, other = load(bert, OnnxEncoderEngine), load(bert)
    for task, given in (
        ("feature-extraction", TEXTS),
        ("sentence-similarity", {"source": TEXTS[0], "sentences": TEXTS[1:]}),
        ("text-ranking", {"query": TEXTS[0], "documents": TEXTS[1:]}),
    ):
        assert np.allclose(ask(one, task, given), ask(other, task, given), atol=1e-5)


@pytest.mark.model
def test_so_it_is_with_the_real_model(minilm_files: dict[str, Path], bert: ModelSource) -> None:
    real = replace(bert, files=minilm_files)
    texts = ["How do I reset my password?", "Naïve café: 你好, мир! 🌍", "word " * 200]
    one, other = load(real, OnnxEncoderEngine), load(real)
    found = ask(one, "feature-extraction", texts), ask(other, "feature-extraction", texts)
    assert np.allclose(*found, atol=1e-5)


@pytest.mark.parametrize("kind", ["BertForSequenceClassification", "BertForTokenClassification"])
def test_classes_are_the_same_with_both_engines(tmp_path: Path, kind: str) -> None:
    config = {**CONFIG, "architectures": [kind], "num_labels": 3}
    config["id2label"] = {str(n): label for n, label in enumerate(LABELS)}
    config["label2id"] = {label: n for n, label in enumerate(LABELS)}
    of_tokens = "Token" in kind
    task = "token-classification" if of_tokens else "text-classification"
    output = TaskOutput(labels=LABELS, activation="softmax")
    mapping = TaskMapping(text=TEXT, output=output)
    made = weights(config, 3)
    if of_tokens:
        made = {name: array for name, array in made.items() if "pooler" not in name}
    source = bert_models.save(tmp_path, config, made, task=task, mapping=mapping)
    one, other = (ask(load(source, e), task, TEXTS[2]) for e in (OnnxEncoderEngine, TorchEngine))
    assert len(one) == len(other) > 0
    for a, b in zip(one, other, strict=True):
        assert a.pop("score") == pytest.approx(b.pop("score"), abs=1e-5)
        assert a == b


def test_an_architecture_that_is_built_by_nobody_else(tmp_path: Path) -> None:
    torch.manual_seed(1)
    config = transformers.DistilBertConfig(
        vocab_size=len(bert_models.VOCABULARY), dim=24, n_layers=2, n_heads=3, hidden_dim=40
    )
    model = transformers.DistilBertModel(config).eval()
    mapping = replace_types(VECTORS)
    source = saved(
        tmp_path, model, "feature-extraction", mapping=mapping, tokenizer=bert_models.tokenizer()
    )
    found = ask(load(source), "feature-extraction", TEXTS)
    for text, vector in zip(TEXTS, found, strict=True):
        with torch.inference_mode():
            ids = torch.tensor([bert_models.tokenizer().encode(text).ids])
            mean = model(ids).last_hidden_state[0].mean(0).numpy()
        assert np.allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)


def replace_types(mapping: TaskMapping) -> TaskMapping:
    import msgspec

    return msgspec.structs.replace(mapping, text=msgspec.structs.replace(TEXT, types=""))


def test_images_are_classified(tmp_path: Path) -> None:
    torch.manual_seed(2)
    config = transformers.ViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40,
        image_size=32, patch_size=8, num_labels=3,
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config).eval()
    mapping = TaskMapping(
        image=ImageInput(width=32, height=32, mean=("0.5",) * 3, std=("0.5",) * 3),
        output=TaskOutput(labels=LABELS, activation="softmax"),
    )
    source = saved(tmp_path, model, "image-classification", mapping=mapping)
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    found = ask(load(source), source.task, base64.b64encode(file.getvalue()).decode())
    given = (pixels.transpose(2, 0, 1)[None] / np.float32(255) - 0.5) / 0.5
    with torch.inference_mode():
        expected = model(torch.tensor(given, dtype=torch.float32)).logits.softmax(-1)[0].tolist()
    scores = {item["label"]: item["score"] for item in found}
    assert [scores[label] for label in LABELS] == pytest.approx(expected, abs=1e-5)


def test_a_text_that_is_too_long_is_refused(bert: ModelSource) -> None:
    with pytest.raises(EngineError) as caught:
        ask(load(bert), "feature-extraction", ["the " * 30])
    assert caught.value.code is Code.INVALID_REQUEST


@pytest.mark.parametrize("kind", ["Roberta", "XLMRoberta"])
def test_a_text_as_long_as_the_model_takes_and_one_longer(tmp_path: Path, kind: str) -> None:
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(bert_models.VOCABULARY), hidden_size=24, num_hidden_layers=1,
        num_attention_heads=3, intermediate_size=40, max_position_embeddings=22,
        pad_token_id=1, type_vocab_size=1,
    )  # fmt: skip
    model = getattr(transformers, f"{kind}Model")(config)
    source = saved(
        tmp_path,
        model,
        "feature-extraction",
        mapping=replace_types(VECTORS),
        tokenizer=bert_models.tokenizer(),
    )
    engine = load(source)
    assert ask(engine, "feature-extraction", ["the " * 18])
    with pytest.raises(EngineError, match="takes 20") as caught:
        ask(engine, "feature-extraction", ["the " * 19])
    assert caught.value.code is Code.INVALID_REQUEST


def test_weights_in_several_files_are_one_model(tmp_path: Path, bert: ModelSource) -> None:
    whole = load_file(bert.files["model.safetensors"])
    names = sorted(whole)
    files = {name: path for name, path in bert.files.items() if name != "model.safetensors"}
    for n, part in enumerate((names[::2], names[1::2])):
        files[f"model-{n}.safetensors"] = tmp_path / f"part-{n}"
        save_file({name: whole[name] for name in part}, files[f"model-{n}.safetensors"])
    # Which file has what is in the files themselves: an index can name anything, so nobody reads it.
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(names, "../../../etc/passwd")}))
    sharded = replace(bert, files={**files, index.name: index})
    one, other = (ask(load(source), "feature-extraction", TEXTS) for source in (bert, sharded))
    assert np.allclose(one, other, atol=1e-6)
    twice = {**files, "model-2.safetensors": files["model-1.safetensors"]}
    assert refused(replace(bert, files=twice)).code is Code.UNSAFE_FILE


class Bomb:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("was-here"),))


@pytest.mark.parametrize(
    "name", ["model.pt2", "model.pt", "pytorch_model.bin", "a.pkl", "modeling_evil.py", "x.CKPT"]
)
def test_files_that_hold_code_are_refused(
    tmp_path: Path, bert: ModelSource, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(pickle.dumps(Bomb()))
    error = refused(replace(bert, files={**bert.files, name: tmp_path / name}))
    assert error.code is Code.UNSAFE_FILE
    assert name in error.message
    (tmp_path / "model.safetensors").write_bytes(pickle.dumps(Bomb()))
    assert refused(bert).code is Code.UNSAFE_FILE
    assert not (tmp_path / "was-here").exists()


def test_a_configuration_brings_no_code_and_fetches_nothing(
    tmp_path: Path, bert: ModelSource
) -> None:
    expected = ask(load(bert), "feature-extraction", TEXTS)
    (tmp_path / "modeling_evil.py").write_text("raise SystemExit('executed')")
    evil = {
        **CONFIG,
        "auto_map": {"AutoModel": "modeling_evil.Evil", "AutoConfig": "other/repo--evil.Config"},
        "_attn_implementation": "somebody/kernels",
        "attn_implementation": "somebody/kernels",
        "_name_or_path": "../../secret",
        "torch_dtype": "float16",
    }
    bert.files["config.json"].write_text(json.dumps(evil))
    assert np.allclose(ask(load(bert), "feature-extraction", TEXTS), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        ({"model_type": "nobody-knows"}, Code.UNSUPPORTED_MODEL, "nobody-knows"),
        ({"model_type": None}, Code.UNSUPPORTED_MODEL, "which architecture"),
        ({"model_type": "whisper"}, Code.UNSUPPORTED_MODEL, ""),
        ({"vocab_size": 2**40}, Code.UNSUPPORTED_MODEL, "weights"),
        ({"num_hidden_layers": 40}, Code.UNSUPPORTED_MODEL, "weights"),
        ({"intermediate_size": 39}, Code.UNSUPPORTED_MODEL, ""),
        ({"hidden_size": -1}, Code.UNSUPPORTED_MODEL, ""),
        ({"hidden_size": "wide"}, Code.UNSUPPORTED_MODEL, ""),
        ({"quantization_config": {"bits": 4}}, Code.UNSUPPORTED_QUANTISATION, "GGUF"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(
    bert: ModelSource, change: dict[str, Any], code: Code, says: str
) -> None:
    bert.files["config.json"].write_text(json.dumps({**CONFIG, **change}))
    error = refused(bert)
    assert error.code is code
    assert says in error.message


def test_weights_that_are_missing_are_not_made_up(tmp_path: Path, bert: ModelSource) -> None:
    path = bert.files["model.safetensors"]
    whole = load_file(path)
    spare = np.zeros((100, 100), np.float32)
    part = {name: array for name, array in whole.items() if "layer.1.output" not in name}
    save_file({**part, "unused": spare}, path)
    error = refused(bert)
    assert error.code is Code.UNSUPPORTED_MODEL
    assert "missing" in error.message


def test_tasks_that_it_cannot_do_are_refused(tmp_path: Path, bert: ModelSource) -> None:
    assert "tabular" in refused(replace(bert, task="tabular-regression")).message
    assert refused(replace(bert, mapping=None)).code is Code.UNSUPPORTED_MODEL
    assert refused(replace(bert, format="gguf")).code is Code.UNSUPPORTED_MODEL
    assert refused(replace(bert, files={})).code is Code.UNSUPPORTED_MODEL


def test_which_engine_is_chosen_can_be_said(tmp_path: Path, bert: ModelSource) -> None:
    probes = [probe(name) for name in ("onnx", "onnx_encoder", "torch")]
    assert EngineTable(probes).engines_for(bert) == ("onnx_encoder", "torch")
    preferring = EngineTable(probes, prefer=("torch",))
    assert preferring.engines_for(bert) == ("torch", "onnx_encoder")
    assert EngineTable(probes).engines_for(speaker(tmp_path, llama()))[0] == "torch"


@pytest.mark.parametrize("kind", [OnnxEncoderEngine, TorchEngine])
def test_tokens_that_the_model_does_not_have_are_refused(
    tmp_path: Path, kind: type[Engine], capfd: pytest.CaptureFixture[str]
) -> None:
    # A tokenizer that does not belong to the weights: on an accelerator this would end the worker.
    few = {**CONFIG, "vocab_size": 8}
    engine = load(bert_models.save(tmp_path, few, weights(few)), kind)
    with pytest.raises(EngineError, match=r"does not accept|between 0 and 7") as caught:
        ask(engine, "feature-extraction", ["the fox"])
    assert caught.value.code is Code.INVALID_REQUEST
    capfd.readouterr()  # what the runtime says of it
    assert ask(engine, "feature-extraction", ["the cat"])
