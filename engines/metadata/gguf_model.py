"""What a GGUF file says of itself, in the metadata at its beginning.

Source: `gguf.md` of ggml-org/ggml, "Standardized key-value pairs".
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from aigrid.engines import gguf
from aigrid.engines.draft import Draft
from aigrid.engines.metadata.card import languages_of, license_of

FORMAT: Final = "gguf"
_ENCODERS: Final = frozenset(
    {
        "bert",
        "nomic-bert",
        "nomic-bert-moe",
        "jina-bert-v2",
        "jina-bert-v3",
        "modern-bert",
        "neo-bert",
    }
)
_SHOWN_MAX_CHARS: Final = 64
_SPEAKERS_NOT: Final = frozenset({"clip", "t5encoder", "wavtokenizer-dec"})


def read_gguf(path: Path, precision: str) -> Draft:
    """The draft of one file whose header has been checked."""
    mapped = gguf.map_file(path)
    file = gguf.parse(memoryview(mapped))
    said = file.metadata
    architecture = _text(said, "general.architecture")
    weights = sum(math.prod(tensor.dims) for tensor in file.tensors.values())
    kind = _text(said, "tokenizer.ggml.model")
    draft = Draft(FORMAT, {f"model.{FORMAT}": path}, precision=precision, parameters=weights)
    draft = draft.said("general.architecture", task=_task(architecture))
    draft = draft.said(
        "general.license",
        license_id=license_of(said.get("general.license"), said.get("general.license.name")),
    )
    draft = draft.said("general.languages", languages=languages_of(said.get("general.languages")))
    draft = draft.said("tokenizer.ggml.model", tokenizer=f"{kind}, in the file" if kind else "")
    length = said.get(f"{architecture}.context_length")
    return draft.said(
        f"{architecture}.context_length",
        context_tokens=length if type(length) is int and 0 < length < 2**31 else 0,
    )


def _task(architecture: str) -> str:
    if architecture in _ENCODERS:
        return "feature-extraction"
    return "" if architecture in _SPEAKERS_NOT or not architecture else "text-generation"


def _text(said: Mapping[str, Any], key: str) -> str:
    value = said.get(key)
    return value[:_SHOWN_MAX_CHARS] if isinstance(value, str) else ""
