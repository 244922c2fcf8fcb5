"""Fixtures over `nodes`."""

from collections.abc import Callable, Mapping

import pytest
import trio
from tests.node.network import nodes

from aigrid.node.network.libp2p_transport import Libp2pTransport
from aigrid.node.network.transport import StreamHandler


@pytest.fixture
async def start(nursery: trio.Nursery) -> nodes.Start:
    async def start_one(
        *,
        seed: bytes | None = None,
        listen: tuple[str, ...] = nodes.LOCAL,
        handlers: Mapping[str, StreamHandler] | None = None,
        open_to_strangers: bool = False,
    ) -> Libp2pTransport:
        node = Libp2pTransport(
            signing_seed=seed or nodes.new_seed(),
            topics=nodes.TOPICS,
            now_ms=nodes.now_ms,
            listen=listen,
            open_to_strangers=open_to_strangers,
        )
        node.handle_stream(nodes.ECHO, nodes.echo)
        node.handle_stream(nodes.LOBBY, nodes.echo, strangers=True)
        for protocol, handler in (handlers or {}).items():
            node.handle_stream(protocol, handler)
        await nodes.run_in(nursery, node)
        return node

    return start_one


@pytest.fixture
async def pair(start: nodes.Start) -> nodes.Pair:
    """Two members of one grid; the first is connected to the second."""
    one, two = await start(), await start()
    await nodes.befriend(one, two)
    return one, two


@pytest.fixture
def new_hostile(nursery: trio.Nursery) -> Callable[[], nodes.Hostile]:
    return lambda: nodes.Hostile(nursery)


@pytest.fixture
def hostile(new_hostile: Callable[[], nodes.Hostile]) -> nodes.Hostile:
    return new_hostile()
