"""Folders that transformers itself saved, read, and answered by the torch engine."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.engines.metadata.test_hf_folder import answered, mapping_of, source_of
from tests.engines.torch_models import (
    TEMPLATE,
    byte_level,
    gpt2,
    llama,
    marian,
    speaker,
    t5,
    torch,
    transformers,
)

from aigrid.engines.base import CancelToken
from aigrid.engines.metadata import Draft, read
from aigrid.engines.torch import TorchEngine
from aigrid.engines.trial import trial
from aigrid.protocol.inference import Finish, TextChunk
from aigrid.protocol.task import TextInput


def tokenised(folder: Path, model: Any) -> Path:
    model.save_pretrained(folder)
    byte_level().save(str(folder / "tokenizer.json"))
    return folder


def text_of(draft: Draft) -> TextInput:
    text = mapping_of(draft).text
    assert isinstance(text, TextInput)
    return text


@pytest.mark.parametrize("make", [llama, gpt2])
def test_a_causal_model_writes(tmp_path: Path, make: Any) -> None:
    speaker(tmp_path, make())
    draft = read(tmp_path)
    assert draft.task == "text-generation"
    assert draft.context_tokens == 600
    assert {"config.json", "tokenizer.json", "tokenizer_config.json"} < set(draft.files)
    assert TEMPLATE[:10] in draft.files["tokenizer_config.json"].read_text()
    engine = TorchEngine()
    engine.load(source_of(draft), threads=1)
    request = trial(draft.task, draft.mapping)
    assert request is not None
    *chunks, finish = engine.infer(request, CancelToken())
    assert isinstance(finish, Finish)
    assert sum(len(c.token_ids) for c in chunks if isinstance(c, TextChunk)) == 1


def test_a_marian_translates_as_its_class_says(tmp_path: Path) -> None:
    model = marian()
    draft = read(tokenised(tmp_path, model))
    assert draft.task == "translation"
    answer = answered(TorchEngine(), draft, "a b c")
    tokens = byte_level().encode("a b c").ids
    with torch.inference_mode():
        made = model.generate(torch.tensor([tokens]), max_new_tokens=63, do_sample=False)
    assert answer == byte_level().decode(made[0].tolist())


def test_a_t5_is_what_its_card_says_with_the_instruction_of_its_configuration(tmp_path) -> None:
    model = t5()
    model.config.task_specific_params = {"summarization": {"prefix": "summarize: "}}
    tokenised(tmp_path, model)
    (tmp_path / "README.md").write_text("---\npipeline_tag: summarization\n---\n")
    draft = read(tmp_path)
    assert draft.task == "summarization"
    assert text_of(draft).template == "summarize: {text}"
    assert isinstance(answered(TorchEngine(), draft, "a b c"), str)
    (tmp_path / "README.md").unlink()
    assert read(tmp_path).task == ""


def test_a_roberta_takes_fewer_tokens_than_it_has_positions(tmp_path: Path) -> None:
    torch.manual_seed(3)
    config = transformers.RobertaConfig(
        vocab_size=320, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=20, pad_token_id=1, type_vocab_size=1,
        num_labels=1, problem_type="regression",
    )  # fmt: skip
    model = transformers.RobertaForSequenceClassification(config).eval()
    draft = read(tokenised(tmp_path, model))
    assert text_of(draft).max_tokens == 18
    assert text_of(draft).types == ""
    assert mapping_of(draft).output.activation == "none"


def test_pictures_are_classified_as_transformers_does(tmp_path: Path) -> None:
    torch.manual_seed(4)
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        image_size=32, patch_size=8, num_labels=3, initializer_range=0.5,
        id2label={0: "cat", 1: "dog", 2: "fox"}, label2id={"cat": 0, "dog": 1, "fox": 2},
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config).eval()
    processor = transformers.ViTImageProcessorPil(size={"height": 32, "width": 32})
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    draft = read(tmp_path)
    assert draft.task == "image-classification"
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (50, 70, 3), np.uint8))
    file = io.BytesIO()
    image.save(file, "PNG")
    answer = answered(TorchEngine(), draft, base64.b64encode(file.getvalue()).decode())
    pixels = torch.tensor(np.asarray(processor(image, return_tensors="np")["pixel_values"]))
    with torch.inference_mode():
        shares = torch.softmax(model(pixels).logits[0], -1)
    assert {one["label"]: one["score"] for one in answer} == pytest.approx(
        {config.id2label[n]: float(share) for n, share in enumerate(shares)}, abs=1e-4
    )
