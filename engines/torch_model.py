"""A model of an architecture that transformers knows, from safetensors, into torch.

Nothing of the model is executed, and transformers is given no path: the configuration is data that
was read and cleaned here, and the weights are views into files whose headers were checked here. So
there is no remote code, no pickle, no download, and no file name inside a file to follow.
"""

import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from aigrid.engines import safetensors
from aigrid.engines.base import ModelSource
from aigrid.engines.small_files import read_json
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.limits import MIB

FORMAT: Final = "safetensors"
CONFIG_FILE: Final = "config.json"
BUFFERS_MAX_BYTES: Final = 512 * MIB
WRITERS: Final = "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING"
HEADS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "text-generation": "MODEL_FOR_CAUSAL_LM_MAPPING",
        "translation": WRITERS,
        "summarization": WRITERS,
        "feature-extraction": "MODEL_MAPPING",
        "sentence-similarity": "MODEL_MAPPING",
        "text-ranking": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING",
        "text-classification": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING",
        "zero-shot-classification": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING",
        "token-classification": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING",
        "image-classification": "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING",
        "image-feature-extraction": "MODEL_MAPPING",
    }
)
"""Task -> the table of transformers that has the class for each architecture."""

_DTYPES: Final = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64",
    "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
_EXECUTABLE: Final = (".pt", ".pth", ".pt2", ".bin", ".pkl", ".pickle", ".py", ".so", ".ckpt")
# Where code would come from, which kernels to fetch, what somebody else's machine computed in.
_DROPPED: Final = frozenset(
    {"auto_map", "attn_implementation", "dtype", "torch_dtype", "name_or_path"}
)


@dataclass(frozen=True, slots=True)
class Opened:
    """Files whose headers were checked.

    Attributes:
        config: `config.json` without what is not about the architecture.
        shards: every file of weights: its header, and the mapped file.
    """

    config: dict[str, Any]
    shards: tuple[tuple[safetensors.SafetensorsFile, mmap.mmap], ...]

    @property
    def precision(self) -> str:
        """The type that most of the weights have."""
        return max(self.shards, key=lambda shard: shard[0].weight_bytes)[0].precision

    @property
    def elements(self) -> int:
        """Weights in all shards."""
        return sum(
            tensor.size_bytes * 8 // safetensors.BITS[tensor.dtype]
            for file, _ in self.shards
            for tensor in file.tensors.values()
        )


def open_files(source: ModelSource) -> Opened:
    """Read and check headers and configuration; nothing is loaded.

    Raises:
        EngineError: `unsafe_file` for files that hold code, `unsupported_model`,
            `unsupported_quantisation`.
    """
    if source.format != FORMAT:
        raise _unsupported(f"the engine takes models in format {FORMAT}, not {source.format!r}")
    for name in source.files:
        if name.lower().endswith(_EXECUTABLE):
            raise EngineError(
                f"{name}: loading such a file can run code that is hidden in it; use safetensors",
                Code.UNSAFE_FILE,
            )
    paths = sorted(path for name, path in source.files.items() if name.endswith(f".{FORMAT}"))
    if not paths or CONFIG_FILE not in source.files:
        raise _unsupported(f"a model in format {FORMAT} has weights and a {CONFIG_FILE}")
    config = _cleaned(read_json(source.files[CONFIG_FILE]))
    if not isinstance(config.get("model_type"), str):
        raise _unsupported(f"{CONFIG_FILE} does not say which architecture it is")
    return Opened(config, tuple(_shard(path) for path in paths))


def _shard(path: Path) -> tuple[safetensors.SafetensorsFile, mmap.mmap]:
    # A private copy of each page that is written to: torch has no tensors that cannot be written.
    mapped = safetensors.map_file(path, access=mmap.ACCESS_COPY)
    file = safetensors.parse(mapped)
    for tensor in file.tensors.values():
        if tensor.dtype not in _DTYPES:
            raise EngineError(
                f"tensor {tensor.name[:100]!r} is {tensor.dtype}, which is not supported",
                Code.UNSUPPORTED_QUANTISATION,
            )
    return file, mapped


def _cleaned(config: Mapping[str, Any]) -> dict[str, Any]:
    if config.get("quantization_config"):
        raise EngineError(
            "quantised safetensors are not supported; use GGUF for a quantised model",
            Code.UNSUPPORTED_QUANTISATION,
        )
    return {
        key: _cleaned(value) if isinstance(value, dict) and key != "id2label" else value
        for key, value in config.items()
        if key not in _DROPPED and not key.startswith("_")
    }


def offline() -> None:
    """Before transformers is imported: it neither fetches nor reports anything."""
    os.environ.update(
        HF_HUB_OFFLINE="1",
        TRANSFORMERS_OFFLINE="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        TOKENIZERS_PARALLELISM="false",
        TRANSFORMERS_VERBOSITY="error",
        USE_TF="0",
        USE_FLAX="0",
    )


def build(opened: Opened, table: str, *, device: Any, dtype: Any) -> Any:
    """The module, in evaluation mode on `device`, its weights as `dtype`.

    Raises:
        EngineError: `unsupported_model` for an architecture that is unknown or has no such head, or
            weights that do not fit it; `out_of_memory`.
    """
    offline()
    from transformers.utils import logging

    logging.disable_progress_bar()
    kind, config = _class(opened, table)
    _check_size(opened, kind, config)
    try:
        model, info = kind.from_pretrained(
            None,
            config=config,
            state_dict=_state(opened),
            dtype=dtype,
            output_loading_info=True,
            trust_remote_code=False,
        )
        _check_loaded(info)
        return model.eval().requires_grad_(requires_grad=False).to(device)
    except EngineError:
        raise
    except Exception as error:  # boundary: an engine call
        raise failed(error, Code.UNSUPPORTED_MODEL) from error


def _class(opened: Opened, table: str) -> tuple[Any, Any]:
    """The class of the architecture for a task, and its configuration."""
    from transformers import AutoConfig
    from transformers.models.auto import modeling_auto

    values = dict(opened.config)
    name = values.pop("model_type")
    try:
        config = AutoConfig.for_model(name, **values)
    except Exception as error:  # boundary: an engine call
        raise _unsupported(
            f"transformers does not take this {name[:64]!r}: {type(error).__name__}"
        ) from error
    found = getattr(modeling_auto, table).get(type(config), None)
    if found is None:
        raise _unsupported(f"{name[:64]!r} cannot do this task in transformers")
    return (found[0] if isinstance(found, tuple) else found), config


def _check_size(opened: Opened, kind: Any, config: Any) -> None:
    """What a configuration asks for must be what the files hold, before any of it is allocated."""
    import torch

    tensors = sum(len(file.tensors) for file, _ in opened.shards)
    layers = [value for name, value in opened.config.items() if _is_count(name, value)]
    if max(layers, default=0) > tensors:  # each would be made, if only in name
        raise _unsupported(
            f"{CONFIG_FILE} asks for {max(layers)} layers, the weights are {tensors}"
        )
    try:
        with torch.device("meta"):
            shell = kind(config)
    except Exception as error:  # boundary: an engine call
        raise failed(error, Code.UNSUPPORTED_MODEL) from error
    wanted = sum(parameter.numel() for parameter in shell.parameters())
    buffers = sum(buffer.nbytes for buffer in shell.buffers())
    if buffers > BUFFERS_MAX_BYTES:
        raise _unsupported(f"{CONFIG_FILE} asks for {buffers} bytes beside the weights")
    # A pooler that the task does not use may be missing, and tables of positions are computed.
    width, positions = (
        int(getattr(config, name, 0) or 0) for name in ("hidden_size", "max_position_embeddings")
    )
    spare = min(2 * width * (width + positions), BUFFERS_MAX_BYTES // 4)
    if wanted > opened.elements + spare:
        raise _unsupported(f"{CONFIG_FILE} asks for {wanted} weights, there are {opened.elements}")


def _is_count(name: str, value: Any) -> bool:
    """Whether a setting is a number of layers: num_hidden_layers, n_layer, encoder_layers..."""
    return type(value) is int and "layer" in name and not name.startswith("layer")


def _check_loaded(info: Mapping[str, Any]) -> None:
    missing = sorted(name for name in info["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise _unsupported(f"the weights {missing[0]!r} are missing")
    if info["mismatched_keys"]:
        raise _unsupported(f"weights have another shape: {min(map(str, info['mismatched_keys']))}")


def _state(opened: Opened) -> dict[str, Any]:
    """Every tensor, as a view into its file."""
    import torch

    state: dict[str, Any] = {}
    for file, mapped in opened.shards:
        for tensor in file.tensors.values():
            if tensor.name in state:
                raise EngineError(
                    f"the tensor {tensor.name[:100]!r} is in two files", Code.UNSAFE_FILE
                )
            dtype = getattr(torch, _DTYPES[tensor.dtype])
            if not tensor.size_bytes:
                state[tensor.name] = torch.empty(tensor.shape, dtype=dtype)
                continue
            view = memoryview(mapped)[tensor.offset : tensor.offset + tensor.size_bytes]
            state[tensor.name] = torch.frombuffer(view, dtype=dtype).reshape(tensor.shape)
    return state


def failed(error: Exception, otherwise: Code) -> EngineError:
    """An error of torch or transformers as one of ours. Its text may quote paths: only its type."""
    said = str(error).lower()
    if isinstance(error, MemoryError) or "out of memory" in said or "can't allocate" in said:
        return EngineError("not enough memory for this model", Code.OUT_OF_MEMORY)
    return EngineError(f"torch does not take this: {type(error).__name__}", otherwise)


def _unsupported(message: str) -> EngineError:
    return EngineError(message[:300], Code.UNSUPPORTED_MODEL)
