"""A real node with a fault: for tests and benches of what makes up for it, no part of the product.

    python scripts/faulty_node.py --lose 0.2 --seed 7 -- up ...
    python scripts/faulty_node.py --quiet -- up ...

What follows `--` are the arguments of `aigrid`. As a `NodeProcess`:
`NodeProcess(directory, entry=lossy(0.2, seed=7))`, or `entry=QUIET`.

Lossy: of the messages that GossipSub delivers to this node it loses a share (0 to 1), drawn from
the seed, after the library has passed them on: nothing but reconciliation brings their records
back. `refused.network` of its status counts `gossip_lost` and `gossip_taken`.

Quiet: what it would publish is dropped and what belongs to repair is refused, so that what is found
is found by typed query. With `--without-hints` it does not give itself as a hint in the DHT either.

Flipping: of every chunk of a model that it gives to others one bit is wrong.
"""

import argparse
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn
from unittest import mock

import trio

from aigrid.node.cli import main as aigrid
from aigrid.node.discovery.sync import RecordSync
from aigrid.node.mesh.weights import giving
from aigrid.node.network import libp2p_transport
from aigrid.node.network.libp2p_transport import Libp2pTransport
from aigrid.protocol.errors import Code, LocalError

_ENTRY = (sys.executable, "-P", str(Path(__file__).resolve()))
QUIET = (*_ENTRY, "--quiet", "--")
FLIPPING = (*_ENTRY, "--flip", "--")
QUIET_WITHOUT_HINTS = (*_ENTRY, "--quiet", "--without-hints", "--")


def lossy(share: float, *, seed: int) -> tuple[str, ...]:
    """The command that takes the place of `aigrid` for one node."""
    return (*_ENTRY, "--lose", str(share), "--seed", str(seed), "--")


class LossyTransport(Libp2pTransport):
    """The real transport; `share` of the messages of each subscription never arrive."""

    def __init__(self, *, share: float, rng: random.Random, **options: Any) -> None:
        super().__init__(**options)
        self._share = share
        self._rng = rng
        self._counts = {"gossip_lost": 0, "gossip_taken": 0}

    @asynccontextmanager
    async def subscribe(self, topic: str) -> AsyncIterator[AsyncIterator[tuple[str, bytes]]]:
        async with super().subscribe(topic) as messages:
            yield _Kept(messages, self._keep)

    def counters(self) -> dict[str, int]:
        return super().counters() | self._counts

    def _keep(self) -> bool:
        kept = self._rng.random() >= self._share
        self._counts["gossip_taken" if kept else "gossip_lost"] += 1
        return kept


class _Kept:
    """The messages that are kept; like the mailbox behind it, it may be read on when cancelled."""

    def __init__(self, messages: AsyncIterator[tuple[str, bytes]], keep: Any) -> None:
        self._messages = messages
        self._keep = keep

    def __aiter__(self) -> "_Kept":
        return self

    async def __anext__(self) -> tuple[str, bytes]:
        while True:
            message = await anext(self._messages)
            if self._keep():
                return message


async def _drop(*_args: Any, **_options: Any) -> int:
    await trio.lowlevel.checkpoint()
    return 0


async def _refuse(*_args: Any, **_options: Any) -> NoReturn:
    raise LocalError("this node repairs nothing", Code.RATE_LIMITED)


def _flip() -> None:
    right = giving.read_chunk

    def wrong(*args: Any) -> bytes:
        data = bytearray(right(*args))
        data[len(data) // 2] ^= 1
        return bytes(data)

    setattr(giving, right.__name__, wrong)


def _silence(*, hints: bool) -> None:
    for owner, name, function in (
        (Libp2pTransport, "publish", _drop),
        (RecordSync, "sync", _drop),
        (RecordSync, "serve", _refuse),
        *([] if hints else [(Libp2pTransport, "provide", _drop)]),
    ):
        setattr(owner, name, function)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lose", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quiet", action="store_true")
    parser.add_argument("--without-hints", action="store_true")
    parser.add_argument("--flip", action="store_true")
    end = sys.argv.index("--")
    fault = parser.parse_args(sys.argv[1:end])
    del sys.argv[1 : end + 1]
    if fault.quiet:
        _silence(hints=not fault.without_hints)
    if fault.flip:
        _flip()
    transport = partial(LossyTransport, share=fault.lose, rng=random.Random(fault.seed))
    with mock.patch.object(libp2p_transport, "Libp2pTransport", transport):
        return aigrid()


if __name__ == "__main__":
    sys.exit(main())
