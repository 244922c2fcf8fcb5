"""Built graphs, kept by the content of the model that they came from."""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from aigrid.engines.gguf import Buffer, GgufFile
from aigrid.engines.llama import LlamaConfig
from aigrid.protocol.errors import Code, EngineError

GRAPH_VERSION: Final = 3
GRAPH_FILE, WEIGHTS_FILE = "graph.onnx", "weights.bin"
_UNFINISHED = "building-"

Build = Callable[[Path], None]
"""Writes a graph and its weights into an existing directory."""


def content_key(buffer: Buffer, accuracy: int) -> str:
    """The name of a graph: what it was built from, and how."""
    digest = hashlib.sha256(buffer).hexdigest()
    return f"llama-{digest}-v{GRAPH_VERSION}-a{accuracy}"


@contextmanager
def graph_directory(
    model: GgufFile,
    config: LlamaConfig,
    buffer: Buffer,
    *,
    accuracy: int,
    cache: Path | None,
    key: str,
) -> Iterator[Path]:
    """`built`, for a GGUF."""

    def build(directory: Path) -> None:
        # The builder imports `onnx`, which takes as long as loading a model that is already built.
        from aigrid.engines.gguf_graph import build

        build(model, config, buffer, directory, accuracy=accuracy)

    with built(build, cache=cache, key=key) as directory:
        yield directory


@contextmanager
def built(build: Build, *, cache: Path | None, key: str) -> Iterator[Path]:
    """Give a directory with a finished graph, which `build` writes if need be.

    Without a cache the directory is gone at the end; a session that maps its files keeps them.

    Raises:
        EngineError: `engine_failed` if there is no room to write it.
    """
    try:
        if cache is None:
            with tempfile.TemporaryDirectory(prefix="aigrid-graph-") as name:
                build(Path(name))
                yield Path(name)
            return
        finished = cache / key
        if not finished.is_dir():
            _build_into(finished, build)
    except OSError as error:
        raise EngineError(
            f"cannot write the model's graph: {error.strerror}", Code.ENGINE_FAILED
        ) from None
    yield finished


def discard(cache: Path, key: str) -> None:
    """Forget a graph that turned out to be unusable."""
    shutil.rmtree(cache / key, ignore_errors=True)


def _build_into(finished: Path, build: Build) -> None:
    cache = finished.parent
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if finished.is_dir():
            return
        # Whoever holds the lock is the only builder, so these are from builders that were killed.
        for stale in cache.glob(f"{_UNFINISHED}*"):
            shutil.rmtree(stale, ignore_errors=True)
        unfinished = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=cache))
        try:
            build(unfinished)
            for path in unfinished.iterdir():
                _flush(path)
            unfinished.rename(finished)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise


def _flush(path: Path) -> None:
    """After a power cut the renamed directory must not hold empty files."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
