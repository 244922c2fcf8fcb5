"""The records as reconciliation sees them: an ordered snapshot, rebuilt only when it must be.

The order is that of issue, in whole seconds. Memberships count minutes instead of seconds, which
places all of them before everything else: a long answer brings who is a member before what members
say. Seconds, not milliseconds, since implementations of negentropy exist that hold a timestamp in
32 bits.
"""

from collections.abc import Callable, Iterator, Sequence

from aigrid.metagraph.store import Store
from aigrid.protocol.canonical import record_cid
from aigrid.protocol.kinds import Kind
from aigrid.protocol.reconcile_items import Items, item

# A snapshot of n records is used for n times this long although something has changed: building it
# then takes a bounded share of the time, however busy the store is. (10,000 records: 0.2 s.)
_REUSE_MS_PER_RECORD = 0.02

MaySay = Callable[[Kind, str], bool]


def _ms_per_step(kind: Kind) -> int:
    """Of the timestamps by which records are ordered."""
    return 60_000 if kind is Kind.MEMBERSHIP else 1000


class Repair:
    """What may be said to peers, as a set of (time, SHA-256), and the records behind it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._items = Items(())
        self._of: tuple[str, int] | None = None  # the grid and the state of the store it shows
        self._built_ms = 0
        self._until_ms = 0

    def items(self, grid: str, may_say: MaySay, *, now_ms: int) -> Items:
        """The live records that `may_say(kind, issuer)` allows, withdrawals included."""
        state = (grid, self._store.changes)
        if not self._holds(state, now_ms):
            self._items = Items(self._live(may_say, now_ms))
            self._of, self._built_ms = state, now_ms
            self._until_ms = self._store.next_expiry_ms() or 0  # none left: it is empty anyway
        return self._items

    def raws(self, sha256s: Sequence[bytes], may_say: MaySay, *, now_ms: int) -> Iterator[bytes]:
        """Those that are held, live and allowed: memberships first, then oldest first.

        They are read one at a time: what has gone meanwhile is left out.
        """
        found = self._store.summaries([record_cid(one) for one in sha256s], now_ms)
        for one in found:
            raw = self._store.raw(one.content_id) if may_say(one.kind, one.issuer) else None
            if raw is not None:
                yield raw

    def _holds(self, state: tuple[str, int], now_ms: int) -> bool:
        if self._of is None or self._of[0] != state[0] or now_ms < self._built_ms:
            return False
        if self._of == state and now_ms < self._until_ms:
            return True
        return now_ms < self._built_ms + _REUSE_MS_PER_RECORD * len(self._items)

    def _live(self, may_say: MaySay, now_ms: int) -> Iterator[bytes]:
        divisors: dict[tuple[str, str], int] = {}  # 0: may not be said
        for sha256, kind, issuer, valid_from_ms in self._store.live_digests(now_ms):
            who = (kind, issuer)
            divisor = divisors.get(who)
            if divisor is None:
                allowed = may_say(Kind(kind), issuer)
                divisor = divisors[who] = _ms_per_step(Kind(kind)) if allowed else 0
            if divisor:
                yield item(valid_from_ms // divisor, sha256)
