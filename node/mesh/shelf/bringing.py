"""How a model that lies on this machine is published: read, examined, tried once, offered.

    path -> `propose` -> a person agrees -> `publish`

A proposal is what would be signed, with where each thing was read; nothing has changed yet.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

from msgspec import UNSET, UnsetType

from aigrid.engines.base import Estimate, ModelSource
from aigrid.engines.draft import Draft
from aigrid.engines.trial import GENERATION, trial
from aigrid.node.mesh.shelf.copying import Progress, no_progress
from aigrid.node.mesh.shelf.hosting import Hosting, Published
from aigrid.node.mesh.shelf.models import LocalModels
from aigrid.node.mesh.shelf.sayable import check_draft, settled
from aigrid.protocol.credential_kinds import Rules
from aigrid.protocol.errors import Code, EngineError, LocalError, UsageError
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.mesh_kinds import Serves
from aigrid.protocol.model import ModelDescription, model_id
from aigrid.protocol.task import ALSO_DOES, WRITTEN, TaskMapping, files_of
from aigrid.protocol.tensors import TensorSpecs

_NAMELESS: Final = frozenset({"model", "pytorch_model", "model_quantized"})


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a person says of a model; empty for what its files shall say."""

    name: str = ""
    capability: str = ""
    license_id: str = ""
    languages: tuple[str, ...] = ()
    mapping: TaskMapping | UnsetType = UNSET
    policy: Rules | UnsetType = UNSET
    serves: Serves | UnsetType = UNSET


@dataclass(frozen=True, slots=True)
class Fit:
    """The engine that takes a model here, and what loading would take."""

    engine: str
    estimate: Estimate


@dataclass(frozen=True, slots=True)
class Proposal:
    """A model as it would be published.

    Attributes:
        sizes: file -> bytes.
        fit: None where no engine here takes it; `problem` says why.
        own: whether this node is the publisher of what code there is in it.
        policy: what may be done with it, by whom; unset: as this node published it before.
        serves: for which values of selecting parameters; likewise.
    """

    draft: Draft
    sizes: Mapping[str, int]
    name: str
    capability: str
    fit: Fit | None
    problem: EngineError | None
    own: bool = True
    policy: Rules | UnsetType = UNSET
    serves: Serves | UnsetType = UNSET

    @property
    def capabilities(self) -> tuple[str, ...]:
        """All that the model is offered for."""
        also = ALSO_DOES.get(self.capability, ()) if self.draft.mapping is not UNSET else ()
        return (self.capability, *also)


class ReadModel(Protocol):
    """See `WorkerSpawner.read`."""

    def __call__(
        self, path: Path, *, task: str, formats: frozenset[str], trusted: bool
    ) -> Awaitable[Draft]: ...


class Bringing:
    """From files to an offer."""

    def __init__(
        self,
        *,
        models: LocalModels,
        hosting: Hosting,
        read: ReadModel,
        fit: Callable[[ModelSource], Awaitable[Fit]],
        formats: Callable[[], frozenset[str]],
        task_of: Callable[[str], str],
        trusted: bool = False,
    ) -> None:
        """Construct.

        Args:
            models: where models are kept.
            hosting: what offers them.
            read: see `WorkerSpawner.read`.
            fit: the engine that takes a model here, and what loading would take.
            formats: what engines take here.
            task_of: the task of a capability.
            trusted: whether what this node publishes may run code here.
        """
        self._models = models
        self._hosting = hosting
        self._read = read
        self._fit = fit
        self._formats = formats
        self._task_of = task_of
        self._trusted = trusted

    async def propose(
        self, path: Path, wishes: Wishes, *, name: str = "", own: bool = True
    ) -> Proposal:
        """What publishing the model at `path` would say. `name` is the usual one for it.

        What somebody else made is not this node's `own`, however much it trusts itself.

        Raises:
            EngineError: `unsafe_file`, `unsupported_model`, `model_file_missing`.
            UsageError: where neither the files nor `wishes` say what the model is for, or what
                they say cannot be signed.
        """
        trusted = own and self._trusted
        path = await self._models.run_blocking(lambda: settled(path))
        task = self._task_of(wishes.capability) if wishes.capability else ""
        read = await self._read(path, task=task, formats=self._formats(), trusted=trusted)
        draft, sizes, usual = await self._models.run_blocking(
            lambda: _completed(read, path, wishes)
        )
        if not draft.task:
            raise UsageError(
                "its files do not say what the model does; say it with --capability, "
                f"a Hugging Face pipeline tag{_shape_of(draft)}"
            )
        chosen = wishes.name or (name or usual).lower()[: LIMITS.name_max_chars]
        check_draft(chosen, draft)
        fit, problem = None, None
        try:
            fit = await self._fit(_source(draft, trusted=trusted))
        except EngineError as error:
            problem = error
        capability = wishes.capability or draft.task
        asked = (wishes.policy, wishes.serves)
        return Proposal(draft, sizes, chosen, capability, fit, problem, own, *asked)

    async def describe(self, draft: Draft, progress: Progress = no_progress) -> ModelDescription:
        """What is hashed into the model's id: the files' own names are no part of it.

        Raises:
            UsageError: `model_file_missing`.
        """
        files = [
            await self._models.describe_file(name, path, progress)
            for name, path in draft.files.items()
        ]
        return ModelDescription(
            draft.format, draft.task, tuple(files), draft.precision, mapping=draft.mapping
        )

    async def publish(
        self,
        proposal: Proposal,
        *,
        take: bool = False,
        sha256_of: Callable[[Path], str] = lambda _: "",
        progress: Progress = no_progress,
    ) -> Published:
        """Copy the files in, have the model answer a trial request, sign and offer it.

        With `take` the files are moved instead, where that is possible: they are this node's own.
        `sha256_of` says what the hash of a file has to be, or "" where that is not known.

        Raises:
            EngineError: why no engine takes it, or why it did not answer.
            UsageError: `model_file_missing`, `ambiguous_model`.
            LocalError: `hash_mismatch`, `over_quota`, `data_directory_unusable`, `busy`.
        """
        if proposal.problem is not None:
            raise proposal.problem
        draft = proposal.draft
        description = await self.describe(draft, progress)
        for file in description.files:
            wanted = sha256_of(draft.files[file.name])
            if wanted not in ("", file.sha256):
                raise LocalError(
                    f"{file.name} is not what was promised: SHA-256 is {file.sha256}, not {wanted}",
                    Code.HASH_MISMATCH,
                )
        self._hosting.check_name(proposal.name, model_id(description))
        return await self._hosting.add(
            description,
            dict(draft.files),
            name=proposal.name,
            capabilities=proposal.capabilities,
            license_id=draft.license_id,
            languages=draft.languages,
            policy=proposal.policy,
            serves=proposal.serves,
            trial=trial(draft.task, draft.mapping, draft.inputs),
            tensors=_tensors(draft),
            take=take,
            own=proposal.own,
            progress=progress,
        )


def _completed(draft: Draft, path: Path, wishes: Wishes) -> tuple[Draft, Mapping[str, int], str]:
    """The draft as somebody wishes it, its files' sizes, and what such a model is usually called.

    Raises:
        UsageError: `model_file_missing`.
    """
    folder = path.is_dir()
    wished = _wished(draft, path if folder else path.parent, wishes)
    try:
        sizes = {name: at.stat().st_size for name, at in sorted(wished.files.items())}
    except OSError as error:
        raise UsageError(
            f"cannot read {error.filename}: {error.strerror}", Code.MODEL_FILE_MISSING
        ) from None
    # A file that is called as all are has the better name in its folder's.
    usual = path.stem if path.stem not in _NAMELESS else path.parent.name
    return wished, sizes, path.name if folder else usual


def _wished(draft: Draft, folder: Path, wishes: Wishes) -> Draft:
    """With what a person says in the place of what the files say."""
    draft = draft.instead("--license", license_id=wishes.license_id)
    draft = draft.instead("--language", languages=wishes.languages)
    draft = draft.instead("--task-mapping", mapping=wishes.mapping)
    if wishes.mapping is UNSET:
        return draft
    beside = {name: folder / name for name in files_of(wishes.mapping)}
    for name, path in beside.items():
        if not path.is_file():
            raise UsageError(
                f"the mapping names {name!r}, which does not lie beside the model",
                Code.MODEL_FILE_MISSING,
            )
    weights = {name for name in draft.files if name.endswith(f".{draft.format}")}
    if taken := sorted(weights & beside.keys()):
        raise UsageError(f"the mapping names {taken[0]!r}, which is what the model is called")
    return replace(draft, files={**draft.files, **beside})


def _tensors(draft: Draft) -> tuple[TensorSpecs, TensorSpecs]:
    """What requests may carry: a graph that writes text has tensors of its engine's alone."""
    writes = draft.task == GENERATION or draft.task in WRITTEN
    return ((), ()) if writes else (draft.inputs, draft.outputs)


def _source(draft: Draft, *, trusted: bool) -> ModelSource:
    """What an engine is asked about: under no id yet, for nothing has been hashed."""
    mapping = None if draft.mapping is UNSET else draft.mapping
    files = {name: path.absolute() for name, path in draft.files.items()}
    return ModelSource(
        "unpublished", draft.format, files, draft.task, mapping=mapping, trusted=trusted
    )


def _shape_of(draft: Draft) -> str:
    """What is known of its tensors, as a hint."""
    said = [f"{spec.name} {spec.datatype}{list(spec.shape)}" for spec in draft.inputs[:4]]
    return f" (its inputs: {', '.join(said)})" if said else ""
