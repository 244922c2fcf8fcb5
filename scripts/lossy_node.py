"""A real node that loses gossip: for tests and benches of repair, no part of the product.

    python scripts/lossy_node.py SHARE SEED up ...

Takes the arguments of `aigrid` after its own two. Of the messages that GossipSub delivers to this
node it loses SHARE (0 to 1), drawn from SEED, after the library has passed them on: nothing but
reconciliation brings their records back. `refused.network` of its status counts `gossip_lost` and
`gossip_taken`. As a `NodeProcess`: `NodeProcess(directory, entry=lossy(0.2, seed=7))`.
"""

import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from aigrid.node.cli import main as aigrid
from aigrid.node.network import libp2p_transport


def lossy(share: float, *, seed: int) -> tuple[str, ...]:
    """The command that takes the place of `aigrid` for one node."""
    return (sys.executable, "-P", str(Path(__file__).resolve()), str(share), str(seed))


class LossyTransport(libp2p_transport.Libp2pTransport):
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


def main() -> int:
    share, seed = float(sys.argv[1]), int(sys.argv[2])
    del sys.argv[1:3]
    transport = partial(LossyTransport, share=share, rng=random.Random(seed))
    with mock.patch.object(libp2p_transport, "Libp2pTransport", transport):
        return aigrid()


if __name__ == "__main__":
    sys.exit(main())
