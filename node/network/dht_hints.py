"""Hints that a node keeps for others, so bounded that nobody's push out anybody else's.

The library keeps what it is given, up to twenty providers of a key. A hint takes some kilobytes and
lives for two days, so one member could fill the store, at the pace that it may give hints, in an
hour; and where it is full, nothing new is kept, not even what the node itself offers.
"""

from collections import defaultdict
from typing import Any, Protocol

from aigrid.protocol.limits import LIMITS, Limits


class HintStore(Protocol):
    """What is used of the library's: providers by key and by PeerId in base58."""

    providers: dict[bytes, dict[str, Any]]

    def add_provider(self, key: bytes, provider: Any) -> None: ...


class BoundedHints:
    """Puts itself in place of `add_provider`.

    A provider that names itself under too many keys loses those that it named first; where there
    are too many hints altogether, whoever gave most loses one.
    """

    def __init__(self, store: HintStore, own: str, limits: Limits = LIMITS) -> None:
        self._store, self._own, self._limits = store, own, limits
        self._add = store.add_provider
        self._keys: defaultdict[str, dict[bytes, None]] = defaultdict(dict)
        self._count = 0
        store.add_provider = self.add  # type: ignore[method-assign]

    def __len__(self) -> int:
        return self._count

    def add(self, key: bytes, provider: Any) -> None:
        """Keep a hint, and no more of its addresses than `dht_hint_addresses_max`."""
        del provider.addrs[self._limits.dht_hint_addresses_max :]
        peer_id = str(provider.peer_id)
        self._add(key, provider)
        if peer_id not in self._store.providers.get(key, {}):
            return  # twenty others are named there
        self._count += key not in self._keys[peer_id]
        self._keys[peer_id].pop(key, None)
        self._keys[peer_id][key] = None
        if peer_id != self._own and len(self._keys[peer_id]) > self._limits.dht_keys_per_peer_max:
            self._drop_first(peer_id)
        if self._count > self._limits.dht_hints_max:
            self._drop_first(max(self._keys, key=self._excess))

    def _excess(self, peer_id: str) -> int:
        return -1 if peer_id == self._own else len(self._keys[peer_id])

    def _drop_first(self, peer_id: str) -> None:
        """The one renewed longest ago; what the library has let go of, as ended, comes first."""
        key = next(iter(self._keys[peer_id]))
        del self._keys[peer_id][key]
        self._count -= 1
        if not self._keys[peer_id]:
            del self._keys[peer_id]
        named = self._store.providers.get(key, {})
        named.pop(peer_id, None)
        if not named:
            self._store.providers.pop(key, None)
