"""Everything of py-libp2p's inside that we touch, in one place. libp2p is pinned to 0.8.1.

Of the library we use: the Noise handshake, the swarm's and host's bookkeeping, GossipSub, Kad-DHT
and identify. Its listeners, dialer, muxers, negotiation, resource manager, auto-connector, mDNS
and other security transports are not used: plaintext, which it offers by default, would let anyone
claim a member's PeerId. What stands in for parts of GossipSub is in `peer_records`, `gossip_wire`,
`gossip_author` and `gossip_control`, for what its DHT and identify read with in `dht_messages` and
`identify_messages`, and for the clock by which it tells durations in `steady_time`.
`tests/node/network/test_compat.py`, and the tests of these, fail when an upstream part that they
lean on changes; `test_library_uses.py` finds every private attribute that is touched, and wants
such a canary for each.
"""

import logging
import math
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import libp2p.host.basic_host
import libp2p.identity.identify_push.identify_push
import libp2p.kad_dht.common
import libp2p.kad_dht.kad_dht
import libp2p.kad_dht.peer_routing
import libp2p.kad_dht.provider_store
import libp2p.kad_dht.value_store
import libp2p.network.connection.swarm_connection
import trio
from libp2p import generate_peer_id_from
from libp2p.crypto.ed25519 import create_new_key_pair as ed25519_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as x25519_key_pair
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.host.defaults import IdentifyID, IdentifyPushID
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
from libp2p.network.config import ConnectionConfig
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.exceptions import SwarmException
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.peer.peerstore import PeerStore
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pubsub import Pubsub
from libp2p.records.validator import NamespacedValidator, Validator
from libp2p.security.noise.io import NoisePacketReadWriter, NoiseTransportReadWriter
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_PROTOCOL_ID
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.security.secure_session import SecureSession
from libp2p.stream_muxer.exceptions import MuxedConnUnavailable, MuxedStreamError
from libp2p.tools.anyio_service.trio_manager import TrioManager
from libp2p.transport.upgrader import TransportUpgrader
from multiaddr import Multiaddr
from noise.connection import NoiseConnection
from noise.state import CipherState

from aigrid.node.network import (
    dht_messages,
    forgetting,
    identify_messages,
    key_types,
    negotiation,
    peer_records,
    steady_time,
    yamux_frames,
)
from aigrid.node.network.dht_hints import BoundedHints
from aigrid.node.network.mux_link import FusedLink
from aigrid.node.network.muxer import Muxer
from aigrid.node.network.tcp import TcpStream
from aigrid.protocol.limits import LIMITS

__all__ = [
    "ID",
    "IDENTIFY_PROTOCOL",
    "KAD_PROTOCOL",
    "MESHSUB_PROTOCOL",
    "Library",
    "Multiaddr",
    "MuxedConnUnavailable",
    "MuxedStreamError",
    "PeerInfo",
    "SwarmException",
    "build",
    "reduced_identify",
    "run_service",
    "secure",
]

MESHSUB_PROTOCOL = "/meshsub/1.1.0"  # 1.2 adds IDONTWANT, which costs more than it saves here
KAD_PROTOCOL = "/aigrid/kad/1.0.0"
IDENTIFY_PROTOCOL = str(IdentifyID)
IDENTIFY_PUSH_PROTOCOL = str(IdentifyPushID)
RESTART_SECONDS = 1.0
_KAD_MODULES = (
    libp2p.kad_dht.common,
    libp2p.kad_dht.kad_dht,
    libp2p.kad_dht.peer_routing,
    libp2p.kad_dht.provider_store,
    libp2p.kad_dht.value_store,
)
_IDENTIFY_MODULES = (libp2p.host.basic_host, libp2p.identity.identify_push.identify_push)

OnFailure = Callable[[str, Exception], None]


@dataclass(frozen=True, slots=True)
class Library:
    """The parts of py-libp2p one node runs."""

    peer_id: Any
    host: Any
    swarm: Any
    pubsub: Any
    gossip: Any
    dht: Any
    noise: Any


class _RefuseAll(Validator):  # type: ignore[misc]  # the library is untyped
    """We keep no values in the DHT, only provider hints."""

    def validate(self, key: str, value: bytes) -> None:
        raise ValueError("values are not kept")

    def select(self, key: str, values: list[bytes]) -> int:
        return 0


def build(
    signing_seed: bytes,
    listen_addresses: Callable[[], tuple[str, ...]],
    topics: frozenset[str] = frozenset(),
) -> Library:
    """A host without listeners, its GossipSub and its DHT, not yet running."""
    _silence()
    forgetting.without_threads()
    steady_time.without_the_wall_clock()
    key_types.ed25519_only()
    for module in _KAD_MODULES:
        module.PROTOCOL_ID = TProtocol(KAD_PROTOCOL)
        module.MAX_DHT_MESSAGE_SIZE = LIMITS.dht_message_bytes
        module.read_varint_prefixed_bytes_limited = dht_messages.read
    for module in _IDENTIFY_MODULES:
        module.read_length_prefixed_protobuf = identify_messages.read
    keys = ed25519_key_pair(signing_seed)
    peer_id = generate_peer_id_from(keys)
    peerstore = PeerStore()
    peerstore.add_key_pair(peer_id, keys)
    swarm = Swarm(
        peer_id,
        peerstore,
        TransportUpgrader({}, {}),
        transports=[],
        connection_config=ConnectionConfig(
            min_connections=0,
            low_watermark=0,
            high_watermark=LIMITS.connections_max,
            max_connections=LIMITS.connections_max,
            max_connections_per_peer=LIMITS.connections_per_peer_max,
        ),
    )
    _disable_auto_connect(swarm)
    host = BasicHost(
        network=swarm,
        disable_identify_address_discovery=True,
        addrs_factory=lambda _candidates: [Multiaddr(a) for a in listen_addresses()],
    )
    host._schedule_identify = lambda _peer_id, *, reason: None  # noqa: SLF001, ARG005 - ours runs for members only
    peer_records.remember(host, listen_addresses)
    gossip = _gossip()
    pubsub = Pubsub(
        host,
        gossip,
        strict_signing=True,
        allowed_topics=topics,
        validation_cache_size=forgetting.VALIDATIONS_KEPT,
    )
    forgetting.bound(pubsub, gossip)
    noise = NoiseTransport(keys, noise_privkey=x25519_key_pair().private_key)
    return Library(peer_id, host, swarm, pubsub, gossip, _dht(host), noise)


def _gossip() -> Any:
    """GossipSub without peer scoring, on purpose (docs/decisions/0014).

    Scores exist to keep out identities that cost nothing; here an authority vouches for each, and
    ends a membership that is misused. What a member can do wrong is bounded for each of them, by
    the monotonic clock, and counted: messages by rate, control entries by number, forgeries by
    their signature (`Gossip`, `GossipControl`). Who takes a place in a mesh and passes nothing on
    costs one of six, and the next sync repairs it. The library's own scores would add little and
    harm: with all weights at zero they graft two more peers each heartbeat until the mesh is at
    its upper bound, which doubles what every message costs; with weights, P1 counts joins instead
    of time and P3 nothing, the gates for one topic overlook floods of GRAFT, IHAVE and IWANT, and
    a slow member is cut off without a word.
    """
    gossip = GossipSub(
        protocols=[TProtocol(MESHSUB_PROTOCOL)],
        degree=6,
        degree_low=4,
        degree_high=12,
        heartbeat_interval=1,
        adaptive_gossip_enabled=False,  # changes the intervals behind our back
        spam_protection_enabled=False,  # drops above 10 messages a second, by the wall clock
        eclipse_protection_enabled=False,  # grafts by IP diversity; members are vouched for
        do_px=False,
        # Messages held for each peer that does not listen, in case it is about to: the rest comes
        # with the next sync, and most peers never listen to most branches.
        max_pending_messages_per_peer=8,
    )
    # Peer scoring is off: see `_gossip`. None is what the library itself tests for everywhere.
    gossip.scorer = None
    # Only the adaptive part prunes these.
    gossip.recent_message_deliveries = defaultdict(lambda: deque(maxlen=16))
    gossip.recent_peer_connections = deque(maxlen=16)
    gossip.recent_peer_disconnections = deque(maxlen=16)
    return gossip


def _dht(host: Any) -> Any:
    dht = KadDHT(
        host,
        DHTMode.SERVER,
        validator=NamespacedValidator({"aigrid": _RefuseAll()}, strict_validation=True),
        validator_changed=True,
        strict_validation=True,
        max_peers_per_subnet=0,  # members of one grid often share a network
    )
    dht._provider_rate_max = LIMITS.dht_provides_burst  # noqa: SLF001 - 10 per 10 s is less than a node offers
    dht._inbound_limiter.total_tokens = math.inf  # noqa: SLF001 - twelve, for as long as they stay; ours are `dht_places`
    dht.provider_store._republish_provider_records = trio.lowlevel.checkpoint  # noqa: SLF001 - tells all at once, for ever: `ProviderHints` does it
    BoundedHints(dht.provider_store, str(host.get_id()), steady_time.now_seconds)
    return dht


def _disable_auto_connect(swarm: Any) -> None:
    async def nothing(*_args: object) -> None:
        await trio.lowlevel.checkpoint()

    swarm._schedule_auto_connect = lambda: None  # noqa: SLF001 - see the module
    swarm.auto_connector.maybe_connect = nothing
    swarm.auto_connector.record_disconnect = lambda _peer: None  # remembers every peer for ever
    swarm.auto_connector.run_background_task = nothing
    swarm.connection_pruner.maybe_prune_connections = nothing


def _silence() -> None:
    """The library logs what strangers do as errors, and in one module through the root logger."""
    logger = logging.getLogger("libp2p")
    logger.setLevel(logging.CRITICAL)
    libp2p.network.connection.swarm_connection.logging = logger


class GuardedManager(TrioManager):  # type: ignore[misc]  # the library is untyped
    """Runs a library service so that a task that fails ends alone (T1, T6).

    In the library one failing task, such as a message pushed or a heartbeat, ends its service
    and with it the host. Daemons and the service itself are started again.
    """

    def __init__(self, service: Any, on_failure: OnFailure) -> None:
        super().__init__(service)
        self._on_failure = on_failure

    def run_task(
        self,
        async_fn: Callable[..., Awaitable[Any]],
        *args: Any,
        daemon: bool = False,
        name: str | None = None,
        _internal: bool = False,
    ) -> None:
        if self._task_nursery is not None and self.is_running:
            guarded = self._restarted if daemon or _internal else self._guarded
            self._task_nursery.start_soon(guarded, async_fn, args)

    async def _guarded(
        self, async_fn: Callable[..., Awaitable[Any]], args: tuple[Any, ...]
    ) -> bool:
        """Whether it ended well."""
        try:
            await async_fn(*args)
        except Exception as error:  # noqa: BLE001 - boundary: a task of the library
            self._on_failure(getattr(async_fn, "__name__", "task"), error)
            return False
        return True

    async def _restarted(
        self, async_fn: Callable[..., Awaitable[Any]], args: tuple[Any, ...]
    ) -> None:
        while not await self._guarded(async_fn, args):  # noqa: ASYNC110 - not a poll: a pause before the next try
            await trio.sleep(RESTART_SECONDS)


@asynccontextmanager
async def run_service(service: Any, on_failure: OnFailure) -> AsyncIterator[None]:
    """Run a library service, guarded, while the context is open."""
    manager = GuardedManager(service, on_failure)
    service._manager = manager  # noqa: SLF001 - as the library's own runner does
    async with trio.open_nursery() as nursery:
        nursery.start_soon(manager.run)
        await manager.wait_started()
        try:
            yield
        finally:
            with trio.CancelScope(shield=True):
                await manager.stop()


async def secure(tcp: TcpStream, noise: Any, expected: Any | None) -> Muxer:
    """Noise, then Yamux, over a fresh TCP connection; we are the dialer if a peer is `expected`.

    Raises:
        Exception: whatever the peer makes go wrong, the library's own errors included.
    """
    raw = RawConnection(tcp, expected is not None)
    if expected is None:
        await negotiation.offer(tcp, (str(NOISE_PROTOCOL_ID),))
        session = await noise.secure_inbound(raw)
        await negotiation.offer(session, (yamux_frames.PROTOCOL_ID,))
    else:
        await negotiation.select(tcp, str(NOISE_PROTOCOL_ID))
        session = await noise.secure_outbound(raw, expected)
        await negotiation.select(session, yamux_frames.PROTOCOL_ID)
    return Muxer(session, session.get_remote_peer(), fuse(session))


def fuse(session: Any) -> FusedLink | None:
    """A link past the library, if the session is exactly its Noise over our TCP; else None.

    The cipher states stay the session's own: whatever else is written through it stays in order.
    """
    if type(session) is not SecureSession or type(session.conn) is not NoiseTransportReadWriter:
        return None
    packets, state = session.conn.read_writer, session.conn.noise_state
    if type(packets) is not NoisePacketReadWriter or type(state) is not NoiseConnection:
        return None
    raw = packets.read_write_closer
    if type(raw) is not RawConnection or not isinstance(raw.stream, TcpStream):
        return None
    sending = state.noise_protocol.cipher_state_encrypt
    receiving = state.noise_protocol.cipher_state_decrypt
    if type(sending) is not CipherState or type(receiving) is not CipherState:
        return None
    early = session._drain(None)  # noqa: SLF001 - deciphered while negotiating, and not read
    return FusedLink(raw.stream, sending.encrypt_with_ad, receiving.decrypt_with_ad, early)


def reduced_identify(host: Any, protocols: tuple[str, ...]) -> bytes:
    """What a stranger may know: our key and what it may open. Length-prefixed."""
    message: bytes = Identify(
        protocol_version="ipfs/0.1.0",
        agent_version="aigrid",
        public_key=host.get_public_key().serialize(),
        protocols=list(protocols),
    ).SerializeToString()
    return negotiation.encode_varint(len(message)) + message
