"""Each private attribute of py-libp2p that the node touches has a canary; found by reading the code.

A use that is not in `CANARIES` fails here, and so does a canary whose use is gone, or whose text
upstream no longer has: read upstream again then. What is touched without being private, such as
`PeerStore.peer_data_map`, must at least be there on a host as `compat` builds it.
"""

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from libp2p.host.basic_host import BasicHost
from libp2p.identity.update import update_peerstore_from_identify
from libp2p.kad_dht.kad_dht import KadDHT
from libp2p.kad_dht.provider_store import ProviderStore
from libp2p.network.swarm import Swarm
from libp2p.peer.peerstore import PeerStore
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pubsub import Pubsub
from libp2p.pubsub.rpc_queue import PriorityQueue, RpcQueue
from libp2p.security.secure_session import SecureSession
from libp2p.tools.anyio_service import context
from libp2p.tools.anyio_service.trio_manager import TrioManager
from tests.node.network import nodes

from aigrid.node.network import compat

ROOT = Path(__file__).parents[3]
ROOMS = (ROOT / "node" / "network", ROOT / "node" / "discovery")
LIBRARY = "libp2p"

# Of our own objects: a stand-in for the whole library, whose parts know each other.
OURS = {"memory_transport.py": {"_leave", "_stream", "_tell"}}

# By attribute: who has it, and what its source says of it.
CANARIES: dict[str, tuple[Any, str]] = {
    "_build_announce_rpc": (Pubsub.subscribe, "= self._build_announce_rpc(topic_id, subscribe="),
    "_check_back_off": (GossipSub._check_back_off, "del self.back_off[topic][peer]"),
    "_check_equivocation": (GossipSub.publish, "self._check_equivocation("),
    "_drain": (SecureSession.read, "self._drain(n)"),
    "_emit_control_msgs": (GossipSub.heartbeat, "await self._emit_control_msgs("),
    "_enforce_peer_limit": (PeerStore.add_addrs, "self._enforce_peer_limit()"),
    "_get_peers_to_send": (GossipSub.publish, "self._get_peers_to_send("),
    "_get_providers_from_peer_with_closers": (
        ProviderStore._get_providers_from_peer_with_closers,
        "self, peer_id: ID, key: bytes\n    ) -> tuple[list[PeerInfo], list[ID]]:",
    ),
    "_handle_dead_peer": (Pubsub._handle_dead_peer, "self.peer_queues.pop(peer_id).close()"),
    "_handle_dropped_rpc": (
        GossipSub.send_rpc,
        'self._handle_dropped_rpc(peer_id, part, "queue_full")',
    ),
    "_handle_new_peer": (Pubsub._handle_new_peer_with_retry, "await self._handle_new_peer("),
    "_identify_peer": (BasicHost._identify_peer, "self, peer_id: ID, *, reason: str) -> None:"),
    "_inbound_limiter": (
        KadDHT.handle_stream,
        "if self._inbound_limiter.borrowed_tokens >= self._inbound_limiter.total_tokens:",
    ),
    "_is_msg_seen": (Pubsub.push_msg, "if self._is_msg_seen(msg):"),
    "_is_subscribed_to_msg": (
        Pubsub.continuously_read_stream,
        "if not self._is_subscribed_to_msg(msg):",
    ),
    "_manager": (context.background_trio_service, "service._manager = manager"),
    "_mark_msg_seen": (Pubsub.push_msg, "self._mark_msg_seen(msg)"),
    "_pending_control": (
        GossipSub._piggyback_control_retry,
        "pending = self._pending_control.get(peer_id)",
    ),
    "_provider_rate_max": (KadDHT, "if count >= self._provider_rate_max:"),
    "_queue": (RpcQueue.pop, "item = self._queue.pop()"),
    "_republish_provider_records": (
        KadDHT._run_main_loop,
        "await self.provider_store._republish_provider_records()",
    ),
    "_safe_parse_multiaddr_cached": (
        update_peerstore_from_identify,
        "= _safe_parse_multiaddr_cached(",
    ),
    "_schedule_auto_connect": (Swarm, "self._schedule_auto_connect()"),
    "_schedule_identify": (BasicHost._on_notifee_connected, "self._schedule_identify("),
    "_task_nursery": (
        TrioManager._schedule_task,
        "self._task_nursery.start_soon(self._run_and_manage_task",
    ),
}

# More that these, and what is public of the library's inside, depend on.
FURTHER: tuple[tuple[Any, str], ...] = (
    (GossipSub.send_rpc, "self._piggyback_control_retry(peer_id, outbound)"),  # why `_send` is
    (GossipSub._push_control_retry, "self._pending_control[peer_id]"),
    (GossipSub._handle_dropped_rpc, "self._push_control_retry(peer_id, rpc.control)"),
    (ProviderStore.find_providers, "if local_providers:"),  # why the private call is needed
    (KadDHT.__init__, "self._provider_rate_max = "),
    (KadDHT.__init__, "self._inbound_limiter = trio.CapacityLimiter("),
    (PriorityQueue.push, "if len(self) >= self.max_size:"),
    (PeerStore._enforce_peer_limit, "self.peer_data_map.items()"),
    (PeerStore.add_addrs, "self.peer_data_map.setdefault(peer_id, PeerData())"),
    (PeerStore.consume_peer_record, "self.peer_record_map["),
    (TrioManager.run, "self._task_nursery = task_nursery"),
)


def foreign_privates(code: str) -> Iterator[str]:
    """Names of private attributes of other objects than our own.

    `self` and `cls` are our own but for what a class has from the library alone.
    """
    tree = ast.parse(code)
    foreign_bases = {
        name.asname or name.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == LIBRARY
        for name in node.names
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            if not is_own(node.value):
                yield node.attr
        elif isinstance(node, ast.Call) and name_of(node.func) in {"getattr", "setattr", "hasattr"}:
            yield from (
                one.value
                for one in node.args
                if isinstance(one, ast.Constant)
                and isinstance(one.value, str)
                and is_private(one.value)
            )
        elif isinstance(node, ast.ClassDef) and foreign_bases.intersection(
            map(name_of, node.bases)
        ):
            yield from inherited(node)


def inherited(made: ast.ClassDef) -> Iterator[str]:
    """Private names that a class uses of itself without having made them."""
    own = {one.name for one in made.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)}
    used: set[str] = set()
    for node in ast.walk(made):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and is_own(node.value):
            (own if isinstance(node.ctx, ast.Store) else used).add(node.attr)
    yield from used - own


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def is_own(value: ast.expr) -> bool:
    return name_of(value) in {"self", "cls"}


def name_of(value: ast.expr) -> str:
    return value.id if isinstance(value, ast.Name) else ""


def touched() -> set[str]:
    found: set[str] = set()
    for room in ROOMS:
        for path in sorted(room.glob("*.py")):
            names = set(foreign_privates(path.read_text(encoding="utf-8")))
            found |= names - OURS.get(path.name, set())
    return found


def test_every_private_attribute_that_is_touched_has_a_canary() -> None:
    assert touched() == set(CANARIES)


@pytest.mark.parametrize("name", CANARIES)
def test_canary_of_a_private_attribute(name: str) -> None:
    owner, text = CANARIES[name]
    assert name in text or name == owner.__name__, "the text is about something else"
    assert text in inspect.getsource(owner)


@pytest.mark.parametrize("further", FURTHER, ids=lambda one: f"{one[0].__qualname__}")
def test_further_canary(further: tuple[Any, str]) -> None:
    owner, text = further
    assert text in inspect.getsource(owner)


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("self._pubsub._inside()", {"_inside"}),
        ("def f(swarm):\n    swarm._inside = 3", {"_inside"}),
        ("getattr(host, '_inside')", {"_inside"}),
        ("from libp2p.x import A\nclass B(A):\n    def f(self): self._inside.g()", {"_inside"}),
        ("from libp2p.x import A\nclass B(A):\n    def f(self): self._own = self._own", set()),
        ("from x import A\nclass B(A):\n    def f(self): self._own.g()", set()),
        ("self._own.public(__name__)", set()),
    ],
)
def test_uses_are_found_in_every_form(code: str, found: set[str]) -> None:
    assert set(foreign_privates(code)) == found


def public_uses(path: Path) -> Iterator[tuple[str, str]]:
    """(part of the library, attribute) for each `part.attribute`, whatever the part hangs on."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Attribute):
            continue
        base = node.value
        if isinstance(base, ast.Call):
            base = base.func
        if isinstance(base, ast.Attribute):
            if name_of(base.value) != LIBRARY:
                yield base.attr.lstrip("_"), node.attr
        elif isinstance(base, ast.Name):
            yield base.id, node.attr


def test_every_attribute_of_the_library_that_is_touched_is_there() -> None:
    library = compat.build(nodes.new_seed(), lambda: ("/ip4/127.0.0.1/tcp/1",))
    parts = {
        "pubsub": library.pubsub,
        "gossip": library.gossip,
        "router": library.gossip,
        "swarm": library.swarm,
        "get_network": library.swarm,
        "host": library.host,
        "peerstore": library.host.get_peerstore(),
        "get_peerstore": library.host.get_peerstore(),
        "dht": library.dht,
        "provider_store": library.dht.provider_store,
        "routing_table": library.dht.routing_table,
        "peer_routing": library.dht.peer_routing,
        "noise": library.noise,
    }
    # In these files the names stand for our own: `Gossip`, `Dht`, `MemoryGossip`, an address.
    ours = {("gossip", "libp2p_transport.py"), ("dht", "libp2p_transport.py")}
    missing, checked = set(), 0
    for path in sorted(ROOMS[0].glob("*.py")):
        if path.name.startswith("memory_"):
            continue
        for part, attribute in public_uses(path):
            if part in parts and (part, path.name) not in ours:
                checked += 1
                of = parts[part]
                if not (hasattr(of, attribute) or hasattr(type(of), attribute)):
                    missing.add((path.name, part, attribute))
    assert missing == set()
    assert checked > 80
