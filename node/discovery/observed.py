"""What was seen of one peer that was asked: how quick, how busy, how often it failed. No clock."""

import math
from dataclasses import dataclass, field, replace
from typing import TypeVar

from aigrid.metagraph.selection import Observation, Pace, measured_ms
from aigrid.protocol.limits import LIMITS

_WEIGHT = 0.3  # of the newest measurement in a moving average
_REFUSALS_COUNTED_MAX = 16
_T = TypeVar("_T")


@dataclass(slots=True)
class Observed:
    """Times are monotonic seconds.

    Attributes:
        in_flight: our requests to it now.
        heard_running: what it said when it was last asked how much it is working on.
        heard_in_flight: how many of ours it may have counted then.
        pace: over all models; `paces` of each.
        busy_until: by model, before when it said not to ask again.
        refused: by model, how often in a row it had no room though it seemed to.
        stalls: by model with which it did not begin: until when that counts, and for how long.
        broke: whether the last of its failures was an answer that broke the protocol.
    """

    in_flight: int = 0
    heard_running: int = 0
    heard_in_flight: int = 0
    pace: Pace = field(default_factory=Pace)
    paces: dict[str, Pace] = field(default_factory=dict)
    busy_until: dict[str, float] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    stalls: dict[str, tuple[float, float]] = field(default_factory=dict)
    failures_in_row: int = 0
    failed_seconds: float = 0.0
    broke: bool = False

    @property
    def running(self) -> int:
        """What it was last heard to work on, and what we have asked since."""
        since = self.in_flight - self.heard_in_flight
        return max(self.in_flight, self.heard_running + since)

    def observation(self, now: float, *, alive: bool) -> Observation:
        return Observation(
            alive=alive,
            running=self.running,
            ttft_ms=self.pace.ttft_ms,
            token_ms=self.pace.token_ms,
            models=self.paces,
            busy_seconds={m: until - now for m, until in self.busy_until.items() if until > now},
            stalled=frozenset(m for m, (until, _) in self.stalls.items() if until > now),
            failures_in_row=self.failures_in_row,
            last_failure_age_s=now - self.failed_seconds if self.failures_in_row else None,
            broke=self.broke,
        )

    def heard(self, running: int) -> None:
        self.heard_running, self.heard_in_flight = running, self.in_flight

    def began(self, model: str, ttft_ms: float | None) -> None:
        """It has begun to answer, or to go on with an answer, which is no measure: None."""
        self.busy_until.pop(model, None)
        self.refused.pop(model, None)
        ttft_ms = measured_ms(ttft_ms)
        if ttft_ms is not None:
            self.pace = replace(self.pace, ttft_ms=_mixed(self.pace.ttft_ms, ttft_ms))
            of_model = self.paces.get(model, Pace())
            self._keep(model, replace(of_model, ttft_ms=_mixed(of_model.ttft_ms, ttft_ms)))

    def succeeded(self) -> None:
        """It has answered to the end: who only begins is no better than who refuses."""
        self.failures_in_row = 0

    def produced(self, model: str, token_ms: float) -> None:
        """So long it took per token, after the first; what cannot have been measured is none."""
        sound_ms = measured_ms(token_ms)
        if sound_ms is None:
            return
        self.pace = replace(self.pace, token_ms=_mixed(self.pace.token_ms, sound_ms))
        of_model = self.paces.get(model, Pace())
        self._keep(model, replace(of_model, token_ms=_mixed(of_model.token_ms, sound_ms)))

    def busy(self, model: str, seconds: float | None, now: float, *, slots: int = 0) -> None:
        """It said when it may be asked for this model again; believed within bounds.

        One that seemed to have some of its `slots` free, and says so again and again, is left alone
        for longer each time, whatever it says: or nobody would ever be brought beside it.
        """
        live = {m: until for m, until in self.busy_until.items() if until > now}
        pause = min(seconds or 0.0, LIMITS.busy_believed_seconds)
        if model not in live and self.running < slots:
            times = min(self.refused.get(model, 0), _REFUSALS_COUNTED_MAX)
            _put(self.refused, model, times + 1)
            least = LIMITS.retry_after_seconds / 2 * 2.0**times
            pause = max(pause, min(least, LIMITS.refusal_pause_max_seconds))
        self.busy_until = live
        if pause > 0:
            _put(self.busy_until, model, now + pause)

    def stalled(self, model: str, now: float) -> None:
        """It did not begin in time: what it says of this model counts little for a while.

        For twice as long if it does so again; an answer in between makes up for nothing, or every
        second request could be stalled.
        """
        until, before = self.stalls.get(model, (0.0, 0.0))
        if now > until + LIMITS.stall_pause_max_seconds:
            before = 0.0
        pause = min(max(LIMITS.stall_pause_seconds, 2 * before), LIMITS.stall_pause_max_seconds)
        _put(self.stalls, model, (now + pause, pause))

    def failed(self, now: float, asked: float = math.inf, *, broke: bool = False) -> None:
        """A request that it was `asked` failed.

        Those that were under way when another one failed have failed with it: a worker that dies
        takes all its requests along, which is one failure and not that many in a row.
        """
        if not self.failures_in_row or asked >= self.failed_seconds:
            self.failures_in_row += 1
            self.failed_seconds = now
            self.broke = broke

    def _keep(self, model: str, pace: Pace) -> None:
        _put(self.paces, model, pace)


def _put(table: dict[str, _T], model: str, value: _T) -> None:
    """As the newest of a bounded number."""
    table.pop(model, None)
    table[model] = value
    if len(table) > LIMITS.models_observed_max:
        del table[next(iter(table))]


def _mixed(old: float | None, new: float) -> float:
    return new if old is None else old + _WEIGHT * (new - old)
