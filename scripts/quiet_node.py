"""`aigrid` without gossip and without sync: what a node then finds, it finds by typed query.

For tests and benches, in place of the entry point: `python scripts/quiet_node.py up ...`. The
node is the real one; what it would publish is dropped, and what belongs to repair is refused. With
`--without-hints` as the first argument it does not give itself as a hint in the DHT either.
"""

import sys
from pathlib import Path
from typing import Any, NoReturn

import trio

from aigrid.node.cli import main
from aigrid.node.discovery.sync import RecordSync
from aigrid.node.network.libp2p_transport import Libp2pTransport
from aigrid.protocol.errors import Code, LocalError

WITHOUT_HINTS = "--without-hints"
QUIET_NODE = (sys.executable, "-P", str(Path(__file__).resolve()))


async def _drop(*_args: Any, **_options: Any) -> int:
    await trio.lowlevel.checkpoint()
    return 0


async def _refuse(*_args: Any, **_options: Any) -> NoReturn:
    raise LocalError("this node repairs nothing", Code.RATE_LIMITED)


def silence(*, hints: bool = True) -> None:
    """From now on, nodes of this process neither gossip nor sync."""
    names = [(Libp2pTransport, "publish", _drop), (RecordSync, "sync", _drop)]
    if not hints:
        names.append((Libp2pTransport, "provide", _drop))
    for owner, name, function in names:
        setattr(owner, name, function)
    setattr(RecordSync, "serve", _refuse)  # noqa: B010 - a method, on purpose


if __name__ == "__main__":
    without_hints = WITHOUT_HINTS in sys.argv[1:2]
    if without_hints:
        del sys.argv[1]
    silence(hints=not without_hints)
    sys.exit(main())
