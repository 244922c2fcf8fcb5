"""An ordered set of (timestamp, id), as reconciliation looks at it."""

import hashlib
from bisect import bisect_left
from collections.abc import Iterable
from itertools import accumulate

from aigrid.protocol.reconcile_wire import (
    FINGERPRINT_BYTES,
    ID_BYTES,
    TIMESTAMP_BYTES,
    TIMESTAMP_MAX,
    varint,
)

_MODULUS = 1 << 256


def item(timestamp: int, item_id: bytes) -> bytes:
    """An item as bytes that sort by timestamp, then id. Raises ValueError where out of bounds."""
    if len(item_id) != ID_BYTES or not 0 <= timestamp <= TIMESTAMP_MAX:
        raise ValueError("an item is a timestamp below 2**64 - 1 and an id of 32 bytes")
    return timestamp.to_bytes(TIMESTAMP_BYTES, "big") + item_id


class Items:
    """What one side holds; it does not change.

    The fingerprint of any range costs two subtractions and a hash: sums are kept per prefix.
    """

    __slots__ = ("_items", "_sums")

    def __init__(self, items: Iterable[bytes]) -> None:
        """Take items as `item` makes them, in any order; repeated ones count once."""
        self._items = sorted(dict.fromkeys(items))  # in the order they came: nearly sorted
        ids = (int.from_bytes(one[TIMESTAMP_BYTES:], "little") for one in self._items)
        self._sums = list(accumulate(ids, initial=0))

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> bytes:
        return self._items[index]

    def lower_bound(self, bound: bytes, start: int) -> int:
        """The index of the first item, from `start` on, that is not below `bound`."""
        return bisect_left(self._items, bound, start)

    def ids(self, start: int, stop: int) -> list[bytes]:
        return [one[TIMESTAMP_BYTES:] for one in self._items[start:stop]]

    def fingerprint(self, start: int, stop: int) -> bytes:
        """SHA-256 over the sum of the ids modulo 2**256 and their number, its first 16 bytes."""
        total = (self._sums[stop] - self._sums[start]) % _MODULUS
        data = total.to_bytes(ID_BYTES, "little") + varint(stop - start)
        return hashlib.sha256(data).digest()[:FINGERPRINT_BYTES]

    def minimal_bound(self, index: int) -> bytes:
        """The shortest bound between the item before `index` and the one at it."""
        before, after = self._items[index - 1], self._items[index]
        length = TIMESTAMP_BYTES
        while before[:length] == after[:length]:
            length += 1
        return after[:length]
