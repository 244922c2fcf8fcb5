"""The process that speaks to the Hugging Face Hub, as the node sees it: an order, its answer."""

import os
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

import msgspec
import trio

from aigrid.node.mesh.shelf.hub_child import Order, Word
from aigrid.node.workers.environment import ENVIRONMENT_KEPT
from aigrid.protocol.errors import AigridError, Code, LocalError, UsageError
from aigrid.protocol.limits import LIMITS, MIB

_COMMAND: Final = (sys.executable, "-P", "-m", "aigrid.node.mesh.shelf.hub_child")
_LINE_MAX_BYTES: Final = 8 * MIB  # `hub_files_max` files, each with a name of up to 256 characters
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


async def ask_child(
    order: Order,
    hear: Callable[[Word], Awaitable[None]],
    *,
    command: Sequence[str] = _COMMAND,
) -> Word:
    """The `Ask` of a real node; a cancel ends the process. Raises UsageError, LocalError."""
    process, stream = _start(command)
    try:
        await stream.send_all(msgspec.json.encode(order))
        await stream.send_eof()
        async with _words(stream) as words:
            async for word in words:
                if word.code:
                    raise _error(word)
                if word.done:
                    return word
                await hear(word)
    except trio.BrokenResourceError:
        pass
    except msgspec.DecodeError:
        raise LocalError(
            "the download said what it must not: try again", Code.UNREACHABLE
        ) from None
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await stream.aclose()
            await trio.to_thread.run_sync(process.wait)
    raise LocalError("the download ended without an answer: try again", Code.UNREACHABLE)


def _start(command: Sequence[str]) -> tuple[subprocess.Popen[bytes], trio.SocketStream]:
    ours, theirs = socket.socketpair()
    try:
        # Not in a thread, as trio would: see `workers.ProcessSpawner`.
        process = subprocess.Popen(
            command,
            stdin=theirs.fileno(),
            stdout=theirs.fileno(),
            stderr=subprocess.DEVNULL,
            env=_environment(os.environ),
        )
    except OSError as error:
        ours.close()
        raise LocalError(
            f"cannot start a process for the download: {error.strerror}", Code.ENVIRONMENT
        ) from None
    finally:
        theirs.close()
    ours.setblocking(False)  # noqa: FBT003 -- positional only
    return process, trio.SocketStream(trio.socket.from_stdlib_socket(ours))


@asynccontextmanager
async def _words(stream: trio.abc.ReceiveStream) -> AsyncIterator[AsyncIterator[Word]]:
    async def each() -> AsyncGenerator[Word, None]:
        rest, searched = bytearray(), 0
        async for data in stream:
            rest += data
            while (end := rest.find(b"\n", searched)) >= 0:
                line = bytes(rest[:end])
                del rest[: end + 1]
                searched = 0
                yield msgspec.json.decode(line, type=Word)
            searched = len(rest)
            if searched > _LINE_MAX_BYTES:
                raise LocalError("the hub lists too many files", Code.UNREACHABLE)

    words = each()
    try:
        yield words
    finally:
        await words.aclose()


def _environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What the child sees: how to reach the hub, and no secret of the node's but the hub's own."""
    kept = {
        name: value
        for name, value in environment.items()
        if name in ENVIRONMENT_KEPT | _KEPT or name.lower() in _PROXIES or name.startswith("HF_")
    }
    return {**kept, **_SETTINGS}


def _error(word: Word) -> AigridError:
    codes = {code.value: code for code in Code}
    code = codes.get(word.code, Code.UNREACHABLE)
    kind = UsageError if code in (Code.USAGE, Code.MODEL_FILE_MISSING) else LocalError
    return kind(word.message[: LIMITS.error_message_max_chars], code)
