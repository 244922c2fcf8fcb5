"""May this node host a model under a manifest, and if not, why not. Pure; asked by all who wonder.

The shelf asks of what is here, weights of what is to be fetched, placement of both.
"""

from collections.abc import Collection
from dataclasses import dataclass

from msgspec import UNSET

from aigrid.protocol.errors import (
    AigridError,
    Code,
    EngineError,
    LocalError,
    NoCandidateError,
    PolicyDeniedError,
    VerificationError,
)
from aigrid.protocol.kinds import ModelBody
from aigrid.protocol.limits import MIB
from aigrid.protocol.model import MODEL_URN
from aigrid.protocol.record import Record


@dataclass(frozen=True, slots=True)
class Standing:
    """What is permitted here under a manifest.

    Attributes:
        live: it was neither withdrawn, nor has it expired.
        hosted: the operator hosts such models.
        safe: its files run no code, or a publisher who is trusted here has signed for them.
        refusal: why policy does not let this node host it (grants, licence, region), or None.
    """

    live: bool
    hosted: bool
    safe: bool
    refusal: AigridError | None = None


@dataclass(frozen=True, slots=True)
class Means:
    """What this node can do.

    Attributes:
        formats: that engines here take.
        memory_bytes: the most that one model may take.
        cache_bytes: what fetched models may take of the disk.
        contradicted: content ids of manifests that led to other files than they name.
    """

    formats: Collection[str]
    memory_bytes: int
    cache_bytes: int
    contradicted: Collection[str] = ()


def why_not_host(
    model: str,
    manifest: Record,
    standing: Standing,
    means: Means | None = None,
    *,
    fetch: bool = False,
    load: bool = False,
) -> AigridError | None:
    """Why this node may not or cannot host a model under a manifest; None: it may, and can.

    Without `means` only whether it may. `fetch`: its files are to be brought here; `load`: it is
    to be run here, which files that are only kept need not be.
    """
    body = manifest.body
    if not isinstance(body, ModelBody) or body.id != MODEL_URN + model:
        return PolicyDeniedError("the manifest is of another model", Code.WRONG_MANIFEST)
    if not standing.live:
        return PolicyDeniedError("the manifest was withdrawn, or has expired", Code.WRONG_MANIFEST)
    if not standing.hosted:
        return PolicyDeniedError(
            "this node's operator does not host it: see `host` in its configuration",
            Code.NOT_SERVED,
        )
    if not standing.safe:
        return PolicyDeniedError(
            "its files can run code of their publisher, whom this node does not trust: "
            f"`--trust-publisher {manifest.issuer}`"
        )
    cannot = _why_cannot(manifest, body, means, fetch=fetch, load=load) if means else None
    return cannot or standing.refusal


def _why_cannot(
    manifest: Record, body: ModelBody, means: Means, *, fetch: bool, load: bool
) -> AigridError | None:
    if fetch and body.model.upstream is not UNSET:
        return NoCandidateError("the model is behind a server, which is not fetched")
    if body.model.format not in means.formats:
        return EngineError(
            f"no engine here takes {body.model.format} (`aigrid engines`)", Code.UNSUPPORTED_MODEL
        )
    if load and body.memory_bytes > means.memory_bytes:  # as its manifest says
        return LocalError(
            f"it needs {body.memory_bytes // MIB} MiB, this node has {means.memory_bytes // MIB}",
            Code.OVER_QUOTA,
        )
    if not fetch:
        return None
    if body.chunk_lists is UNSET:
        return NoCandidateError(
            "the manifest does not say how to fetch the model: its owner publishes it again"
        )
    if manifest.content_id in means.contradicted:
        return VerificationError(
            "the files that the manifest leads to are not those that it names: its publisher "
            "has to publish the model again",
            Code.HASH_MISMATCH,
        )
    size = sum(file.bytes for file in body.model.files)
    if size > means.cache_bytes:
        return LocalError(
            f"{size // MIB} MiB are more than what fetched models may take here (`cache_bytes`)",
            Code.OVER_QUOTA,
        )
    return None
