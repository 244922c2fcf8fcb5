"""Hints that a node keeps for others, so bounded that nobody's push out anybody else's.

The library keeps what it is given, up to twenty providers of a key. A hint takes some kilobytes and
lives for two days, so one member could fill the store, at the pace that it may give hints, in an
hour; and where it is full, nothing new is kept, not even what the node itself offers.
"""

from collections import OrderedDict, defaultdict
from typing import Any, Protocol

from aigrid.protocol.limits import LIMITS, Limits


class HintStore(Protocol):
    """What is used of the library's: providers by key and by PeerId in base58."""

    providers: dict[bytes, dict[str, Any]]

    def add_provider(self, key: bytes, provider: Any) -> None: ...


class BoundedHints:
    """Puts itself in place of `add_provider`.

    A provider that names itself under too many keys loses those that it named first; where there
    are too many hints altogether, whoever gave most loses one. The library lets go of hints by
    their age: those that it has let go of are the first of all, so they are found at once.
    """

    def __init__(self, store: HintStore, own: str, limits: Limits = LIMITS) -> None:
        self._store, self._own, self._limits = store, own, limits
        self._add = store.add_provider
        self._keys: defaultdict[str, dict[bytes, None]] = defaultdict(dict)
        # The one renewed longest ago is first; another dict would look through what was there.
        self._all: OrderedDict[tuple[str, bytes], None] = OrderedDict()
        store.add_provider = self.add  # type: ignore[method-assign]

    def __len__(self) -> int:
        return len(self._all)

    def add(self, key: bytes, provider: Any) -> None:
        """Keep a hint, and no more of its addresses than `dht_hint_addresses_max`."""
        del provider.addrs[self._limits.dht_hint_addresses_max :]
        peer_id = str(provider.peer_id)
        self._add(key, provider)
        if peer_id not in self._store.providers.get(key, {}):
            return  # twenty others are named there
        self._forget(peer_id, key)
        self._keys[peer_id][key] = self._all[peer_id, key] = None
        self._forget_what_is_gone()
        if peer_id != self._own and len(self._keys[peer_id]) > self._limits.dht_keys_per_peer_max:
            self._drop_first(peer_id)
        if len(self) > self._limits.dht_hints_max:
            self._drop_first(max(self._keys, key=self._excess))

    def _excess(self, peer_id: str) -> int:
        return -1 if peer_id == self._own else len(self._keys[peer_id])

    def _drop_first(self, peer_id: str) -> None:
        """The one renewed longest ago."""
        key = next(iter(self._keys[peer_id]))
        self._forget(peer_id, key)
        named = self._store.providers.get(key, {})
        named.pop(peer_id, None)
        if not named:
            self._store.providers.pop(key, None)

    def _forget_what_is_gone(self) -> None:
        while self._all:
            peer_id, key = next(iter(self._all))
            if peer_id in self._store.providers.get(key, {}):
                return
            self._forget(peer_id, key)

    def _forget(self, peer_id: str, key: bytes) -> None:
        """Count it no more, if it was."""
        if (peer_id, key) not in self._all:
            return
        del self._all[peer_id, key], self._keys[peer_id][key]
        if not self._keys[peer_id]:
            del self._keys[peer_id]
