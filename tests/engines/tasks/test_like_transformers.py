"""The same model through the pipelines of transformers and as a task: the same answers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.engines import bert_models
from tests.engines.bert_models import CONFIG, TEXT, weights
from tests.engines.tasks.asking import run
from tests.engines.torch_models import torch, transformers

from aigrid.engines.base import ModelSource
from aigrid.engines.onnx_encoder import OnnxEncoderEngine
from aigrid.engines.torch_model import open_files
from aigrid.protocol.task import TaskMapping, TaskOutput

SEED = 13
WORDS = "the dogs sat on a mat, the cats ran fast and quick foxs"


def theirs(source: ModelSource, kind: str, task: str, **options: Any) -> Any:
    """A pipeline over the files of a model."""
    from safetensors.torch import load_file

    config = transformers.BertConfig(**open_files(source).config)
    model = getattr(transformers, kind)(config).eval()
    model.load_state_dict(load_file(source.files["model.safetensors"]), strict=False)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bert_models.tokenizer(),
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )
    return transformers.pipeline(
        task, model=model, tokenizer=tokenizer, device=torch.device("cpu"), **options
    )


def made(folder: Path, kind: str, task: str, labels: tuple[str, ...]) -> ModelSource:
    config = {
        **CONFIG,
        "architectures": [kind],
        "num_labels": len(labels),
        "id2label": {str(n): label for n, label in enumerate(labels)},
        "label2id": {label: n for n, label in enumerate(labels)},
        "max_position_embeddings": 40,
    }
    held = weights(config, len(labels), seed=SEED)
    if "Token" in kind:
        held = {name: array for name, array in held.items() if "pooler" not in name}
        held["classifier.weight"] *= 4
    mapping = TaskMapping(text=TEXT, output=TaskOutput(labels=labels, activation="softmax"))
    return bert_models.save(folder, config, held, task=task, mapping=mapping)


@pytest.mark.parametrize("labels", [("O", "B-X", "I-X", "B-Y", "I-Y"), ("O", "X", "Y")])
@pytest.mark.parametrize("strategy", ["simple", "first", "max", "average"])
def test_entities_are_the_same(tmp_path: Path, labels: tuple[str, ...], strategy: str) -> None:
    kind, task = "BertForTokenClassification", "token-classification"
    source = made(tmp_path, kind, task, labels)
    expected = theirs(source, kind, task, aggregation_strategy=strategy)(WORDS)
    found = run(source, WORDS, engine=OnnxEncoderEngine, aggregation_strategy=strategy)
    assert len(found) > 2
    assert [(e["entity"], e["start"], e["end"]) for e in found] == [
        (e["entity_group"], e["start"], e["end"]) for e in expected
    ]
    scores = [e["score"] for e in found]
    # For "max" they report the mean of the surest scores among a span's words, as we do.
    assert scores == pytest.approx([float(e["score"]) for e in expected], abs=1e-4)


@pytest.mark.parametrize("several", [False, True])
def test_labels_of_a_request_are_judged_the_same(tmp_path: Path, several: bool) -> None:
    kind, task = "BertForSequenceClassification", "zero-shot-classification"
    source = made(tmp_path, kind, task, ("contradiction", "neutral", "entailment"))
    text = msgspec.structs.replace(TEXT, template="the {label} sat")
    mapping = msgspec.structs.replace(source.mapping, text=text)  # type: ignore[type-var]
    source = replace(source, mapping=mapping)
    labels = ["cat", "dog", "fox"]
    expected = theirs(source, kind, task)(
        WORDS, labels, hypothesis_template="the {} sat", multi_label=several
    )
    asked = {"text": WORDS, "labels": labels}
    found = run(source, asked, engine=OnnxEncoderEngine, multi_label=several)
    assert [one["label"] for one in found] == expected["labels"]
    assert [one["score"] for one in found] == pytest.approx(expected["scores"], abs=1e-4)


def test_classes_are_judged_the_same(tmp_path: Path) -> None:
    kind, task = "BertForSequenceClassification", "text-classification"
    source = made(tmp_path, kind, task, ("sad", "glad", "so so"))
    expected = theirs(source, kind, task)(WORDS, top_k=2)
    found = run(source, WORDS, engine=OnnxEncoderEngine, top_k=2)
    assert [one["label"] for one in found] == [one["label"] for one in expected]
    scores = [one["score"] for one in expected]
    assert [one["score"] for one in found] == pytest.approx(scores, abs=1e-4)
