"""What a node remembers of weights: how much it fetched today, and what was used when."""

from aigrid.metagraph.local import LocalState
from aigrid.node.discovery.grid import NowMs
from aigrid.protocol.errors import Code, LocalError
from aigrid.protocol.limits import LIMITS, MIB

_DAY_MS = 86_400_000
_DAY, _USED = "weights/day", "weights/used/"
# Bytes fetched that a crash may forget.
_UNWRITTEN_BYTES = 32 * MIB


class WeightsBooks:
    """Days are those of UTC by the wall clock."""

    def __init__(self, local: LocalState, *, bytes_per_day: int, now_ms: NowMs) -> None:
        self._local = local
        self._bytes_per_day = bytes_per_day
        self.now_ms = now_ms
        day, _, count = (local.get(_DAY) or "0 0").partition(" ")
        self._day, self._bytes, self._unwritten = int(day), int(count), 0

    @property
    def fetched_today(self) -> int:
        """Bytes."""
        self._turn()
        return self._bytes

    def check(self, count: int) -> None:
        """Whether so many bytes more may be fetched today.

        Raises:
            LocalError: `over_budget`, with the time until tomorrow.
        """
        self._turn()
        if self._bytes + count > self._bytes_per_day:
            left_ms = _DAY_MS - self.now_ms() % _DAY_MS
            raise LocalError(
                f"{-(-count // MIB)} MiB are more than what is left of the "
                f"{self._bytes_per_day // MIB} MiB that this node fetches in a day",
                Code.OVER_BUDGET,
                retry_after_seconds=min(left_ms / 1000, LIMITS.retry_after_max_seconds),
            )

    def spend(self, count: int) -> None:
        """So many bytes have come. Raises as `check`."""
        self.check(count)
        self._bytes += count
        self._unwritten += count
        if self._unwritten >= _UNWRITTEN_BYTES:
            self.write()

    def write(self) -> None:
        self._unwritten = 0
        self._local.set(_DAY, f"{self._day} {self._bytes}")

    def used(self, model: str) -> None:
        """A fetched model, or one that is on its way, is of use now."""
        self._local.set(_USED + model, str(self.now_ms()))

    def used_ms(self, model: str) -> int:
        """When that was; now, where nothing is known of it."""
        found = self._local.get(_USED + model)
        return self.now_ms() if found is None else int(found)

    def forget(self, model: str) -> None:
        self._local.remove(_USED + model)

    def _turn(self) -> None:
        today = self.now_ms() // _DAY_MS
        if today > self._day:  # a clock that was set back brings no new day
            self._day, self._bytes = today, 0
