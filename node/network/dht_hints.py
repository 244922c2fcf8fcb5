"""Hints that a node keeps for others, so bounded that nobody's push out anybody else's.

The library keeps what it is given, up to twenty providers of a key. A hint takes some kilobytes and
lives for two days, so one member could fill the store, at the pace that it may give hints, in an
hour; and where it is full, nothing new is kept, not even what the node itself offers. Nor is it of
a key whose twenty providers are gone: whoever is there renews its hints.
"""

import math
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from typing import Any, Final, Protocol

from aigrid.protocol.limits import LIMITS, Limits

# Whoever is there renews a hint each `provide_seconds`, or as soon as all its keys have been told,
# which may take `provide_keys_max` times `dht_call_seconds`. One of these may be lost, unseen.
RENEWALS_MISSED: Final = 3


class HintStore(Protocol):
    """What is used of the library's: providers by key and by PeerId in base58."""

    providers: dict[bytes, dict[str, Any]]

    def add_provider(self, key: bytes, provider: Any) -> None: ...


class BoundedHints:
    """Puts itself in place of `add_provider`.

    A provider that names itself under too many keys loses those that it named first; where there
    are too many hints altogether, whoever gave most loses one. Of a key that has as many providers
    as the library keeps, the one that renewed its hint longest ago makes room, if it should have
    long since; for the node itself in any case. The library lets go of hints by their age: those
    that it has let go of are the first of all, so they are found at once.

    Args:
        now_seconds: of any clock that nobody sets.
    """

    def __init__(
        self,
        store: HintStore,
        own: str,
        now_seconds: Callable[[], float],
        limits: Limits = LIMITS,
    ) -> None:
        self._store, self._own, self._limits = store, own, limits
        self._now_seconds = now_seconds
        self._gone_seconds = RENEWALS_MISSED * limits.provide_seconds
        self._add = store.add_provider
        self._keys: defaultdict[str, dict[bytes, None]] = defaultdict(dict)
        # When each was renewed. The one renewed longest ago is first; another dict would look
        # through what was there.
        self._all: OrderedDict[tuple[str, bytes], float] = OrderedDict()
        store.add_provider = self.add  # type: ignore[method-assign]

    def __len__(self) -> int:
        return len(self._all)

    def add(self, key: bytes, provider: Any) -> None:
        """Keep a hint, and no more of its addresses than `dht_hint_addresses_max`."""
        del provider.addrs[self._limits.dht_hint_addresses_max :]
        peer_id = str(provider.peer_id)
        self._add(key, provider)
        if not self._is_named(peer_id, key) and self._make_room(peer_id, key):
            self._add(key, provider)
        if not self._is_named(peer_id, key):
            return  # twenty others are, and there
        self._forget(peer_id, key)
        self._keys[peer_id][key] = None
        self._all[peer_id, key] = self._now_seconds()
        self._forget_what_is_gone()
        if peer_id != self._own and len(self._keys[peer_id]) > self._limits.dht_keys_per_peer_max:
            self._drop_first(peer_id)
        if len(self) > self._limits.dht_hints_max:
            self._drop_first(max(self._keys, key=self._excess))

    def _is_named(self, peer_id: str, key: bytes) -> bool:
        return peer_id in self._store.providers.get(key, {})

    def _make_room(self, peer_id: str, key: bytes) -> bool:
        """Whether one of the others named under the key is so no more."""
        renewed = {one: self._renewed(one, key) for one in self._store.providers.get(key, {})}
        if not renewed:
            return False
        oldest = min(renewed, key=renewed.__getitem__)
        if peer_id != self._own and self._now_seconds() - renewed[oldest] < self._gone_seconds:
            return False
        self._drop(oldest, key)
        return True

    def _renewed(self, peer_id: str, key: bytes) -> float:
        return self._all.get((peer_id, key), -math.inf)

    def _excess(self, peer_id: str) -> int:
        return -1 if peer_id == self._own else len(self._keys[peer_id])

    def _drop_first(self, peer_id: str) -> None:
        """The one renewed longest ago."""
        self._drop(peer_id, next(iter(self._keys[peer_id])))

    def _drop(self, peer_id: str, key: bytes) -> None:
        self._forget(peer_id, key)
        named = self._store.providers.get(key, {})
        named.pop(peer_id, None)
        if not named:
            self._store.providers.pop(key, None)

    def _forget_what_is_gone(self) -> None:
        while self._all:
            peer_id, key = next(iter(self._all))
            if self._is_named(peer_id, key):
                return
            self._forget(peer_id, key)

    def _forget(self, peer_id: str, key: bytes) -> None:
        """Count it no more, if it was."""
        if (peer_id, key) not in self._all:
            return
        del self._all[peer_id, key], self._keys[peer_id][key]
        if not self._keys[peer_id]:
            del self._keys[peer_id]
