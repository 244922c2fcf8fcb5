"""The chunk lists of a model's files, as its manifest names them."""

import hashlib

import structlog
from msgspec import UNSET, UnsetType

from aigrid.node.mesh.shelf.models import LocalModels
from aigrid.protocol.errors import VerificationError
from aigrid.protocol.mesh_kinds import ChunkList

log = structlog.get_logger(__name__)


async def chunk_lists_of(models: LocalModels, model: str) -> tuple[ChunkList, ...] | UnsetType:
    """By which others may fetch the files of `model`; unset where these are not given away.

    Raises as `LocalModels.chunk_list`, but for what is too large.
    """
    description = models.description(model)
    if description.upstream is not UNSET:
        return UNSET
    found = []
    try:
        for file in sorted(description.files, key=lambda file: file.name):
            raw = await models.chunk_list(model, file)
            found.append(ChunkList(file.name, hashlib.sha256(raw).hexdigest()))
    except VerificationError as error:
        log.warning("not_given_away", model=model, reason=error.message)
        return UNSET
    return tuple(found)
