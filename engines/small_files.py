"""Files beside a model's weights: configurations, tokenizers, cards. They are read whole."""

import os
import stat
from pathlib import Path

from aigrid.protocol.errors import Code, EngineError


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
