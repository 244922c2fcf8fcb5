"""A model as Hugging Face's libraries save it: a folder with config.json, weights and a tokenizer.

Only files that an engine reads become part of the model; the rest (pre-processing, pooling, labels,
the card) is turned into its task mapping and its manifest.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec

from aigrid.engines import safetensors
from aigrid.engines.draft import Draft
from aigrid.engines.metadata import hf_mapping
from aigrid.engines.metadata.card import CARD_FILE, languages_of, license_of, read_card
from aigrid.engines.metadata.hf_mapping import TOKENIZER_FILE
from aigrid.engines.metadata.hf_task import task_of
from aigrid.engines.metadata.onnx_model import onnx_facts, read_onnx
from aigrid.engines.small_files import read_json, read_small
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.limits import LIMITS, MIB
from aigrid.protocol.task import WRITTEN

CONFIG_FILE: Final = "config.json"
INDEX_FILE: Final = "model.safetensors.index.json"
FORMAT: Final = "safetensors"
_INDEX_MAX_BYTES: Final = 32 * MIB
_TOKENIZER_MAX_BYTES: Final = 64 * MIB
_CODE: Final = (".bin", ".pt", ".pth", ".pt2", ".ckpt", ".pkl", ".pickle", ".h5", ".msgpack")
_GENERATION: Final = ("generation_config.json",)
_CHAT: Final = ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


@dataclass(frozen=True, slots=True)
class Weights:
    """Which of a folder's files hold the weights, and which do not though they might.

    `precision` is that of an ONNX file; of safetensors it is read here.
    """

    format: str
    paths: tuple[Path, ...]
    left_out: Mapping[str, str]
    precision: str = ""


class _Index(msgspec.Struct, frozen=True):
    weight_map: dict[str, str]


class _Model(msgspec.Struct, frozen=True):
    type: str = ""


class _Tokenizer(msgspec.Struct, frozen=True):
    model: _Model = _Model()


def read_folder(folder: Path, weights: Weights, *, task: str = "") -> Draft:
    """The draft of a folder; `task` is what somebody says that it is for, or "".

    Raises:
        EngineError: `unsupported_model`, `unsafe_file`.
    """
    if (folder / "adapter_config.json").is_file():
        raise _unsupported("this is an adapter: merge it into its base model first")
    if not (folder / CONFIG_FILE).is_file():
        raise _unsupported(f"{folder.name} has no {CONFIG_FILE}, which says what its weights are")
    config = read_json(folder / CONFIG_FILE)
    card = read_card(folder)
    if weights.format == FORMAT:
        draft = _of_safetensors(weights.paths)
    else:
        (path,) = weights.paths
        draft = read_onnx(path, weights.precision)
    draft = replace(draft, left_out={**draft.left_out, **weights.left_out})
    found, origin = task_of(config, card, folder)
    draft = draft.meant(task).said(origin, task=found)
    draft = draft.said(
        CARD_FILE,
        license_id=license_of(card.get("license"), card.get("license_name")),
        languages=languages_of(card.get("language")),
    )
    length = config.get("max_position_embeddings") or config.get("n_positions")
    draft = draft.said(
        CONFIG_FILE, context_tokens=length if type(length) is int and 0 < length < 2**31 else 0
    )
    graph = onnx_facts(weights.paths[0]) if weights.format == "onnx" else None
    draft = hf_mapping.mapped(draft, folder, config, graph)
    return _with_files(draft, folder)


def find_weights(folder: Path) -> Weights:
    """The one set of weights in a folder that is safe to read.

    Raises:
        EngineError: `unsupported_model` where there is none, or no telling which; `unsafe_file`.
    """
    neighbours = islice(folder.iterdir(), LIMITS.model_neighbours_max)
    names = sorted(path.name for path in neighbours if path.is_file())
    inside = folder / "onnx"
    graphs = [folder / name for name in names if name.endswith(".onnx")]
    if not graphs and inside.is_dir():
        graphs = sorted(path for path in inside.iterdir() if path.name == "model.onnx")
    tensors = [folder / name for name in names if name.endswith(f".{FORMAT}")]
    ggufs = [folder / n for n in names if n.endswith(".gguf") and not n.startswith("mmproj")]
    code = [name for name in names if name.endswith(_CODE)]
    left_out = dict.fromkeys(code, "loading it could run code that is hidden in it")
    for format_, paths in ((FORMAT, _complete(folder, tensors)), ("onnx", graphs), ("gguf", ggufs)):
        if not paths:
            continue
        others = {p.name for p in (*tensors, *graphs, *ggufs)} - {p.name for p in paths}
        if format_ != FORMAT and len(paths) > 1:
            listed = ", ".join(path.name for path in paths)[:400]
            raise _unsupported(f"name one of these files instead of the folder: {listed}")
        return Weights(
            format_, tuple(paths), {**left_out, **dict.fromkeys(others, "another set of weights")}
        )
    if code:
        raise EngineError(
            f"{code[0]} is the only kind of weights here, and loading such a file can run code "
            "that is hidden in it; save the model as safetensors "
            "(`model.save_pretrained(folder)` with a recent transformers)",
            Code.UNSAFE_FILE,
        )
    raise _unsupported(f"{folder.name} holds no weights: no safetensors, ONNX or GGUF file")


def _complete(folder: Path, tensors: Sequence[Path]) -> list[Path]:
    """All files of one set of safetensors: what the index names, or the only ones."""
    index = folder / INDEX_FILE
    names = {path.name for path in tensors}
    if index.is_file():
        data = read_small(index, _INDEX_MAX_BYTES)
        try:
            wanted = set(msgspec.json.decode(data, type=_Index).weight_map.values())
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            raise _unsupported(f"{INDEX_FILE} is not what it should be") from None
        if missing := sorted(wanted - names):
            raise _unsupported(f"{missing[0][:96]} is missing, which {INDEX_FILE} names")
        return sorted(folder / name for name in wanted)
    if "model.safetensors" in names:
        return [folder / "model.safetensors"]
    if len(tensors) > 1:
        listed = ", ".join(sorted(names))[:400]
        raise _unsupported(f"several safetensors and no {INDEX_FILE} that joins them: {listed}")
    return list(tensors)


def _of_safetensors(paths: Sequence[Path]) -> Draft:
    sizes, count = Counter[str](), 0
    for path in paths:
        file = safetensors.parse(safetensors.map_file(path))
        if not file.tensors:
            raise _unsupported(f"{path.name} holds no tensors")
        sizes[file.precision] += file.weight_bytes
        count += sum(math.prod(tensor.shape) for tensor in file.tensors.values())
    ((precision, _),) = sizes.most_common(1)
    files = {path.name: path for path in paths}
    return Draft(FORMAT, files, precision=precision, parameters=count)


def _with_files(draft: Draft, folder: Path) -> Draft:
    """With the files beside the weights that engines read for this task."""
    names: list[str] = []
    if draft.format == FORMAT:
        names.append(CONFIG_FILE)
        if draft.task == "text-generation":
            names += [TOKENIZER_FILE, *_CHAT, *_GENERATION]
        elif draft.task in WRITTEN:
            names += [TOKENIZER_FILE, *_GENERATION]
    if isinstance(draft.mapping, msgspec.Struct) and isinstance(draft.mapping.text, msgspec.Struct):
        names.append(draft.mapping.text.tokenizer)
    beside = {name: folder / name for name in dict.fromkeys(names) if (folder / name).is_file()}
    draft = replace(draft, files={**draft.files, **beside})
    if len(draft.files) > LIMITS.files_max:
        raise _unsupported(f"the model has {len(draft.files)} files; {LIMITS.files_max} at most")
    if TOKENIZER_FILE in beside:
        draft = draft.said(TOKENIZER_FILE, tokenizer=_tokenizer(beside[TOKENIZER_FILE]))
    return draft


def _tokenizer(path: Path) -> str:
    data = read_small(path, _TOKENIZER_MAX_BYTES)
    try:
        said = msgspec.json.decode(data, type=_Tokenizer)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise _unsupported(f"{path.name} is no tokenizer") from None
    return said.model.type[:64] or "yes"


def _unsupported(message: str) -> EngineError:
    return EngineError(message, Code.UNSUPPORTED_MODEL)
