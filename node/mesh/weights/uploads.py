"""Who may have files from this node now: slots for requests, shared among those who ask."""

from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import trio

from aigrid.protocol.errors import Code, LocalError
from aigrid.protocol.limits import LIMITS, Limits


@dataclass(eq=False, slots=True)
class Upload:
    """A request that is being answered.

    Attributes:
        peer, model: who asks, and for what.
        began_seconds: since when, by trio's clock.
        sent_bytes: what it has taken.
    """

    peer: str
    model: str
    began_seconds: float = 0.0
    sent_bytes: int = 0
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    _waited: float = 0.0
    _since: float | None = None

    @contextmanager
    def sending(self, count: int) -> Iterator[None]:
        """The peer is waited for inside, to take so many bytes."""
        self._since = trio.current_time()
        try:
            yield
            self.sent_bytes += count
        finally:
            self._waited += trio.current_time() - self._since
            self._since = None

    @property
    def sending_seconds(self) -> float:
        """How long the peer was waited for."""
        now = 0.0 if self._since is None else trio.current_time() - self._since
        return self._waited + now

    def slow(self, limits: Limits = LIMITS) -> bool:
        """Whether it takes less than it has to where others wait."""
        patience = self.sending_seconds - limits.upload_grace_seconds
        return patience >= 0 and self.sent_bytes < patience * limits.upload_slow_bytes_per_second


def share(uploads: Collection[Upload], peer: str, slots: int) -> int:
    """How many of the slots one peer can count on while `peer` wants some too."""
    return max(1, slots // len({peer, *(one.peer for one in uploads)}))


def to_end(uploads: Collection[Upload], peer: str, slots: int) -> Upload | None:
    """Which request ends so that `peer`, who finds all slots taken, has one; None: it has to wait.

    The slowest of those that are too slow, whoever's it is. Else, if `peer` has less than its
    share, the oldest of whoever has most, and more than that.
    """
    slow = [one for one in uploads if one.slow()]
    if slow:
        return min(slow, key=lambda one: one.sent_bytes / one.sending_seconds)
    counts = Counter(one.peer for one in uploads)
    fair = share(uploads, peer, slots)
    over = [one for one in uploads if counts[one.peer] > fair]
    if counts[peer] >= fair or not over:
        return None
    return min(over, key=lambda one: (-counts[one.peer], one.began_seconds))


class UploadSlots:
    """At most `slots` requests at once, `per_peer` of one peer."""

    def __init__(self, slots: int, per_peer: int) -> None:
        self._slots = slots
        self._per_peer = per_peer
        self.uploads: list[Upload] = []

    @property
    def giving(self) -> Counter[str]:
        """Model -> requests for its files that are being answered."""
        return Counter(one.model for one in self.uploads)

    @contextmanager
    def slot(self, peer: str, model: str) -> Iterator[Upload]:
        """One of them.

        Raises:
            LocalError: `busy`: all slots are taken, or this one had to go to somebody else.
        """
        ended = self.check(peer)
        if ended is not None:
            self.uploads.remove(ended)
            ended.scope.cancel()
        upload = Upload(peer, model, trio.current_time())
        self.uploads.append(upload)
        try:
            with upload.scope:
                yield upload
        finally:
            if upload in self.uploads:
                self.uploads.remove(upload)
        if upload.scope.cancelled_caught:
            raise _busy("others wait for files of this node, who have had less or read faster")

    def check(self, peer: str) -> Upload | None:
        """Whether `peer` can have a slot, and whose request would end for that, if any.

        Raises:
            LocalError: `busy`.
        """
        mine = sum(one.peer == peer for one in self.uploads)
        full = len(self.uploads) >= self._slots
        ended = to_end(self.uploads, peer, self._slots) if full else None
        if mine >= self._per_peer or (full and ended is None):
            raise _busy("too many requests for weights are being answered")
        return ended


def _busy(text: str) -> LocalError:
    return LocalError(text, Code.BUSY, retry_after_seconds=LIMITS.retry_after_seconds)
