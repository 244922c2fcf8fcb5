"""What was seen of one peer that was asked: how quick, how busy, how often it failed. No clock."""

from dataclasses import dataclass, field, replace

from aigrid.metagraph.selection import Observation, Pace
from aigrid.protocol.limits import LIMITS

_WEIGHT = 0.3  # of the newest measurement in a moving average


@dataclass(slots=True)
class Observed:
    """Times are monotonic seconds.

    Attributes:
        in_flight: our requests to it now.
        heard_running: what it said when it was last asked how much it is working on.
        heard_in_flight: how many of ours it may have counted then.
        pace: over all models; `paces` of each.
        busy_until: by model, before when it said not to ask again.
    """

    in_flight: int = 0
    heard_running: int = 0
    heard_in_flight: int = 0
    pace: Pace = field(default_factory=Pace)
    paces: dict[str, Pace] = field(default_factory=dict)
    busy_until: dict[str, float] = field(default_factory=dict)
    failures_in_row: int = 0
    failed_seconds: float = 0.0

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
            failures_in_row=self.failures_in_row,
            last_failure_age_s=now - self.failed_seconds if self.failures_in_row else None,
        )

    def heard(self, running: int) -> None:
        self.heard_running, self.heard_in_flight = running, self.in_flight

    def began(self, model: str, ttft_ms: float | None) -> None:
        """It has begun to answer, or to go on with an answer, which is no measure: None."""
        self.busy_until.pop(model, None)
        if ttft_ms is not None:
            self.pace = replace(self.pace, ttft_ms=_mixed(self.pace.ttft_ms, ttft_ms))
            of_model = self.paces.get(model, Pace())
            self._keep(model, replace(of_model, ttft_ms=_mixed(of_model.ttft_ms, ttft_ms)))

    def succeeded(self) -> None:
        """It has answered to the end: who only begins is no better than who refuses."""
        self.failures_in_row = 0

    def produced(self, model: str, token_ms: float) -> None:
        """So long it took per token, after the first."""
        self.pace = replace(self.pace, token_ms=_mixed(self.pace.token_ms, token_ms))
        of_model = self.paces.get(model, Pace())
        self._keep(model, replace(of_model, token_ms=_mixed(of_model.token_ms, token_ms)))

    def busy(self, model: str, seconds: float, now: float) -> None:
        """It said when it may be asked for this model again; believed within bounds."""
        live = {m: until for m, until in self.busy_until.items() if until > now}
        while len(live) >= LIMITS.models_observed_max:
            del live[next(iter(live))]
        self.busy_until = {**live, model: now + min(seconds, LIMITS.busy_believed_seconds)}

    def failed(self, now: float) -> None:
        self.failures_in_row += 1
        self.failed_seconds = now

    def _keep(self, model: str, pace: Pace) -> None:
        self.paces.pop(model, None)
        self.paces[model] = pace
        if len(self.paces) > LIMITS.models_observed_max:
            del self.paces[next(iter(self.paces))]


def _mixed(old: float | None, new: float) -> float:
    return new if old is None else old + _WEIGHT * (new - old)
