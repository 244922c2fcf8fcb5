"""The models on this node's disk.

    <directory>/<model id>/               see `folder`
    <directory>/.incoming-*, .removed-*   unfinished business, deleted at the next start
    <directory>/.fetching-<model id>/     on its way from other nodes: see `weights.partial`

A model appears by one rename, complete, or not at all.
"""

import secrets
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import msgspec
import structlog
import trio

from aigrid.engines.base import Endpoint, ModelSource
from aigrid.node.mesh.shelf.copying import (
    FileReader,
    Progress,
    RunBlocking,
    can_move,
    check_room,
    disk_error,
    in_thread,
    no_progress,
    put_back,
    read_all,
    state_of,
)
from aigrid.node.mesh.shelf.endpoint_file import read_endpoint, write_endpoint
from aigrid.node.mesh.shelf.folder import (
    BROUGHT_FILE,
    FILES_FOLDER,
    Marks,
    checked,
    copied_bytes,
    is_whole,
    marks_of,
    note_brought,
    read_chunk_list,
    read_description,
    read_obtained,
    write_chunk_list,
    write_description,
    write_obtained,
)
from aigrid.protocol.errors import Code, InvalidRequestError, LocalError, UsageError
from aigrid.protocol.model import ModelDescription, ModelFile, model_id
from aigrid.protocol.record import Record

FETCHING = ".fetching-"

log = structlog.get_logger(__name__)


class LocalModels:
    """Call `open` before anything else."""

    def __init__(
        self,
        directory: Path,
        *,
        cache_directory: Path | None = None,
        run_blocking: RunBlocking = in_thread,
        token: Callable[[], str] = secrets.token_hex,
        trusted: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """`trusted`: whether the publisher of a model, by its id, may run code here."""
        self._directory = directory
        self._cache_directory = cache_directory
        self.run_blocking = run_blocking
        self._token = token
        self._trusted = trusted
        self._models: dict[str, ModelDescription] = {}
        self._checked: dict[str, Marks] = {}
        self._brought: set[str] = set()
        self._obtained: dict[str, Record] = {}

    async def open(self) -> None:
        """Learn what is on the disk; what is damaged is left alone and reported.

        Raises:
            LocalError: `data_directory_unusable`.
        """
        self._models = await self.run_blocking(self._scan)
        self._brought = await self.run_blocking(
            lambda: {m for m in self._models if (self._directory / m / BROUGHT_FILE).exists()}
        )
        obtained = {
            model: await self.run_blocking(partial(read_obtained, self._directory / model))
            for model in self._models
        }
        self._obtained = {model: one for model, one in obtained.items() if one is not None}

    def list(self) -> dict[str, ModelDescription]:
        """Model id -> description, in order of id."""
        return dict(sorted(self._models.items()))

    def description(self, model: str) -> ModelDescription:
        """Raises InvalidRequestError (`model_not_found`)."""
        if model not in self._models:
            raise InvalidRequestError(
                f"no model {model} on this node", Code.MODEL_NOT_FOUND, param="model"
            )
        return self._models[model]

    def source(self, model: str) -> ModelSource:
        """What an engine loads.

        Raises:
            InvalidRequestError: `model_not_found`.
            UsageError: `model_file_missing` where a file has gone or changed its size, or where
                nothing says where the model's server is.
        """
        description = self.description(model)
        upstream = None if description.upstream is msgspec.UNSET else description.upstream
        endpoint = self.endpoint(model)
        if upstream is not None and endpoint is None:
            raise UsageError(
                f"nothing says where the server of model {model} is: publish it again",
                Code.MODEL_FILE_MISSING,
            )
        folder = self._directory.absolute() / model / FILES_FOLDER
        files = {file.name: folder / file.name for file in description.files}
        for file in description.files:
            if not is_whole(files[file.name], file.bytes):
                raise UsageError(
                    f"{file.name} of model {model} is gone or damaged", Code.MODEL_FILE_MISSING
                )
        return ModelSource(
            model,
            description.format,
            files,
            description.task,
            description.options,
            # Of its own: who gets at a worker of one model must not get at another's graph.
            self._cache_directory / model if self._cache_directory is not None else None,
            None if description.mapping is msgspec.UNSET else description.mapping,
            upstream,
            endpoint,
            self._trusted(model),
        )

    def endpoint(self, model: str) -> Endpoint | None:
        """Where a model's server is; None for a model with files of its own."""
        if self.description(model).upstream is msgspec.UNSET:
            return None
        return read_endpoint(self._directory / model)

    async def set_endpoint(self, model: str, endpoint: Endpoint) -> None:
        """The server is elsewhere now. Raises LocalError (`data_directory_unusable`)."""
        self.description(model)
        await self.run_blocking(lambda: self._write_endpoint(self._directory / model, endpoint))

    def brought(self, model: str) -> bool:
        """Whether it was added as somebody else's: what this node signs vouches for no code."""
        return model in self._brought

    def obtained(self, model: str) -> Record | None:
        """The manifest by which it was fetched from other nodes, if it was."""
        return self._obtained.get(model)

    def fetching_folder(self, model: str) -> Path:
        return self._directory / (FETCHING + model)

    def fetching(self) -> tuple[str, ...]:
        """Models of which there is a part, on its way or left. Blocks."""
        try:
            found = sorted(self._directory.glob(FETCHING + "*"))
        except OSError:
            return ()
        return tuple(path.name.removeprefix(FETCHING) for path in found)

    async def chunk_list(self, model: str, file: ModelFile) -> bytes:
        """The chunk list of a file of a model; made where it is not there.

        Raises:
            InvalidRequestError, UsageError: as `source`.
            VerificationError: the file is too large to be given away.
            LocalError: `hash_mismatch`, `data_directory_unusable`.
        """
        folder = self._directory / model
        found = await self.run_blocking(lambda: read_chunk_list(folder, file))
        if found is not None:
            return found
        reader = FileReader(self.source(model).files[file.name], chunked=True)
        sha256 = await read_all(reader, self.run_blocking, no_progress, file.name)
        if sha256 != file.sha256:
            raise LocalError(
                f"{file.name} of model {model} is not what was published", Code.HASH_MISMATCH
            )
        await self.run_blocking(lambda: write_chunk_list(folder, file.name, reader.chunk_list))
        return reader.chunk_list

    async def claim(self, model: str) -> None:
        """It is this node's own from now on. Raises LocalError (`data_directory_unusable`)."""
        if model in self._brought:
            await self.run_blocking(lambda: note_brought(self._directory / model, brought=False))
            self._brought.discard(model)

    async def check(self, model: str) -> None:
        """Hash the files of a model, unless nothing has touched them since that was last done.

        Raises:
            LocalError: `hash_mismatch`.
            UsageError: `model_file_missing`.
        """
        source = self.source(model)
        marks = await self.run_blocking(lambda: marks_of(source.files))
        if self._checked.get(model) == marks:
            return
        for file in self.description(model).files:
            reader = FileReader(source.files[file.name])
            found = await read_all(reader, self.run_blocking, no_progress, file.name)
            if found != file.sha256:
                raise LocalError(
                    f"{file.name} of model {model} is not what was published", Code.HASH_MISMATCH
                )
        self._checked[model] = marks

    async def untouched(self, model: str) -> bool:
        """Whether nobody has written to the files of a model since they were last hashed."""
        marks = self._checked.get(model)
        files = self.source(model).files
        return marks is not None and await self.run_blocking(lambda: marks_of(files)) == marks

    def set_aside(self, model: str) -> None:
        """Take a model off the list, so that nobody begins with it; its files stay.

        A damaged one is off it until the next start, for a person to look at.
        """
        self._models.pop(model, None)

    async def describe_file(
        self, name: str, path: Path, progress: Progress = no_progress
    ) -> ModelFile:
        """A file under the name that it gets as part of a model.

        Raises:
            UsageError: `model_file_missing`.
        """
        reader = FileReader(path)
        sha256 = await read_all(reader, self.run_blocking, progress, f"hashing {path.name}")
        return ModelFile(name, sha256, reader.done_bytes)

    async def add(
        self,
        description: ModelDescription,
        files: Mapping[str, Path],
        *,
        endpoint: Endpoint | None = None,
        take: bool = False,
        own: bool = True,
        obtained: Record | None = None,
        progress: Progress = no_progress,
    ) -> str:
        """Copy `files` (name -> where it is now) in; the model id. Adding again changes nothing.

        With `take` files are moved: they are ours, and nobody else writes to them. What is not
        `own` is remembered as `brought`. `obtained` is the manifest by which it was fetched.

        Raises:
            LocalError: `hash_mismatch`, `malformed` for a description that is not allowed,
                `data_directory_unusable` where the disk is full or may not be written.
            UsageError: `model_file_missing`.
        """
        description = checked(description, files)
        model = model_id(description)
        if model in self._models:
            return model
        incoming = self._directory / f".incoming-{self._token()}"
        try:
            needed = copied_bytes(description, files, self._directory, take=take)
            await self.run_blocking(lambda: self._prepare(incoming, needed))
            if endpoint is not None:
                await self.run_blocking(lambda: self._write_endpoint(incoming, endpoint))
            for file in description.files:
                place = incoming / FILES_FOLDER
                await self._bring(file, files[file.name], place, progress, take=take)
            if obtained is not None:
                await self.run_blocking(lambda: write_obtained(incoming, obtained))
            if not own:
                await self.run_blocking(lambda: note_brought(incoming, brought=True))
            marks = await self.run_blocking(lambda: self._finish(incoming, model, description))
        finally:
            with trio.CancelScope(shield=True):
                if take:
                    await self.run_blocking(lambda: put_back(incoming / FILES_FOLDER, files))
                await self.run_blocking(lambda: shutil.rmtree(incoming, ignore_errors=True))
        self._models[model] = description
        if not own:
            self._brought.add(model)
        if obtained is not None:
            self._obtained[model] = obtained
        self._checked[model] = marks  # just hashed, and in a folder that is this node's alone
        return model

    async def discard(self, model: str, *, taken: Mapping[str, Path] | None = None) -> None:
        """Delete a model, listed or not; a worker that has it open is not disturbed.

        What was `taken` when it was added goes back to where it was.

        Raises:
            LocalError: `data_directory_unusable`.
        """
        self._models.pop(model, None)
        self._checked.pop(model, None)
        self._brought.discard(model)
        self._obtained.pop(model, None)
        removed = self._directory / f".removed-{self._token()}"
        if taken:
            place = self._directory / model / FILES_FOLDER
            await self.run_blocking(lambda: put_back(place, taken))
        await self.run_blocking(lambda: self._delete(model, removed))

    async def _bring(
        self, file: ModelFile, path: Path, folder: Path, progress: Progress, *, take: bool
    ) -> None:
        moved = take and await self.run_blocking(lambda: can_move(path, folder))
        before = await self.run_blocking(lambda: state_of(path))
        target = None if moved else folder / file.name
        reader = FileReader(path, target=target, max_bytes=file.bytes, chunked=True)
        what = f"{'verifying' if moved else 'copying'} {file.name}"
        sha256 = await read_all(reader, self.run_blocking, progress, what)
        if sha256 != file.sha256 or reader.done_bytes != file.bytes:
            raise LocalError(
                f"{file.name} is not what its description says: SHA-256 is {sha256}",
                Code.HASH_MISMATCH,
            )
        if moved:
            await self.run_blocking(lambda: path.rename(folder / file.name))
            if await self.run_blocking(lambda: state_of(folder / file.name)) != before:
                raise LocalError(f"{file.name} changed while it was read", Code.HASH_MISMATCH)
        incoming, raw = folder.parent, reader.chunk_list
        await self.run_blocking(lambda: write_chunk_list(incoming, file.name, raw))

    def _scan(self) -> dict[str, ModelDescription]:
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            folders = sorted(self._directory.iterdir())
        except OSError as error:
            raise disk_error(error) from None
        found = {}
        for folder in folders:
            if folder.name.startswith((".incoming-", ".removed-")):
                shutil.rmtree(folder, ignore_errors=True)
            elif folder.name.startswith(FETCHING):
                pass
            elif (description := read_description(folder)) is not None:
                found[folder.name] = description
            elif folder.is_dir():
                log.warning("model_damaged", model=folder.name)
        return found

    def _prepare(self, incoming: Path, needed_bytes: int) -> None:
        try:
            check_room(self._directory, needed_bytes)
            incoming.mkdir(mode=0o700)
            (incoming / FILES_FOLDER).mkdir(mode=0o700)
        except OSError as error:
            raise disk_error(error) from None

    def _finish(self, incoming: Path, model: str, description: ModelDescription) -> Marks:
        place = incoming / FILES_FOLDER
        try:
            marks = marks_of({file.name: place / file.name for file in description.files})
            write_description(incoming, description)
            final = self._directory / model
            if final.exists():  # damaged, or it would have been in the list
                final.rename(self._directory / f".removed-{self._token()}")
            incoming.rename(final)
        except OSError as error:
            raise disk_error(error) from None
        return marks

    @staticmethod
    def _write_endpoint(folder: Path, endpoint: Endpoint) -> None:
        try:
            write_endpoint(folder, endpoint)
        except OSError as error:
            raise disk_error(error) from None

    def _delete(self, model: str, removed: Path) -> None:
        try:
            (self._directory / model).rename(removed)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise disk_error(error) from None
        shutil.rmtree(removed, ignore_errors=True)
        if self._cache_directory is not None:
            shutil.rmtree(self._cache_directory / model, ignore_errors=True)
