"""Token buckets per key, bounded in number; monotonic time is an argument."""

from collections import OrderedDict

from aigrid.protocol.limits import LIMITS


class TokenBuckets:
    """`burst` tokens at once per key, refilled at `per_second`; the least recent key is forgotten.

    Forgetting a key gives it a full bucket again, so `keys_max` bounds memory at the price of
    leniency; pair it with one bucket for everybody.
    """

    def __init__(
        self, *, burst: float, per_second: float, keys_max: int = LIMITS.rate_keys_max
    ) -> None:
        self._burst = burst
        self._per_second = per_second
        self._keys_max = keys_max
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str, now_seconds: float) -> bool:
        """Whether `key` still had a token."""
        level, since = self._levels.pop(key, (self._burst, now_seconds))
        level = min(self._burst, level + (now_seconds - since) * self._per_second)
        allowed = level >= 1
        self._levels[key] = (level - 1 if allowed else level, now_seconds)
        if len(self._levels) > self._keys_max:
            self._levels.popitem(last=False)
        return allowed
