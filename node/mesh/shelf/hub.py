"""Models from the Hugging Face Hub: listed, then brought into a folder of this node's.

The library that speaks to the hub runs in a process of its own (`hub_process`), so that a download
can be stopped, and goes on at the next attempt where it was. What is brought is pinned to a
revision, chosen by `hub_choice`, and of each file as many bytes as the hub listed. Of weights it
also gives a hash, which whoever publishes them compares (`Listing.sha256`).
"""

import contextlib
import functools
import hashlib
import shutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from weakref import WeakValueDictionary

import trio

from aigrid.node.mesh.shelf.copying import Milestones, Progress, RunBlocking, check_room, disk_error
from aigrid.node.mesh.shelf.hub_child import PART, Listed, Order, Word
from aigrid.node.mesh.shelf.hub_choice import (
    Choice,
    Reference,
    RemoteFile,
    choose,
    is_plain,
    reference,
)
from aigrid.node.mesh.shelf.hub_process import Ask, ask_child
from aigrid.protocol.errors import Code, LocalError
from aigrid.protocol.limits import LIMITS

_LISTINGS_MAX: Final = 8


@dataclass(frozen=True, slots=True)
class Listing:
    """A model on the hub: what of it is wanted, and how much of that is not here yet."""

    wanted: Reference
    choice: Choice
    folder: Path
    missing_bytes: int

    @property
    def path(self) -> Path:
        """What to look at once it is here."""
        return self.folder / self.choice.model if self.choice.model else self.folder

    @property
    def name(self) -> str:
        """What the model is usually called."""
        if self.choice.model.endswith(".gguf"):
            return Path(self.choice.model).stem
        return self.wanted.repo.rpartition("/")[2]

    def sha256(self, path: Path) -> str:
        """The hash that a file has to have, or "" where the hub gave none."""
        name = path.relative_to(self.folder).as_posix()
        return self.choice.files[name].sha256 if name in self.choice.files else ""


class Hub:
    """Lists and brings; `directory` holds what is being brought."""

    def __init__(
        self, directory: Path, *, run_blocking: RunBlocking, ask: Ask | None = None
    ) -> None:
        self._directory = directory
        self._run_blocking = run_blocking
        self._ask = ask or ask_child
        self._listed: dict[tuple[str, str], Mapping[str, RemoteFile]] = {}
        self._locks: WeakValueDictionary[Path, trio.Lock] = WeakValueDictionary()

    async def list(self, source: str, *, token: str = "") -> Listing:
        """What `hf:` and `source` name, pinned to a revision.

        Raises:
            UsageError: for what names no model, or not one.
            LocalError: `model_not_found`, `denied`, `unreachable`.
            EngineError: `unsafe_file`, `unsupported_model`.
        """
        wanted = reference(source)
        files = self._listed.get((wanted.repo, wanted.revision))
        if files is None:
            order = Order("list", wanted.repo, wanted.revision, token)
            word = await self._asked(order, _nobody, LIMITS.hub_list_seconds)
            wanted = replace(wanted, revision=_checked_revision(word.revision, wanted.repo))
            files = await self._run_blocking(functools.partial(_plain, word.files))
            while len(self._listed) >= _LISTINGS_MAX:
                del self._listed[next(iter(self._listed))]
            self._listed[wanted.repo, wanted.revision] = files
        choice = await self._run_blocking(functools.partial(choose, wanted, files))
        folder = self._directory / wanted.repo.replace("/", "--") / wanted.revision / _key(choice)
        missing = await self._run_blocking(functools.partial(_missing, folder, choice))
        return Listing(wanted, choice, folder, missing)

    async def fetch(self, listing: Listing, progress: Progress, *, token: str = "") -> None:
        """Bring what is missing; who wants the same meanwhile waits. Raises LocalError."""
        lock, repo = self._lock(listing.folder), listing.wanted.repo
        if lock.locked():
            await progress(f"waiting: {repo} is being downloaded already")
        async with lock:
            missing = functools.partial(_missing, listing.folder, listing.choice)
            missing_bytes = await self._run_blocking(missing)
            if missing_bytes:
                await self._make_room(listing.folder, missing_bytes)
                await self._bring(listing, progress, token)

    async def _make_room(self, folder: Path, missing_bytes: int) -> None:
        try:
            await self._run_blocking(lambda: folder.mkdir(mode=0o700, parents=True, exist_ok=True))
        except OSError as error:
            raise disk_error(error) from None
        await self._run_blocking(lambda: check_room(folder, missing_bytes))

    async def _bring(self, listing: Listing, progress: Progress, token: str) -> None:
        wanted = listing.wanted
        sizes = {name: file.bytes for name, file in listing.choice.files.items()}
        folder, whole = str(listing.folder.absolute()), sum(sizes.values())
        order = Order("fetch", wanted.repo, wanted.revision, token, folder, sizes)
        milestones = Milestones(progress, f"downloading {wanted.repo}", whole, steps=100)

        async def hear(word: Word) -> None:
            await milestones.reach(min(word.bytes, whole))

        await self._asked(order, hear, LIMITS.hub_silence_seconds)

    async def _asked(
        self, order: Order, hear: Callable[[Word], Awaitable[None]], seconds: float
    ) -> Word:
        """The last word on an order, unless nothing is said for so long."""
        with trio.move_on_after(seconds) as scope:

            async def heard(word: Word) -> None:
                scope.deadline = trio.current_time() + seconds
                await hear(word)

            return await self._ask(order, heard)
        raise LocalError(
            f"nothing came from the hub for {seconds:g} s; what came is kept for next time",
            Code.UNREACHABLE,
        )

    async def forget(self, listing: Listing) -> None:
        """Delete what was brought, and nothing beside it: it has been published."""
        async with self._lock(listing.folder):
            names = tuple(listing.choice.files)
            await self._run_blocking(functools.partial(_delete, listing.folder, names))

    async def sweep(self, now_ms: int) -> None:
        """Delete what was brought long ago and not published; for a node that starts."""
        before_seconds = now_ms / 1000 - LIMITS.hub_kept_seconds
        await self._run_blocking(functools.partial(_sweep, self._directory, before_seconds))

    def _lock(self, folder: Path) -> trio.Lock:
        """One for each folder, for as long as somebody has it."""
        return self._locks.setdefault(folder, trio.Lock())


def _plain(listed: tuple[Listed, ...]) -> Mapping[str, RemoteFile]:
    """What was listed, without names that lead elsewhere."""
    return {
        one.name: RemoteFile(max(0, one.bytes), one.sha256) for one in listed if is_plain(one.name)
    }


def _key(choice: Choice) -> str:
    """Names the folder of a choice, so that two of one revision share no file."""
    return hashlib.sha256("\n".join(sorted(choice.files)).encode()).hexdigest()[:16]


def _checked_revision(revision: str, repo: str) -> str:
    if not 7 <= len(revision) <= 64 or not revision.isalnum():
        raise LocalError(f"the hub gives no revision of {repo}", Code.UNREACHABLE)
    return revision


def _missing(folder: Path, choice: Choice) -> int:
    """Bytes that are not here yet; a file is here when it has its size."""
    total = 0
    for name, file in choice.files.items():
        path = folder / name
        here = path.is_file() and path.stat().st_size == file.bytes
        total += 0 if here else max(1, file.bytes)
    return total


def _delete(folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        for path in (folder / name, folder / f"{name}{PART}"):
            with contextlib.suppress(OSError):
                path.unlink()
    _prune(folder)
    with contextlib.suppress(OSError):
        folder.rmdir()


def _sweep(directory: Path, before_seconds: float) -> None:
    """Delete the folder of each choice of which nothing came since; never raises OSError."""
    with contextlib.suppress(OSError):
        for folder in list(directory.glob("*/*/*")):
            newest = max(path.lstat().st_mtime for path in (folder, *folder.rglob("*")))
            if newest < before_seconds:
                shutil.rmtree(folder, ignore_errors=True)
        _prune(directory)


def _prune(folder: Path) -> None:
    """Remove the empty folders in a folder."""
    inside = [path for path in folder.rglob("*") if path.is_dir()]
    for path in sorted(inside, reverse=True):  # what lies within another comes before it
        with contextlib.suppress(OSError):
            path.rmdir()


async def _nobody(_: Word) -> None:
    await trio.lowlevel.checkpoint()
