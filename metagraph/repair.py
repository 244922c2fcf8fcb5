"""The records as reconciliation sees them: an ordered snapshot, rebuilt only when it must be.

The order is that of issue, in whole seconds. Memberships count minutes instead of seconds, which
places all of them before everything else: a long answer brings who is a member before what members
say. StatusDelegations count hours, since memberships are renewed by them. Seconds, not
milliseconds, since implementations of negentropy exist that hold a timestamp in 32 bits.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from aigrid.metagraph.branches import scope_mask
from aigrid.metagraph.store import Store
from aigrid.protocol.canonical import record_cid
from aigrid.protocol.kinds import Kind
from aigrid.protocol.reconcile_items import Items, item

# With n records in the store a snapshot is used for n times this long although something has
# changed: building it then takes a bounded share of the time, however busy the store is, and
# whichever branch is asked for, since all records are looked at. (10,000 records: 0.2 s.)
_REUSE_MS_PER_RECORD = 0.02

_MS_PER_STEP = {Kind.STATUS_DELEGATION: 3_600_000, Kind.MEMBERSHIP: 60_000}

MaySay = Callable[[Kind, str], bool]


def _ms_per_step(kind: Kind) -> int:
    """Of the timestamps by which records are ordered."""
    return _MS_PER_STEP.get(kind, 1000)


class Repair:
    """What may be said to peers, as a set of (time, SHA-256), and the records behind it.

    There is a snapshot for each branch that was asked for, and one of everything: no more than
    there are branches.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._snapshots: dict[str | None, _Snapshot] = {}

    def items(self, grid: str, branch: str | None, may_say: MaySay, *, now_ms: int) -> Items:
        """The live records that `may_say(kind, issuer)` allows, withdrawals included.

        Only those of `branch`, unless that is None. What is no branch has no records.
        """
        if not scope_mask(branch):
            return Items(())
        state = (grid, self._store.changes)
        snapshot = self._snapshots.get(branch)
        if snapshot is None or not snapshot.holds(state, now_ms):
            items = Items(self._live(branch, may_say, now_ms))
            until_ms = self._store.next_expiry_ms() or 0  # none left: it is empty anyway
            reuse_ms = _REUSE_MS_PER_RECORD * self._store.size()
            snapshot = _Snapshot(items, state, now_ms, until_ms, now_ms + reuse_ms)
            self._snapshots[branch] = snapshot
        return snapshot.items

    def raws(self, sha256s: Sequence[bytes], may_say: MaySay, *, now_ms: int) -> Iterator[bytes]:
        """Those that are held, live and allowed: memberships first, then oldest first.

        They are read one at a time: what has gone meanwhile is left out.
        """
        found = self._store.summaries([record_cid(one) for one in sha256s], now_ms)
        for one in found:
            raw = self._store.raw(one.content_id) if may_say(one.kind, one.issuer) else None
            if raw is not None:
                yield raw

    def _live(self, branch: str | None, may_say: MaySay, now_ms: int) -> Iterator[bytes]:
        divisors: dict[tuple[str, str], int] = {}  # 0: may not be said
        for sha256, kind, issuer, valid_from_ms in self._store.live_digests(now_ms, branch=branch):
            who = (kind, issuer)
            divisor = divisors.get(who)
            if divisor is None:
                allowed = may_say(Kind(kind), issuer)
                divisor = divisors[who] = _ms_per_step(Kind(kind)) if allowed else 0
            if divisor:
                yield item(valid_from_ms // divisor, sha256)


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """`state` is the grid and the state of the store that it shows.

    It holds until `until_ms` while nothing changes, and until `reused_until_ms` in any case.
    """

    items: Items
    state: tuple[str, int]
    built_ms: int
    until_ms: int
    reused_until_ms: float

    def holds(self, state: tuple[str, int], now_ms: int) -> bool:
        if self.state[0] != state[0] or now_ms < self.built_ms:
            return False
        if self.state == state and now_ms < self.until_ms:
            return True
        return now_ms < self.reused_until_ms
