"""Models on a shelf, for tests of what is above it."""

import hashlib
from itertools import count
from pathlib import Path
from typing import cast

import trio

from aigrid.engines.base import Estimate, ModelSource
from aigrid.node.mesh.shelf.bringing import Bringing, Fit
from aigrid.node.mesh.shelf.copying import inline
from aigrid.node.mesh.shelf.hosting import Hosting
from aigrid.node.mesh.shelf.models import LocalModels
from aigrid.node.workers.inline import InlineSpawner
from aigrid.protocol.errors import EngineError
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


def bringing(
    models: LocalModels, *, refusal: EngineError | None = None, formats: tuple[str, ...] = ()
) -> Bringing:
    """It proposes and describes; there is nobody to publish with."""

    async def fit(_: ModelSource) -> Fit:
        await trio.lowlevel.checkpoint()
        if refusal is not None:
            raise refusal
        return Fit("onnx", Estimate(7))

    return Bringing(
        models=models,
        hosting=cast("Hosting", None),
        read=InlineSpawner().read,
        fit=fit,
        formats=lambda: frozenset(formats),
        task_of=lambda capability: capability,
    )
