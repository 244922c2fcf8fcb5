"""Peers in processes of their own that speak libp2p with a library which is not ours.

Both serve, and can be told to use, the same protocols: `/test/echo/1` (what comes goes back),
`/test/sink/1` (a length in 8 bytes and so many bytes; the answer is their SHA-256), `/test/source/1`
(a length; that much of `PATTERN`) and `/aigrid/rpc/1`; and they gossip, and keep hints in a DHT.
"""

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio
from tests.patience import PATIENCE_SECONDS
from tests.protocol import judges

from aigrid.node.network.transport import PeerAddress

ECHO, SINK, SOURCE = "/test/echo/1", "/test/sink/1", "/test/source/1"
PIECE_BYTES = 65536
PATTERN = bytes(range(256)) * (PIECE_BYTES // 256)
JS_PACKAGES = (
    "libp2p@3.3.11",
    "@libp2p/tcp@11.0.28",
    "@chainsafe/libp2p-noise@17.0.0",
    "@chainsafe/libp2p-yamux@8.0.1",
    "@libp2p/identify@4.1.14",
    "@libp2p/ping@3.1.13",
    "@libp2p/kad-dht@16.4.5",
    "@libp2p/gossipsub@17.1.1",
    "@multiformats/multiaddr@13.0.3",
    "multiformats@14.0.5",
)
HERE = Path(__file__).parent
STREAMS = HERE / "js_streams.mjs"
ROOT = HERE.parents[3]


class Peer:
    """The other process; `ask` has it do something while our node goes on."""

    def __init__(self, judge: judges.Judge) -> None:
        self._judge = judge
        self.where = PeerAddress(**_named(judge.ask("start")))

    async def ask(self, call: str, **more: Any) -> Any:
        """Raises AssertionError with what it says went wrong."""
        with trio.fail_after(PATIENCE_SECONDS):
            return await trio.to_thread.run_sync(
                partial(self._judge.ask, call, **more), abandon_on_cancel=True
            )


def _named(said: dict[str, str]) -> dict[str, Any]:
    return {"peer_id": said["peer_id"], "addresses": (said["address"],)}


@contextmanager
def running(kind: str) -> Iterator[Peer]:
    """`js` or `stock`. Skips the test where there is no Node.js, or no packages for it."""
    if kind == "js":
        with judges.judge(HERE / "js_peer.mjs", JS_PACKAGES, beside=[STREAMS]) as judge:
            yield Peer(judge)
        return
    command = [sys.executable, "-m", "tests.node.network.interop.stock_peer"]
    with judges.speaking(command, ROOT, stderr=subprocess.DEVNULL) as judge:
        yield Peer(judge)


def digest_of_pattern(count: int) -> str:
    digest = hashlib.sha256()
    for start in range(0, count, PIECE_BYTES):
        digest.update(PATTERN[: min(PIECE_BYTES, count - start)])
    return digest.hexdigest()
