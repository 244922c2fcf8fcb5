"""Models from the Hugging Face Hub: listed, then brought into a folder of this node's.

The library that speaks to the hub runs in a process of its own (`hub_child`), so that a download
can be stopped, and goes on at the next attempt where it was. What is brought is pinned to a
revision, chosen by `hub_choice`, and checked against the hashes that the hub gave.
"""

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec
import trio

from aigrid.node.mesh.hub_child import Order, Word
from aigrid.node.mesh.hub_choice import Choice, Reference, RemoteFile, choose, is_plain, reference
from aigrid.node.mesh.model_copy import Milestones, Progress, RunBlocking, check_room, disk_error
from aigrid.node.workers import ENVIRONMENT_KEPT
from aigrid.protocol.errors import AigridError, Code, LocalError, UsageError
from aigrid.protocol.limits import LIMITS, MIB

_LINE_MAX_BYTES: Final = 16 * MIB
_LISTINGS_MAX: Final = 8
_KEPT: Final = frozenset({"HOME", "XDG_CACHE_HOME", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"})
_PROXIES: Final = frozenset({"http_proxy", "https_proxy", "all_proxy", "no_proxy"})
# Plain downloads: they go on where they stopped, and their progress can be seen on the disk.
_SETTINGS: Final = {
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",
}

Ask = Callable[[Order, Callable[[Word], Awaitable[None]]], Awaitable[Word]]
"""Has an order carried out: what is said meanwhile goes to the second, the last word is given."""


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
            files = {
                one.name: RemoteFile(max(0, one.bytes), one.sha256)
                for one in word.files
                if is_plain(one.name)
            }
            while len(self._listed) >= _LISTINGS_MAX:
                del self._listed[next(iter(self._listed))]
            self._listed[wanted.repo, wanted.revision] = files
        choice = choose(wanted, files)
        folder = self._directory / wanted.repo.replace("/", "--") / wanted.revision
        missing = await self._run_blocking(functools.partial(_missing, folder, choice))
        return Listing(wanted, choice, folder, missing)

    async def fetch(self, listing: Listing, progress: Progress, *, token: str = "") -> None:
        """Bring what is missing. Raises LocalError."""
        if not listing.missing_bytes:
            return
        try:
            await self._run_blocking(
                lambda: listing.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            )
        except OSError as error:
            raise disk_error(error) from None
        await self._run_blocking(lambda: check_room(listing.folder, listing.missing_bytes))
        repo, whole = listing.wanted.repo, sum(f.bytes for f in listing.choice.files.values())
        order = Order(
            "fetch",
            repo,
            listing.wanted.revision,
            token,
            str(listing.folder.absolute()),
            tuple(listing.choice.files),
        )
        milestones = Milestones(progress, f"downloading {repo}", whole, steps=100)

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
        """Delete what was brought: it has been published."""
        folder = listing.folder.parent
        await self._run_blocking(lambda: shutil.rmtree(folder, ignore_errors=True))


async def ask_child(order: Order, hear: Callable[[Word], Awaitable[None]]) -> Word:
    """The `Ask` of a real node."""
    command = [sys.executable, "-P", "-m", "aigrid.node.mesh.hub_child"]
    try:
        process = await trio.lowlevel.open_process(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(os.environ),
        )
    except OSError as error:
        raise LocalError(
            f"cannot start a process for the download: {error.strerror}", Code.ENVIRONMENT
        ) from None
    try:
        assert process.stdin is not None  # noqa: S101 -- it was asked for
        assert process.stdout is not None  # noqa: S101
        async with process.stdin as stream:
            await stream.send_all(msgspec.json.encode(order))
        async with _words(process.stdout) as words:
            async for word in words:
                if word.code:
                    raise _error(word)
                if word.done:
                    return word
                await hear(word)
    except trio.BrokenResourceError:
        pass
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
    raise LocalError("the download ended without an answer: try again", Code.UNREACHABLE)


@asynccontextmanager
async def _words(stream: trio.abc.ReceiveStream) -> AsyncIterator[AsyncIterator[Word]]:
    async def each() -> AsyncGenerator[Word, None]:
        rest = bytearray()
        async for data in stream:
            rest += data
            if len(rest) > _LINE_MAX_BYTES:
                raise LocalError("the hub lists too many files", Code.UNREACHABLE)
            *lines, last = bytes(rest).split(b"\n")
            rest[:] = last
            for line in lines:
                yield msgspec.json.decode(line, type=Word)

    words = each()
    try:
        yield words
    finally:
        await words.aclose()
        await stream.aclose()


def _environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What the child sees: how to reach the hub, and no secret of the node's but the hub's own."""
    kept = {
        name: value
        for name, value in environment.items()
        if name in ENVIRONMENT_KEPT | _KEPT or name.lower() in _PROXIES or name.startswith("HF_")
    }
    return {**kept, **_SETTINGS}


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


def _error(word: Word) -> AigridError:
    codes = {code.value: code for code in Code}
    code = codes.get(word.code, Code.UNREACHABLE)
    kind = UsageError if code in (Code.USAGE, Code.MODEL_FILE_MISSING) else LocalError
    return kind(word.message[: LIMITS.error_message_max_chars], code)


async def _nobody(_: Word) -> None:
    await trio.lowlevel.checkpoint()
