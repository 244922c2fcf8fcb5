"""Token buckets: how often somebody may do something. Pure; time is an argument."""

from collections import OrderedDict

from aigrid.protocol.limits import LIMITS


class TokenBucket:
    """Holds up to `burst` tokens and regains `per_second` of them each second.

    Times are seconds of any one clock. Where that clock steps back, nothing is regained for the
    step and counting goes on from the new time.
    """

    __slots__ = ("_at_seconds", "_burst", "_per_second", "_tokens")

    def __init__(self, *, per_second: float, burst: float, now_seconds: float) -> None:
        self._per_second = per_second
        self._burst = burst
        self._tokens = burst
        self._at_seconds = now_seconds

    def take(self, now_seconds: float, tokens: float = 1.0) -> bool:
        """Take `tokens` if that many are there."""
        self._refill(now_seconds)
        if self._tokens < tokens:
            return False
        self._tokens -= tokens
        return True

    def wait_seconds(self, now_seconds: float, tokens: float = 1.0) -> float:
        """How long until `tokens` can be taken; 0 if now."""
        self._refill(now_seconds)
        return max(0.0, tokens - self._tokens) / self._per_second

    def _refill(self, now_seconds: float) -> None:
        elapsed = max(0.0, now_seconds - self._at_seconds)
        self._at_seconds = now_seconds
        self._tokens = min(self._burst, self._tokens + elapsed * self._per_second)


class TokenBuckets:
    """One bucket per key, for a bounded number of keys; the longest unused is forgotten first.

    A key forgotten has a full bucket again: `keys_max` bounds memory at the price of leniency.
    """

    __slots__ = ("_buckets", "_burst", "_keys_max", "_per_second")

    def __init__(
        self, *, per_second: float, burst: float, keys_max: int = LIMITS.rate_keys_max
    ) -> None:
        self._per_second = per_second
        self._burst = burst
        self._keys_max = keys_max
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def take(self, key: str, now_seconds: float) -> float:
        """Take a token of `key`: 0 if there was one, else the seconds until there is."""
        bucket = self.of(key, now_seconds)
        return 0.0 if bucket.take(now_seconds) else bucket.wait_seconds(now_seconds)

    def of(self, key: str, now_seconds: float) -> TokenBucket:
        """The bucket of `key`, full if it was not used lately."""
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = TokenBucket(
                per_second=self._per_second, burst=self._burst, now_seconds=now_seconds
            )
            self._buckets[key] = bucket
            if len(self._buckets) > self._keys_max:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(key)
        return bucket
