"""Nodes on the local network, by mDNS: a service type of our own over zeroconf.

Not the library's: that one writes what anybody on the network says into the peerstore and dials
it. Everything a node announces is in its TXT record; what is heard is hearsay, bounded and
sanitised, and nothing is done about it but to list it. zeroconf calls back on its own thread.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog
import trio
from zeroconf import InterfaceChoice, IPVersion, ServiceBrowser, ServiceInfo, Zeroconf
from zeroconf._updates import RecordUpdateListener

from aigrid.node.network.tcp import parse_address
from aigrid.node.network.transport import Nearby, PeerAddress
from aigrid.protocol.errors import VerificationError
from aigrid.protocol.identity import public_key_of_did, public_key_of_peer_id
from aigrid.protocol.limits import LIMITS

SERVICE_TYPE = "_aigrid._tcp.local."
TXT_TYPE = 16
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Seen:
    """`at` is `time.monotonic()`: the callbacks run outside trio."""

    nearby: Nearby
    at: float


class NearbyNodes(RecordUpdateListener):  # type: ignore[misc]  # zeroconf is untyped here
    """Announces this node and remembers the others. `interfaces`: IPs, by default all."""

    def __init__(
        self,
        own_peer_id: str,
        *,
        interfaces: tuple[str, ...] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._own = own_peer_id
        self._interfaces = interfaces
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: dict[str, _Seen] = {}
        self._said: tuple[str, str] | None = None
        self._changed = trio.Event()

    def announce(self, grid: str, name: str) -> None:
        """What to say from now on."""
        self._said = (grid[: LIMITS.nearby_grid_max_chars], sanitise(name))
        self._changed.set()

    def seen(self) -> tuple[Nearby, ...]:
        oldest = self._clock() - LIMITS.nearby_expiry_seconds
        with self._lock:
            for peer_id in [p for p, seen in self._seen.items() if seen.at < oldest]:
                del self._seen[peer_id]
            return tuple(seen.nearby for seen in self._seen.values())

    def heard(self, text: bytes, *, gone: bool = False) -> None:
        """A TXT record came; whoever sent it may be lying."""
        nearby = parse_text(text)
        if nearby is None or nearby.peer.peer_id == self._own:
            return
        peer_id = nearby.peer.peer_id
        with self._lock:
            self._seen.pop(peer_id, None)
            if gone:
                return
            while len(self._seen) >= LIMITS.nearby_max:
                self._seen.pop(next(iter(self._seen)))
            self._seen[peer_id] = _Seen(nearby, self._clock())

    def async_update_records(self, _zc: Any, _now: float, records: list[Any]) -> None:
        """From zeroconf's thread: every record received, refreshed ones included."""
        for record in (update.new for update in records):
            if record.type == TXT_TYPE and record.name.lower().endswith(SERVICE_TYPE):
                self.heard(record.text, gone=record.ttl <= 1)

    async def run(self, addresses: tuple[str, ...]) -> None:
        """Until cancelled. A network without multicast is logged, not raised."""
        try:
            zeroconf = await trio.to_thread.run_sync(self._open)
        except Exception as error:  # noqa: BLE001 - boundary: zeroconf, and the network behind it
            _log.warning("mdns_unavailable", error=str(error))
            return
        try:
            await self._keep_announced(zeroconf, addresses)
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(zeroconf.close)  # says goodbye: about 0.7 s

    def _open(self) -> Any:
        interfaces = list(self._interfaces) or InterfaceChoice.All
        zeroconf = Zeroconf(interfaces=interfaces, ip_version=IPVersion.V4Only)
        zeroconf.add_listener(self, None)
        ServiceBrowser(zeroconf, SERVICE_TYPE, handlers=[lambda **_: None])
        return zeroconf

    async def _keep_announced(self, zeroconf: Any, addresses: tuple[str, ...]) -> None:
        registered = False
        while True:
            self._changed = trio.Event()
            if self._said is not None:
                info = self._info(addresses, *self._said)
                call = zeroconf.update_service if registered else zeroconf.register_service
                try:
                    await trio.to_thread.run_sync(call, info)
                    registered = True
                except Exception as error:  # noqa: BLE001 - boundary: zeroconf, and the network behind it
                    _log.warning("mdns_not_announced", error=type(error).__name__)
            await self._changed.wait()

    def _info(self, addresses: tuple[str, ...], grid: str, name: str) -> Any:
        said = [a for a in addresses if "/127." not in a and "/::1/" not in a] or list(addresses)
        entries = [f"id={self._own}", f"grid={grid}", f"name={name}"]
        entries += [f"a{i}={a}" for i, a in enumerate(said[: LIMITS.nearby_addresses_max])]
        return ServiceInfo(
            SERVICE_TYPE,
            f"{self._own}.{SERVICE_TYPE}",
            port=parse_address(said[0]).port,
            properties=encode_text(entries),
            server=f"{self._own}.local.",
            parsed_addresses=[parse_address(a).host for a in said if "/ip4/" in a],
            host_ttl=LIMITS.nearby_ttl_seconds,
            other_ttl=LIMITS.nearby_ttl_seconds,
        )


def encode_text(entries: list[str]) -> bytes:
    """A TXT record (RFC 6763): strings of at most 255 bytes, each after its length."""
    out = bytearray()
    for entry in entries:
        data = entry.encode()[:255]
        out += bytes([len(data)]) + data
    return bytes(out)


def parse_text(text: bytes) -> Nearby | None:
    """None for anything that is not a well-formed announcement of a node."""
    fields: dict[str, str] = {}
    position = 0
    while position < len(text) and len(fields) < 32:
        end = position + 1 + text[position]
        key, _, value = text[position + 1 : end].decode("utf-8", "replace").partition("=")
        fields.setdefault(key, value)
        position = end
    peer_id, grid = fields.get("id", ""), fields.get("grid", "")
    try:
        public_key_of_peer_id(peer_id)
        public_key_of_did(grid)
    except VerificationError:
        return None
    addresses: list[str] = []
    for i in range(LIMITS.nearby_addresses_max):
        try:
            addresses.append(str(parse_address(fields.get(f"a{i}", ""))))
        except ValueError:
            continue
    if not addresses:
        return None
    return Nearby(PeerAddress(peer_id, tuple(addresses)), grid, sanitise(fields.get("name", "")))


def sanitise(name: str) -> str:
    """Printable characters only, one line, at most 64."""
    kept = "".join(c if c.isprintable() else " " for c in name[: 4 * LIMITS.nearby_name_max_chars])
    return " ".join(kept.split())[: LIMITS.nearby_name_max_chars]
