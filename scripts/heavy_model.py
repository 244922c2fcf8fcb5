"""A model as large as one likes that loads and answers: random weights in a GGUF file."""

from dataclasses import replace
from pathlib import Path

from tests.engines.gguf_writer import TINY, tiny_llama, write

_FLOAT_BYTES = 4
_MATRICES = 3  # of the feed-forward part of a layer, each `width` times `hidden`
_ROUND_TO = 32


def heavy_model(folder: Path, size_bytes: int, *, seed: int = 0) -> Path:
    """The path of a file of about that many bytes."""
    per_row = TINY.layers * _MATRICES * TINY.width * _FLOAT_BYTES
    hidden = max(TINY.hidden, size_bytes // per_row // _ROUND_TO * _ROUND_TO)
    shape = replace(TINY, hidden=hidden)
    return write(folder, tiny_llama(shape=shape, seed=seed), f"heavy-{seed}.gguf")
