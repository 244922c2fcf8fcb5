"""Durations in py-libp2p, whatever is done to the wall clock meanwhile."""

import ast
import inspect
import time
from types import ModuleType

import pytest
import trio
from libp2p.kad_dht import kad_dht, provider_store, routing_table
from libp2p.peer import peerdata
from libp2p.pubsub import gossipsub
from multiaddr import Multiaddr
from tests.node.network import nodes
from trio.testing import MockClock

from aigrid.node.network import compat, steady_time
from aigrid.protocol.limits import LIMITS

HOUR = 3600.0
PEER = compat.ID.from_base58(nodes.peer_id_of_seed(bytes(32)))
# Who reads the clock, as it was read. All of it is taken from other readings of it, but for
# `_do_handle_stream`: the age of a value there, of which we keep none.
READ = {
    kad_dht: {"_check_provider_rate_limit", "_do_handle_stream"},
    provider_store: {
        "__init__",
        "_republish_provider_records",
        "add_provider",
        "cleanup_expired",
        "get_providers",
        "is_expired",
    },
    routing_table: {"add_peer", "get_stale_peers", "refresh_peer_last_seen"},
    peerdata: {"__init__", "is_expired", "update_last_identified"},
    gossipsub: {
        "__init__",
        "_add_back_off",
        "_calculate_connection_churn_health",
        "_calculate_message_delivery_health",
        "_check_back_off",
        "_check_graft_flood_protection",
        "_check_ihave_rate_limit",
        "_check_iwant_rate_limit",
        "_check_spam_protection",
        "_consider_peer_replacement",
        "_handle_topic_heartbeat",
        "_periodic_security_cleanup",
        "_prune_pending_messages",
        "_update_network_health",
        "add_peer",
        "handle_prune",
        "publish",
        "remove_peer",
    },
}


def readers(module: ModuleType) -> set[str]:
    """Functions that use `time`, and of it nothing but `time.time()`."""
    found = set()
    for function in ast.walk(ast.parse(inspect.getsource(module))):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for node in ast.walk(function):
            match node:
                case ast.Attribute(value=ast.Name("time"), attr=used):
                    assert used == "time"
                    found.add(function.name)
    return found


def test_what_reads_the_clock_is_what_was_looked_at() -> None:
    assert set(READ) == set(steady_time.MODULES)
    assert {module: readers(module) for module in READ} == READ


def test_the_rest_of_the_module_is_as_it_was() -> None:
    compat.build(nodes.new_seed(), lambda: ())
    for module in steady_time.MODULES:
        assert vars(module)["time"].monotonic is time.monotonic


@pytest.fixture
def library() -> compat.Library:
    return compat.build(nodes.new_seed(), lambda: ())


class Wall:
    """A clock that runs as Trio's, and is set."""

    def __init__(self) -> None:
        self.ahead_seconds = 0.0

    def time(self) -> float:
        return 1_800_000_000.0 + trio.current_time() + self.ahead_seconds


@pytest.mark.parametrize("step_seconds", [-HOUR, 0.0, HOUR])
async def test_a_back_off_lasts_as_long_as_it_does(
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    library: compat.Library,
    step_seconds: float,
) -> None:
    gossip, wall = library.gossip, Wall()
    with monkeypatch.context() as patched:
        patched.setattr(time, "time", wall.time)
        gossip._add_back_off(PEER, "topic", is_unsubscribe=False)
        gossip.graft_flood_tracking[PEER]["topic"] = gossipsub.time.time()
        wall.ahead_seconds = step_seconds
        await trio.sleep(5)
        assert gossip._check_back_off(PEER, "topic")
        assert not gossip._check_graft_flood_protection(PEER, "topic")
        await trio.sleep(gossip.prune_back_off)
        assert not gossip._check_back_off(PEER, "topic")
        assert gossip._check_graft_flood_protection(PEER, "topic")


async def test_at_the_start_nobody_has_just_been_pruned(
    autojump_clock: MockClock, library: compat.Library
) -> None:
    """Trio's time may be near to zero, which the library takes for never."""
    assert trio.current_time() < library.gossip.graft_flood_threshold
    assert library.gossip._check_graft_flood_protection(PEER, "topic")


@pytest.mark.parametrize("step_seconds", [-HOUR, 0.0, HOUR])
async def test_hints_of_a_peer_are_taken_again_when_the_window_is_over(
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    library: compat.Library,
    step_seconds: float,
) -> None:
    dht, wall = library.dht, Wall()
    with monkeypatch.context() as patched:
        patched.setattr(time, "time", wall.time)
        for _ in range(LIMITS.dht_provides_burst):
            assert dht._check_provider_rate_limit(PEER)
        wall.ahead_seconds = step_seconds
        await trio.sleep(5)
        assert not dht._check_provider_rate_limit(PEER)
        await trio.sleep(5)
        assert dht._check_provider_rate_limit(PEER)


@pytest.mark.parametrize("step_seconds", [-72 * HOUR, 0.0, 72 * HOUR])
async def test_hints_and_addresses_end_when_they_are_old(
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    library: compat.Library,
    step_seconds: float,
) -> None:
    wall, store, peerstore = Wall(), library.dht.provider_store, library.host.get_peerstore()
    at = Multiaddr("/ip4/127.0.0.1/tcp/1")

    def known() -> tuple[int, int]:
        return len(store.get_providers(b"key")), len(peerstore.peer_info(PEER).addrs)

    with monkeypatch.context() as patched:
        patched.setattr(time, "time", wall.time)
        store.add_provider(b"key", compat.PeerInfo(PEER, [at]))
        peerstore.add_addrs(PEER, [at], int(2 * HOUR))
        wall.ahead_seconds = step_seconds
        await trio.sleep(HOUR)
        assert known() == (1, 1)
        await trio.sleep(2 * HOUR)
        assert known() == (1, 0)
        await trio.sleep(48 * HOUR)
        assert known() == (0, 0)
