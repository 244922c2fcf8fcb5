"""The task mapping of a model that Hugging Face's libraries saved, from the files beside it.

Source: `id2label` and `problem_type` of transformers' configurations, `preprocessor_config.json` of
its image processors, `modules.json` and the pooling's configuration of sentence-transformers.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from aigrid.engines.draft import Draft
from aigrid.engines.metadata.hf_image import image_input
from aigrid.engines.metadata.hf_task import MODULES_FILE, is_cross_encoder, labels_of
from aigrid.engines.metadata.onnx_model import OnnxFacts
from aigrid.engines.small_files import read_json_of
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.task import TaskMapping

TOKENIZER_FILE: Final = "tokenizer.json"
_SETTINGS_FILE: Final = "tokenizer_config.json"
_LENGTH_FILE: Final = "sentence_bert_config.json"
_PROMPTS_FILE: Final = "config_sentence_transformers.json"
# Positions of these begin after the padding token's id.
_OFFSET: Final = frozenset({"roberta", "xlm-roberta", "camembert", "mpnet", "longformer", "xmod"})
_POOLINGS: Final = {"cls_token": "cls", "mean_tokens": "mean", "max_tokens": "max",
                    "lasttoken": "last"}  # fmt: skip
_HIDDEN: Final = "last_hidden_state"
_Parts = dict[str, Any]


def mapped(draft: Draft, folder: Path, config: Mapping[str, Any], graph: OnnxFacts | None) -> Draft:
    """The draft with the mapping of its task, where the files say enough for one.

    Raises:
        EngineError: `unsupported_model` for what the files ask for and no mapping can express.
    """
    make = _MAKERS.get(draft.task)
    if make is None or draft.mapping is not UNSET:
        return draft
    parts, origin = make(folder, config, graph, draft.task)
    return draft.said(origin, mapping=_built(parts)) if parts else draft


def _built(parts: _Parts) -> TaskMapping | UnsetType:
    try:
        return msgspec.convert(parts, TaskMapping)
    except msgspec.ValidationError as error:
        raise _unsupported(f"no task mapping can say what the model needs: {error}") from None


def _text(folder: Path, config: Mapping[str, Any], graph: OnnxFacts | None, **more: Any) -> _Parts:
    if not (folder / TOKENIZER_FILE).is_file():
        raise _unsupported(
            f"{folder.name} has no {TOKENIZER_FILE}; save its fast tokenizer beside the weights "
            "(`AutoTokenizer.from_pretrained(folder).save_pretrained(folder)`)"
        )
    made: _Parts = {"tokenizer": TOKENIZER_FILE, "maxTokens": _longest(folder, config), **more}
    if graph is not None:
        names = {spec.name for spec in graph.inputs if spec is not None}
        made["mask"] = "attention_mask" if "attention_mask" in names else ""
        made["types"] = "token_type_ids" if "token_type_ids" in names else ""
    elif config.get("model_type") == "bert" or _count(config, "type_vocab_size") > 1:
        made["types"] = "token_type_ids"
    return made


def _embedding(folder: Path, config: Mapping[str, Any], graph: OnnxFacts | None, _: str) -> Any:
    pooling, normalize, origin = _pooling(folder)
    text = _text(folder, config, graph, truncate=True)
    output: _Parts = {"pooling": pooling, "normalize": normalize}
    names = [spec.name for spec in graph.outputs if spec is not None] if graph else [_HIDDEN]
    if "sentence_embedding" in names:
        output = {"tensor": "sentence_embedding", "normalize": normalize}
    elif names:
        usual = (_HIDDEN, "token_embeddings")
        output["tensor"] = next((name for name in usual if name in names), names[0])
    return {"text": text, "output": output}, origin


def _classes(folder: Path, config: Mapping[str, Any], graph: OnnxFacts | None, task: str) -> Any:
    labels = labels_of(config) or ("LABEL_0", "LABEL_1")
    several = config.get("problem_type") == "multi_label_classification" or len(labels) == 1
    regression = config.get("problem_type") == "regression"
    activation = "none" if regression else "sigmoid" if several else "softmax"
    output: _Parts = {"labels": labels, "activation": activation, "tensor": _logits(graph)}
    text = _text(folder, config, graph, truncate=False)
    if task == "zero-shot-classification":
        text["truncate"] = True
        output["activation"] = "none"
    return {"text": text, "output": output}, "config.json: id2label"


def _ranking(folder: Path, config: Mapping[str, Any], graph: OnnxFacts | None, _: str) -> Any:
    said = config.get("sentence_transformers")
    named = said.get("activation_fn") if isinstance(said, dict) else None
    named = named or config.get("sbert_ce_default_activation_function") or ""
    plain = str(named).endswith("Identity") or not is_cross_encoder(config)
    output = {"activation": "none" if plain else "sigmoid", "tensor": _logits(graph)}
    text = _text(folder, config, graph, truncate=True)
    return {"text": text, "output": output}, "config.json"


def _image(folder: Path, config: Mapping[str, Any], graph: OnnxFacts | None, _: str) -> Any:
    image = image_input(folder)
    labels = labels_of(config)
    if image is None or not labels:
        return {}, ""
    output = {"labels": labels, "activation": "softmax", "top": 5, "tensor": _logits(graph)}
    return {"image": image, "output": output}, "preprocessor_config.json"


def _written(folder: Path, config: Mapping[str, Any], graph: OnnxFacts | None, task: str) -> Any:
    said = config.get("task_specific_params")
    settings = said.get(task) if isinstance(said, dict) else None
    prefix = settings.get("prefix") if isinstance(settings, dict) else None
    text = _text(folder, config, graph, truncate=False)
    text.pop("types", None)
    if isinstance(prefix, str) and prefix:
        text["template"] = f"{prefix}{{text}}"
    return {"text": text}, "config.json"


_Maker = Callable[[Path, Mapping[str, Any], OnnxFacts | None, str], tuple[_Parts, str]]
_MAKERS: Final[Mapping[str, _Maker]] = {
    "feature-extraction": _embedding,
    "text-classification": _classes,
    "zero-shot-classification": _classes,
    "token-classification": _classes,
    "text-ranking": _ranking,
    "image-classification": _image,
    "translation": _written,
    "summarization": _written,
}


def _pooling(folder: Path) -> tuple[str, bool, str]:
    """Pooling, whether vectors are normalised, and where that is said.

    Raises:
        EngineError: `unsupported_model` for layers behind the encoder that would be missing.
    """
    modules = _optional(folder / MODULES_FILE, list)
    if not modules:
        return "mean", True, "usual for encoders"
    found, normalize = "", False
    for module in modules:
        said = module if isinstance(module, dict) else {}
        kind = str(said.get("type", "")).rpartition(".")[2]
        where = str(said.get("path", ""))
        if kind == "Pooling":
            found = _pooling_of(_optional(folder / _flat(where) / "config.json", dict))
        elif kind == "Normalize":
            normalize = True
        elif kind != "Transformer":
            raise _unsupported(f"the layer {kind[:64]!r} of {MODULES_FILE} is not supported")
    prompts = _optional(folder / _PROMPTS_FILE, dict) or {}
    if prompts.get("default_prompt_name"):
        raise _unsupported(f"a default prompt, which {_PROMPTS_FILE} names, is not supported")
    if not found:
        raise _unsupported(f"{MODULES_FILE} names no pooling")
    return found, normalize, MODULES_FILE


def _pooling_of(said: Any) -> str:
    settings = said if isinstance(said, dict) else {}
    named = settings.get("pooling_mode")
    chosen = (
        [named]
        if isinstance(named, str)
        else [
            name.removeprefix("pooling_mode_")
            for name, on in settings.items()
            if name.startswith("pooling_mode_") and on is True
        ]
    )
    known = {**_POOLINGS, **{value: value for value in _POOLINGS.values()}, "lasttoken": "last"}
    if len(chosen) != 1 or chosen[0] not in known:
        raise _unsupported(f"the pooling {'+'.join(map(str, chosen))[:64]!r} is not supported")
    return known[chosen[0]]


def _longest(folder: Path, config: Mapping[str, Any]) -> int:
    """How many tokens a text may have: the least that any of the files says; 0 where none does."""
    positions = _count(config, "max_position_embeddings") or _count(config, "n_positions")
    if str(config.get("model_type")) in _OFFSET and positions:
        padding = config.get("pad_token_id")
        positions -= (padding if type(padding) is int else 1) + 1
    found = [
        positions,
        _count(_optional(folder / _SETTINGS_FILE, dict) or {}, "model_max_length"),
        _count(_optional(folder / _LENGTH_FILE, dict) or {}, "max_seq_length"),
    ]
    return min((length for length in found if 0 < length <= 2**20), default=0)


def _logits(graph: OnnxFacts | None) -> str:
    """The name of the scores' tensor: engines of safetensors have one only."""
    names = [spec.name for spec in graph.outputs if spec is not None] if graph else []
    return "logits" if "logits" in names else ""


def _optional(path: Path, kind: type) -> Any:
    """The JSON in a file of that kind; None where there is no such file.

    Raises:
        EngineError: `unsupported_model` where it is not JSON.
    """
    if not path.is_file():
        return None
    return read_json_of(kind, path)


def _flat(name: str) -> str:
    """A folder's name, unless it leads elsewhere."""
    return name if name and "/" not in name and "\\" not in name and name != ".." else ""


def _count(config: Mapping[str, Any], name: str) -> int:
    value = config.get(name)
    return value if type(value) is int and 0 < value < 2**31 else 0


def _unsupported(message: str) -> EngineError:
    return EngineError(message[:300], Code.UNSUPPORTED_MODEL)
