"""The smallest request that a model has to answer: tried once, before the model is offered."""

import base64
import io
import struct
import wave
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from aigrid.protocol.inference import (
    InferRequest,
    TaskRequest,
    TensorRequest,
    TextRequest,
)
from aigrid.protocol.limits import MIB
from aigrid.protocol.task import WRITTEN, Feature, TaskMapping
from aigrid.protocol.tensors import TensorSpec, zeros

GENERATION: Final = "text-generation"
_TEXT: Final = "A short text."
_SIDE: Final = 32
_RATE: Final = 16_000
_TENSORS_MAX_BYTES: Final = 8 * MIB
_INPUTS: Final[Mapping[str, Any]] = {
    "feature-extraction": [_TEXT],
    "sentence-similarity": {"source": _TEXT, "sentences": [_TEXT]},
    "text-ranking": {"query": _TEXT, "documents": [_TEXT]},
    "text-classification": _TEXT,
    "zero-shot-classification": {"text": _TEXT, "labels": ["one", "two"]},
    "token-classification": _TEXT,
    "translation": _TEXT,
    "summarization": _TEXT,
}
_TABLES: Final = frozenset({"tabular-classification", "tabular-regression", "anomaly-detection"})
_IMAGES: Final = frozenset({"image-classification", "image-feature-extraction"})
_SOUNDS: Final = frozenset({"audio-classification", "voice-activity-detection"})


def trial(
    task: str, mapping: TaskMapping | UnsetType, inputs: Sequence[TensorSpec] = ()
) -> InferRequest | None:
    """A request for a model of `task`; None where nothing is known that it would have to answer.

    A typed task is asked as such. Of any other a model that declares its tensors gets zeros.
    """
    if task == GENERATION:
        return TextRequest(prompt="Hello", max_tokens=1, temperature=0.0)
    given = _typed(task, mapping)
    if given is not None:
        parameters: dict[str, str | int | float | bool] = {}
        if task in WRITTEN:
            parameters["max_tokens"] = 4
        return TaskRequest(task, msgspec.json.encode(given), parameters)
    return _zeros(inputs)


def _typed(task: str, mapping: TaskMapping | UnsetType) -> Any:
    if task in _INPUTS:
        return _INPUTS[task]
    if task in _TABLES:
        return _rows(mapping)
    if task in _IMAGES:
        return base64.b64encode(png(_SIDE)).decode()
    if task in _SOUNDS:
        return base64.b64encode(_silence()).decode()
    return base64.b64encode(_TEXT.encode()).decode() if task == "file-type-detection" else None


def _rows(mapping: TaskMapping | UnsetType) -> Any:
    """A row of zeros and first categories, or a series of zeros; an empty row without a mapping."""
    if mapping is UNSET or mapping.table is UNSET:
        return [{}]
    if mapping.table.window:
        return [0.0] * mapping.table.window
    return [{feature.name: _cell(feature) for feature in mapping.table.features}]


def _cell(feature: Feature) -> str | float:
    return feature.categories[0] if feature.categories else 0.0


def _zeros(inputs: Sequence[TensorSpec]) -> TensorRequest | None:
    """Zeros for every input, one where a dimension is open; None where they would be too large."""
    made = zeros(inputs, _TENSORS_MAX_BYTES)
    return TensorRequest(made) if made else None


def png(side: int) -> bytes:
    """A square in RGB that goes from dark to light. Source: W3C, PNG (third edition)."""
    row = bytes(value for x in range(side) for value in (x * 255 // side,) * 3)
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress((b"\0" + row) * side)),
        (b"IEND", b""),
    )
    chunks = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _silence() -> bytes:
    """Half a second, mono, 16 bit."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(_RATE)
        sound.writeframes(bytes(_RATE))
    return file.getvalue()
