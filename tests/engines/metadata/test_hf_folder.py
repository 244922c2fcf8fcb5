"""Folders as Hugging Face's libraries save them: what they say, and that an engine answers so."""

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.engines import bert_models
from tests.engines.bert_models import CONFIG, Reference, weights
from tests.engines.onnx_models import linear, save

from aigrid.engines.base import CancelToken, Engine, ModelSource
from aigrid.engines.metadata import Draft, read
from aigrid.engines.onnx_encoder import OnnxEncoderEngine
from aigrid.engines.trial import trial
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.inference import Finish, TaskChunk, TaskRequest
from aigrid.protocol.task import TaskMapping, TextInput

CLASSES = {"id2label": {"0": "cat", "1": "dog", "2": "fox"}}


def source_of(draft: Draft) -> ModelSource:
    mapping = None if draft.mapping is msgspec.UNSET else draft.mapping
    return ModelSource("bafydraft", draft.format, draft.files, draft.task, mapping=mapping)


def mapping_of(draft: Draft) -> TaskMapping:
    assert isinstance(draft.mapping, TaskMapping)
    return draft.mapping


def answered(engine: Engine, draft: Draft, given: Any) -> Any:
    """What an engine makes of a draft, after the trial that publishing would run."""
    engine.load(source_of(draft), threads=1)
    request = trial(draft.task, draft.mapping, draft.inputs)
    assert request is not None
    assert isinstance([*engine.infer(request, CancelToken())][-1], Finish)
    wanted = TaskRequest(draft.task, json.dumps(given).encode())
    chunk, _ = engine.infer(wanted, CancelToken())
    assert isinstance(chunk, TaskChunk)
    return json.loads(chunk.output)


def bert(folder: Path, architecture: str, classes: int = 0, **more: Any) -> Path:
    config = {**CONFIG, "architectures": [architecture], **more}
    bert_models.save(folder, config, weights(config, classes))
    return folder


def written(folder: Path, **files: Any) -> None:
    for name, said in files.items():
        path = folder / name.replace("__", "/")
        path = path.with_suffix(".json")
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(said))


def refused(path: Path, **more: str) -> EngineError:
    with pytest.raises(EngineError) as caught:
        read(path, **more)
    return caught.value


def test_an_encoder_of_sentences_is_pooled_as_its_modules_say(tmp_path: Path) -> None:
    bert(tmp_path, "BertModel")
    kinds = ("models.Transformer", "models.Pooling", "models.Normalize")
    written(
        tmp_path,
        modules=[
            {"type": f"sentence_transformers.{kind}", "path": f"{n}_{kind[7:]}" if n else ""}
            for n, kind in enumerate(kinds)
        ],
        **{
            "1_Pooling__config": {
                "pooling_mode_mean_tokens": True,
                "pooling_mode_max_tokens": False,
            }
        },
        sentence_bert_config={"max_seq_length": 12},
    )
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\nlanguage: en\n---\n")
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK\3\4")
    draft = read(tmp_path)
    assert draft.task == "feature-extraction"
    assert draft.origins["task"] == "modules.json"
    assert (draft.license_id, draft.languages) == ("Apache-2.0", ("en",))
    assert draft.mapping == msgspec.convert(
        {
            "text": {
                "tokenizer": "tokenizer.json",
                "maxTokens": 12,
                "truncate": True,
                "types": "token_type_ids",
            },
            "output": {"tensor": "last_hidden_state", "pooling": "mean", "normalize": True},
        },
        TaskMapping,
    )
    assert sorted(draft.files) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert draft.left_out == {"pytorch_model.bin": "loading it could run code that is hidden in it"}
    assert (draft.precision, draft.context_tokens) == ("float32", 20)
    assert draft.tokenizer == "WordPiece"
    (vector,) = answered(OnnxEncoderEngine(), draft, ["the quick fox"])
    assert np.allclose(vector, Reference(source_of(draft)).vector("the quick fox"), atol=1e-5)


@pytest.mark.parametrize(
    ("pooling", "found"),
    [
        ({"pooling_mode_cls_token": True}, "cls"),
        ({"pooling_mode_lasttoken": True}, "last"),
        ({"pooling_mode": "max"}, "max"),
        ({"pooling_mode": "lasttoken"}, "last"),
    ],
)
def test_poolings_have_several_spellings(tmp_path: Path, pooling, found: str) -> None:
    bert(tmp_path, "BertModel")
    modules = [{"type": "x.Transformer", "path": ""}, {"type": "x.Pooling", "path": "1_Pooling"}]
    written(tmp_path, modules=modules, **{"1_Pooling__config": pooling})
    draft = read(tmp_path)
    assert mapping_of(draft).output.pooling == found
    assert not mapping_of(draft).output.normalize


@pytest.mark.parametrize(
    ("modules", "pooling", "why"),
    [
        (["Transformer", "Pooling", "Dense"], {"pooling_mode": "mean"}, "Dense"),
        (["Transformer", "Pooling"], {"pooling_mode_weightedmean_tokens": True}, "weightedmean"),
        (["Transformer", "Pooling"], {"pooling_mode": "mean+max"}, "mean"),
        (["Transformer"], {}, "no pooling"),
    ],
)
def test_layers_that_would_be_missing_are_refused(tmp_path: Path, modules, pooling, why) -> None:
    bert(tmp_path, "BertModel")
    said = [{"type": f"x.{kind}", "path": f"{n}_{kind}"} for n, kind in enumerate(modules)]
    written(tmp_path, modules=said, **{"1_Pooling__config": pooling})
    error = refused(tmp_path)
    assert error.code is Code.UNSUPPORTED_MODEL
    assert why in error.message


def test_a_default_prompt_is_refused_rather_than_forgotten(tmp_path: Path) -> None:
    bert(tmp_path, "BertModel")
    modules = [{"type": "x.Pooling", "path": "1_Pooling"}]
    prompts = {"default_prompt_name": "query", "prompts": {"query": "query: "}}
    written(tmp_path, modules=modules, config_sentence_transformers=prompts,
            **{"1_Pooling__config": {"pooling_mode": "mean"}})  # fmt: skip
    assert "prompt" in refused(tmp_path).message


def test_a_module_does_not_lead_out_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    written(tmp_path / "outside", config={"pooling_mode": "max"})
    folder = tmp_path / "model"
    folder.mkdir()
    bert(folder, "BertModel")
    for path in ("../outside", "/outside", "..", "a/../../outside"):
        written(folder, modules=[{"type": "x.Pooling", "path": path}])
        assert "pooling" in refused(folder).message


def test_a_classifier_has_the_labels_of_its_configuration(tmp_path: Path) -> None:
    draft = read(bert(tmp_path, "BertForSequenceClassification", 3, **CLASSES))
    assert draft.task == "text-classification"
    assert mapping_of(draft).output.labels == ("cat", "dog", "fox")
    assert mapping_of(draft).output.activation == "softmax"
    answer = answered(OnnxEncoderEngine(), draft, "the quick fox")
    logits = Reference(source_of(draft)).classes("the quick fox")
    shares = np.exp(logits) / np.exp(logits).sum()
    assert {one["label"]: one["score"] for one in answer} == pytest.approx(
        dict(zip(("cat", "dog", "fox"), map(float, shares), strict=True)), abs=1e-5
    )


def test_labels_of_entailment_make_a_zero_shot_classifier(tmp_path: Path) -> None:
    labels = {"id2label": {"0": "ENTAILMENT", "1": "neutral", "2": "contradiction"}}
    draft = read(bert(tmp_path, "BertForSequenceClassification", 3, **labels))
    assert draft.task == "zero-shot-classification"
    given = {"text": "the cat", "labels": ["cat", "dog"]}
    answer = answered(OnnxEncoderEngine(), draft, given)
    assert sum(one["score"] for one in answer) == pytest.approx(1)


def test_a_cross_encoder_ranks(tmp_path: Path) -> None:
    said = {
        "id2label": {"0": "LABEL_0"},
        "sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"},
    }
    draft = read(bert(tmp_path, "BertForSequenceClassification", 1, **said))
    assert draft.task == "text-ranking"
    given = {"query": "a cat", "documents": ["the dog", "the cat sat"]}
    scores = answered(OnnxEncoderEngine(), draft, given)
    reference = Reference(source_of(draft))
    logits = [reference.classes("a cat", text)[0] for text in given["documents"]]
    assert scores == pytest.approx([float(1 / (1 + np.exp(-x))) for x in logits], abs=1e-5)


def test_the_card_chooses_among_what_a_head_can_do_and_no_more(tmp_path: Path) -> None:
    bert(tmp_path, "BertForSequenceClassification", 3, **CLASSES)
    (tmp_path / "README.md").write_text("---\npipeline_tag: text-ranking\n---\n")
    assert read(tmp_path).task == "text-ranking"
    (tmp_path / "README.md").write_text("---\npipeline_tag: text-to-speech\n---\n")
    assert read(tmp_path).task == "text-classification"


def test_classes_of_tokens(tmp_path: Path) -> None:
    labels = {"id2label": {"0": "O", "1": "B-ANIMAL", "2": "I-ANIMAL"}}
    draft = read(bert(tmp_path, "BertForTokenClassification", 3, **labels))
    assert draft.task == "token-classification"
    answer = answered(OnnxEncoderEngine(), draft, "the quick fox")
    assert all(one["entity"] == "ANIMAL" for one in answer)


def test_a_single_weight_file_is_read_with_its_neighbours(tmp_path: Path) -> None:
    folder = bert(tmp_path, "BertForSequenceClassification", 3, **CLASSES)
    assert read(folder / "model.safetensors") == read(folder)


def test_an_exported_graph_is_mapped_by_its_own_tensors(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info
    ids, text = TensorProto.INT64, ["batch", "tokens"]
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["input_ids"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["f", "axis"], ["last_hidden_state"]),
        ],
        "g",
        [value("input_ids", ids, text), value("attention_mask", ids, text)],
        [value("last_hidden_state", TensorProto.FLOAT, [*text, 1])],
        [helper.make_tensor("axis", ids, [1], [2])],
    )
    bert(tmp_path, "BertModel")
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "onnx").mkdir()
    save(tmp_path / "onnx" / "model.onnx", helper.make_model(graph))
    draft = read(tmp_path)
    assert draft == read(tmp_path / "onnx" / "model.onnx")
    assert sorted(draft.files) == ["model.onnx", "tokenizer.json"]
    text_input = mapping_of(draft).text
    assert isinstance(text_input, TextInput)
    assert (text_input.mask, text_input.types) == ("attention_mask", "")
    assert mapping_of(draft).output.tensor == "last_hidden_state"


def test_shards_are_those_that_the_index_names(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    bert(tmp_path, "BertModel")
    made = weights(CONFIG)
    (tmp_path / "model.safetensors").unlink()
    names = sorted(made)
    parts = {f"model-0000{n}-of-00002.safetensors": names[n - 1 :: 2] for n in (1, 2)}
    for file, held in parts.items():
        save_file({name: made[name] for name in held}, tmp_path / file)
    save_file({"x": np.zeros(1, np.float32)}, tmp_path / "other.safetensors")
    assert "several safetensors" in refused(tmp_path).message
    index = {"weight_map": {name: file for file, held in parts.items() for name in held}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    draft = read(tmp_path)
    assert {name for name in draft.files if name.endswith(".safetensors")} == set(parts)
    assert draft.parameters == sum(array.size for array in made.values())
    assert draft.left_out == {"other.safetensors": "another set of weights"}
    index["weight_map"]["y"] = "../elsewhere.safetensors"
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "missing" in refused(tmp_path).message


def test_only_pickles_are_refused_with_the_way_out(tmp_path: Path) -> None:
    written(tmp_path, config=CONFIG)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02.")
    error = refused(tmp_path)
    assert error.code is Code.UNSAFE_FILE
    assert "save_pretrained" in error.message


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ((), "holds no weights"),
        (("adapter_config.json", "adapter_model.safetensors"), "adapter"),
        (("a.gguf", "b.gguf"), "name one"),
    ],
)
def test_a_folder_without_a_model_says_what_is_missing(tmp_path: Path, files, why) -> None:
    for name in files:
        (tmp_path / name).write_bytes(b"{}")
    assert why in refused(tmp_path).message


def test_weights_without_a_configuration_or_tokenizer_say_so(tmp_path: Path) -> None:
    bert(tmp_path, "BertModel")
    (tmp_path / "tokenizer.json").unlink()
    assert "tokenizer.json" in refused(tmp_path).message
    (tmp_path / "config.json").unlink()
    assert "config.json" in refused(tmp_path).message


def test_an_onnx_file_alone_in_a_folder_is_found(tmp_path: Path) -> None:
    save(tmp_path / "some.onnx", linear())
    assert read(tmp_path, task="tensor").files == {"model.onnx": tmp_path / "some.onnx"}


@pytest.mark.parametrize("name", ["config.json", "modules.json", "tokenizer_config.json"])
@pytest.mark.parametrize("text", ["", "[1", "7", '{"a":' * 3000, '"' + "x" * 2_000_000 + '"'])
def test_files_that_are_not_what_they_should_be_are_refused(tmp_path, name, text) -> None:
    bert(tmp_path, "BertModel")
    (tmp_path / name).write_text(text)
    assert refused(tmp_path).code is Code.UNSUPPORTED_MODEL
