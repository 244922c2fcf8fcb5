"""Files beside a model's weights: configurations, tokenizers, cards. They are read whole."""

import os
import stat
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.nesting import is_nested_deeper

T = TypeVar("T")


def read_small(path: Path, max_bytes: int) -> bytes:
    """All of a regular file.

    Raises:
        EngineError: `unsupported_model` for a larger one, or what is no file (a pipe would never
            end); `model_file_missing` for one that cannot be read.
    """
    try:
        # A pipe is opened at once, without waiting for somebody to write to it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as stream:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise EngineError(f"{path.name} is not a regular file", Code.UNSUPPORTED_MODEL)
            data = stream.read(max_bytes + 1)
    except OSError as error:
        raise EngineError(
            f"cannot read {path.name}: {error.strerror}", Code.MODEL_FILE_MISSING
        ) from None
    if len(data) > max_bytes:
        raise EngineError(f"{path.name} is too large", Code.UNSUPPORTED_MODEL)
    return data


def read_json(path: Path) -> dict[str, Any]:
    """A `config.json`, or another that is one object. Raises EngineError, as below."""
    return read_json_of(dict[str, Any], path)


def read_json_of(kind: type[T], path: Path) -> T:
    """What a configuration says, nested no deeper than whoever reads it may follow.

    Raises:
        EngineError: `unsupported_model`, `model_file_missing`.
    """
    data, most = read_small(path, LIMITS.model_config_max_bytes), LIMITS.model_config_depth_max
    try:
        said = msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        message = f"{path.name} is not a model's configuration: {error}"[:300]
        raise EngineError(message, Code.UNSUPPORTED_MODEL) from None
    if is_nested_deeper(said, most):
        message = f"{path.name} is not a model's configuration: it is nested more than {most} deep"
        raise EngineError(message, Code.UNSUPPORTED_MODEL)
    return said
