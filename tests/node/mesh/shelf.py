"""Models on a shelf, for tests of what is above it."""

import hashlib
from itertools import count
from pathlib import Path

from aigrid.node.mesh.model_copy import inline
from aigrid.node.mesh.models import LocalModels
from aigrid.protocol.model import ModelDescription, ModelFile


def described(name: str, data: bytes) -> ModelDescription:
    file = ModelFile(name, hashlib.sha256(data).hexdigest(), len(data))
    return ModelDescription("onnx", "tabular-classification", (file,))


def echo_model(**options: str | float) -> ModelDescription:
    return ModelDescription("echo", "text-generation", (), options=dict(options))


async def empty_shelf(directory: Path) -> LocalModels:
    """Without threads, and with names that repeat."""
    numbers = count()
    models = LocalModels(directory, run_blocking=inline, token=lambda: str(next(numbers)))
    await models.open()
    return models
