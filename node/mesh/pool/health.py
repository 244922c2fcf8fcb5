"""A model whose workers crash: when it may be loaded again, and who may not ask it for a while.

Every failure is put down to somebody:

- to the model itself, where its worker could not be loaded, or died while nobody's request ran or
  had just left;
- to an asker, where only his requests ran: another node, an actor whose requests it passes on, a
  caller of this one's gateway, or "" for its operator;
- to nobody, where requests of several ran. Then for `crash_alone_seconds` requests of one asker at
  a time run, so that the next crash names him.

After each failure the next load waits, longer each time (after the first not at all). After
`crashes_max` within `crash_window_seconds` that are put down to somebody the model is quarantined:
for `quarantine_seconds`, or where one asker alone crashed it, for `quarantine_one_seconds`.

One client with a request that crashes the engine must not take the model from everybody. So a
request that was answered to its end forgives what was put down to askers, for the model evidently
works; and an asker other than the operator waits after his second crash, twice as long each time,
while the others go on.

Keys of actors are free, so each new one that crashes it counts against the node that passes it on
like a crash of its own: all of that node's actors wait, and together they are one asker where it is
asked whether one alone did it. So is an actor who comes by way of several nodes.
"""

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from aigrid.protocol.errors import AigridError, Code, EngineError, LocalError
from aigrid.protocol.limits import Limits

OWN: Final = ""
COUNTED: Final = frozenset(
    {Code.ENGINE_CRASHED, Code.ENGINE_TIMEOUT, Code.ENGINE_FAILED, Code.OUT_OF_MEMORY}
)
"""Codes of failures that count; that an engine refuses a model is none."""

_KEPT_MAX: Final = 64
_BY: Final = " by "


def passed_on(actor: str, peer: str) -> str:
    """The asker of a request that `peer` passes on for `actor` (both DIDs), who may be the peer."""
    return peer if actor == peer else f"{actor}{_BY}{peer}"


def _actor(asker: str) -> str:
    return asker.partition(_BY)[0]


def _way(asker: str) -> str:
    """By which node it came."""
    return asker.rpartition(_BY)[2]


@dataclass(frozen=True, slots=True)
class _Crash:
    """`asker` is None where it is the model's own; `known`: whether it is put down to anybody."""

    at: float
    asker: str | None
    known: bool = True


@dataclass(frozen=True, slots=True)
class _Pause:
    """An asker waits until then; it was so long."""

    until: float
    seconds: float


@dataclass(slots=True)
class Health:
    """Of one model. Times are monotonic seconds, given by the caller.

    Attributes:
        why: what the last failure was, for people.
    """

    limits: Limits
    why: str = ""
    _crashes: deque[_Crash] = field(default_factory=lambda: deque(maxlen=_KEPT_MAX))
    _quarantined_until: float = 0.0
    _alone_until: float = 0.0
    _pauses: dict[str, _Pause] = field(default_factory=dict)

    def crashed(self, now: float, error: AigridError, suspects: Collection[str] = ()) -> bool:
        """Take note of a failure while requests of `suspects` ran; whether it quarantines."""
        self._forget(now)
        self.why = error.message
        asker = next(iter(suspects), None)
        self._crashes.append(_Crash(now, asker, known=len(suspects) < 2))
        if len(suspects) > 1:
            self._alone_until = now + self.limits.crash_alone_seconds
            return False
        if asker:
            if _way(asker) != asker and asker not in self._pauses:
                self._suspend(_way(asker), now)
            self._suspend(asker, now)
        known = [crash.asker for crash in self._crashes if crash.known]
        if len(known) < self.limits.crashes_max:
            return False
        askers = [asker for asker in known if asker is not None]
        one = len(askers) == len(known) and (
            len(set(map(_actor, askers))) == 1 or len(set(map(_way, askers))) == 1
        )
        limits = self.limits
        self._quarantined_until = now + (
            limits.quarantine_one_seconds if one else limits.quarantine_seconds
        )
        return True

    def served(self) -> None:
        """A request was answered to its end: the model works."""
        if self._crashes:
            kept = [crash for crash in self._crashes if crash.known and crash.asker is None]
            self._crashes = deque(kept, maxlen=_KEPT_MAX)

    def alone(self, now: float) -> bool:
        """Whether requests of one asker at a time may run, so that a crash tells whose it was."""
        return now < self._alone_until

    def check_asker(self, now: float, asker: str) -> None:
        """Raises LocalError (`busy`) for one whose requests keep crashing the model's worker."""
        pauses = [p for one in (asker, _way(asker)) if (p := self._pauses.get(one)) is not None]
        pause = max(pauses, key=lambda one: one.until, default=None)
        if pause is not None and now < pause.until:
            raise LocalError(
                f"requests of yours crashed the worker of this model ({self.why})",
                Code.BUSY,
                retry_after_seconds=pause.until - now,
            )

    def check_load(self, now: float) -> None:
        """Whether the model may be loaded now.

        Raises:
            EngineError: `quarantined`.
            LocalError: `busy`; both say when to try again.
        """
        if now < self._quarantined_until:
            raise EngineError(
                f"the model keeps crashing ({self.why})",
                Code.QUARANTINED,
                retry_after_seconds=self._quarantined_until - now,
            )
        self._forget(now)
        ready = self._ready_at()
        if now < ready:
            raise LocalError(
                f"the worker of this model crashed ({self.why}); it is loaded again soon",
                Code.BUSY,
                retry_after_seconds=ready - now,
            )

    def quarantined_until(self, now: float) -> float:
        """When the quarantine ends; infinite where there is none."""
        return self._quarantined_until if now < self._quarantined_until else float("inf")

    def problem(self, now: float) -> str:
        """Why the model is not offered, or ""."""
        if now >= self._quarantined_until:
            return ""
        return f"it keeps crashing ({self.why}); once that is mended: `aigrid models retry`"

    def forgive(self) -> None:
        """Somebody says that it is mended: begin anew."""
        self._crashes.clear()
        self._pauses.clear()
        self._quarantined_until = self._alone_until = 0.0
        self.why = ""

    def _ready_at(self) -> float:
        others = {_way(crash.asker) for crash in self._crashes if crash.known and crash.asker}
        # An asker who comes again has waited himself: nobody else waits for that, too.
        times = len(others) + sum(not (crash.known and crash.asker) for crash in self._crashes)
        if times < 2:
            return 0.0
        pause = self.limits.crash_pause_seconds * 2.0 ** (times - 2)
        return self._crashes[-1].at + min(pause, self.limits.crash_pause_max_seconds)

    def _suspend(self, asker: str, now: float) -> None:
        """After the first crash not at all, for it may have been chance."""
        before, limits = self._pauses.get(asker), self.limits
        if before is None:
            seconds = 0.0
        elif not before.seconds:
            seconds = limits.asker_pause_seconds
        else:
            seconds = min(2 * before.seconds, limits.asker_pause_max_seconds)
        self._pauses[asker] = _Pause(now + seconds, seconds)
        if len(self._pauses) > limits.suspects_max:
            del self._pauses[min(self._pauses, key=lambda one: self._pauses[one].until)]

    def _forget(self, now: float) -> None:
        since = now - self.limits.crash_window_seconds
        while self._crashes and self._crashes[0].at < since:
            self._crashes.popleft()
        for asker in [one for one, pause in self._pauses.items() if pause.until < since]:
            del self._pauses[asker]
