"""Folders as Hugging Face's libraries save them: what lies beside weights says what they are."""

import json
import struct
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from scripts.fuzzing.target import Target, scratch
from scripts.fuzzing.trees import Tree
from tests.engines import bert_models

from aigrid.engines.metadata import read
from aigrid.protocol.errors import EngineError

_WEIGHTS = "model.safetensors"
_INNER = "1_Pooling"
_FILES_MAX = 12
_NAME_MAX_CHARS = 60
_CONFIG: dict[str, Any] = {
    **bert_models.CONFIG,
    "architectures": ["BertForSequenceClassification"],
    "id2label": {"0": "no", "1": "yes"},
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
_IMAGE: dict[str, Any] = {
    "size": {"height": 8, "width": 8},
    "do_resize": True,
    "resample": 2,
    "rescale_factor": 0.00392,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
_VIT = {**_CONFIG, "architectures": ["ViTForImageClassification"], "model_type": "vit"}
_MODULES = [
    {"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
]
_CARD = "---\nlicense: apache-2.0\nlanguage: [en, de]\npipeline_tag: {}\n---\n# A card\n"
_TOKENIZER = {"model": {"type": "WordPiece", "vocab": {}}}


def _with(config: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"config.json": config, "tokenizer.json": _TOKENIZER, **more}


def _of(head: str, **more: Any) -> dict[str, Any]:
    return {**_CONFIG, "architectures": [head], **more}


def _seeds() -> list[bytes]:
    """Objects of file names and contents, which are JSON or text."""
    crop = {"do_center_crop": True, "crop_size": 8, "size": {"shortest_edge": 9}, "resample": 3}
    sentences = {
        "modules.json": _MODULES,
        f"{_INNER}/config.json": {"pooling_mode_mean_tokens": True, "word_embedding_dimension": 24},
        "sentence_bert_config.json": {"max_seq_length": 32, "do_lower_case": False},
        "config_sentence_transformers.json": {"prompts": {"query": "q: "}},
    }
    translates = {"task_specific_params": {"translation": {"prefix": "translate: "}}}
    index = {"weight_map": {"a": _WEIGHTS}, "metadata": {"total_size": 1}}
    said = [
        _with(_CONFIG, **{"README.md": _CARD.format("text-classification")}),
        _with(_CONFIG, **{"README.md": _CARD.format("text-ranking"), "tokenizer_config.json": {}}),
        _with(
            {**_CONFIG, "id2label": {"0": "entailment", "1": "neutral"}},
            **{"tokenizer_config.json": {"model_max_length": 64}},
        ),
        _with(
            {**_CONFIG, "id2label": {"0": "x"}, "sentence_transformers": {"activation_fn": "Sig"}}
        ),
        _with({**_CONFIG, "problem_type": "regression", "model_type": "roberta"}),
        _with(_of("BertModel"), **sentences),
        _with(_VIT, **{"preprocessor_config.json": _IMAGE}),
        _with(_VIT, **{"preprocessor_config.json": {**_IMAGE, **crop}}),
        _with(_VIT, **{"preprocessor_config.json": {"size": 8, "do_rescale": False}}),
        _with(_of("T5ForConditionalGeneration", **translates), **{"generation_config.json": {}}),
        _with(_of("MarianMTModel"), **{"README.md": _CARD.format("translation")}),
        _with(_of("LlamaForCausalLM"), **{"chat_template.jinja": "x", "pytorch_model.bin": "x"}),
        _with(_of("BertForTokenClassification"), **{"model.safetensors.index.json": index}),
        _with(_of("BertForQuestionAnswering"), **{"adapter_config.json": {}}),
        _with(_of("BertForMaskedLM"), **{"model.onnx": "x", "other.safetensors": "x"}),
    ]
    return [json.dumps(one).encode() for one in said]


@cache
def _weights() -> bytes:
    """A file of one tensor: whether the others are there is no matter to who reads what it is."""
    head = b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    return struct.pack("<Q", len(head)) + head + bytes(8)


class _Folder:
    """One on the disk, kept from execution to execution but for what they wrote."""

    def __init__(self) -> None:
        self.path = scratch() / "folder"
        self.path.mkdir()
        (self.path / _WEIGHTS).write_bytes(_weights())
        self._written: set[str] = set()

    def fill(self, files: dict[str, str]) -> None:
        for name in self._written - files.keys():
            self._at(name).unlink(missing_ok=True)
        if _WEIGHTS in self._written - files.keys():
            (self.path / _WEIGHTS).write_bytes(_weights())
        for name, text in files.items():
            at = self._at(name)
            if "/" in name:
                at.parent.mkdir(exist_ok=True)
            at.write_text(text, "utf-8", "surrogateescape")
        self._written = set(files)

    def _at(self, name: str) -> Path:
        return self.path / name


@cache
def _folder() -> _Folder:
    return _Folder()


def _files(data: bytes) -> dict[str, str]:
    """File names and what is in them; all of what is no such object is `config.json`."""
    try:
        said = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    except (ValueError, RecursionError):
        return {"config.json": data.decode("utf-8", "surrogateescape")}
    found = {}
    for name, content in list(said.items())[:_FILES_MAX]:
        folder, _, last = name.rpartition("/")
        if folder in ("", _INNER) and last.isprintable() and last.strip(".") and last != _INNER:
            found[name[:_NAME_MAX_CHARS]] = _text(bytes(content))
    return found


def _text(content: bytes) -> str:
    """A file as it stands: a text is one, anything else is JSON."""
    try:
        return msgspec.json.decode(content, type=str)
    except (ValueError, RecursionError):
        return content.decode("utf-8", "surrogateescape")


def _beside(data: bytes) -> None:
    _folder().fill(_files(data))
    read(_folder().path)


TARGETS = (Target("model-folders", lambda: Tree(_seeds()), _beside, (EngineError,)),)
