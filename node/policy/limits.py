"""What an actor may do, and whether it may do more of it now. Pure: times are arguments.

Rates are leaky buckets that hold one minute's worth: what was used flows off evenly. Tokens are
known only once they are there, so an answer begins while something is left, is charged as it comes,
and is never cut: what it used beyond the allowance has to flow off before the next one begins.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Annotated, Final

import msgspec

from aigrid.protocol.errors import Code, LocalError, PolicyDeniedError
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.model import MODEL_URN

DAY_MS: Final = 86_400_000
_MINUTE_SECONDS = 60.0

Count = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
Names = Annotated[
    tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=LIMITS.model_field_max_chars)], ...],
    msgspec.Meta(max_length=LIMITS.actor_names_max),
]


class ActorLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What an actor is held to; 0 and () hold it to nothing.

    Attributes:
        tokens_per_minute, tokens_per_day: of prompts and answers; days are those of UTC.
        concurrency: requests that run at once.
        models: names or ids of the only models it may use. By its id a model may be asked for
            only where it alone has the name.
        capabilities: the only tasks it may have done; what is narrower is included.
        operates: whether it may load and unload the models of this node. It may not, unless told.
    """

    requests_per_minute: Count = 0
    tokens_per_minute: Count = 0
    tokens_per_day: Count = 0
    concurrency: Count = 0
    models: Names = ()
    capabilities: Names = ()
    operates: bool = False


NO_LIMITS: Final = ActorLimits()


@dataclass(frozen=True, slots=True)
class Bucket:
    """What was `used` and has not flowed off, at a time in seconds of any one clock."""

    used: float = 0.0
    at_seconds: float = 0.0

    def at(self, now_seconds: float, per_minute: int) -> "Bucket":
        """The same, later. Where the clock stepped back, nothing flows off for the step."""
        elapsed = max(0.0, now_seconds - self.at_seconds)
        return Bucket(max(0.0, self.used - elapsed * per_minute / _MINUTE_SECONDS), now_seconds)

    def wait_seconds(self, per_minute: int) -> float:
        """How long until one more fits; 0 if now."""
        return max(0.0, self.used + 1.0 - per_minute) * _MINUTE_SECONDS / per_minute


@dataclass(frozen=True, slots=True)
class Usage:
    """What an actor has used, and of what its limits speak only.

    `spoken_for` are tokens that its running requests may use.
    """

    running: int = 0
    spoken_for: int = 0
    requests: Bucket = Bucket()
    tokens: Bucket = Bucket()
    day: int = 0
    day_tokens: int = 0


def day_of(now_ms: int) -> int:
    """The day of UTC, counted from 1970."""
    return now_ms // DAY_MS


def admit(usage: Usage, limits: ActorLimits, *, now_seconds: float) -> Usage:
    """The usage with one request more, which `release` takes back.

    Raises:
        LocalError: `rate_limited`.
    """
    if limits.concurrency and usage.running >= limits.concurrency:
        raise LocalError(
            f"{usage.running} requests of this caller are running, as many as may.",
            Code.RATE_LIMITED,
            retry_after_seconds=LIMITS.retry_after_seconds,
        )
    requests = usage.requests
    if limits.requests_per_minute:
        requests = requests.at(now_seconds, limits.requests_per_minute)
        wait_seconds = requests.wait_seconds(limits.requests_per_minute)
        if wait_seconds > 0:
            raise LocalError(
                f"This caller may send {limits.requests_per_minute} requests a minute.",
                Code.RATE_LIMITED,
                retry_after_seconds=wait_seconds,
            )
        requests = replace(requests, used=requests.used + 1.0)
    return replace(usage, running=usage.running + 1, requests=requests)


def release(usage: Usage, spoken_for: int) -> Usage:
    """The usage with one request less running, which might have used so many tokens."""
    return replace(
        usage,
        running=max(0, usage.running - 1),
        spoken_for=max(0, usage.spoken_for - spoken_for),
    )


def check_tokens(usage: Usage, limits: ActorLimits, *, now_seconds: float, now_ms: int) -> None:
    """Whether another answer may begin: something is left that no running one may still use.

    Raises:
        LocalError: `over_budget` until the next day, or `rate_limited`.
    """
    used = usage.day_tokens if usage.day == day_of(now_ms) else 0
    if limits.tokens_per_day and used >= limits.tokens_per_day:
        raise LocalError(
            f"This caller has used its {limits.tokens_per_day} tokens of the day.",
            Code.OVER_BUDGET,
            retry_after_seconds=(DAY_MS - now_ms % DAY_MS) / 1000,
        )
    tokens, per_minute = usage.tokens, limits.tokens_per_minute
    if per_minute:
        tokens = tokens.at(now_seconds, per_minute)
        wait_seconds = tokens.wait_seconds(per_minute)
        if wait_seconds > 0:
            raise LocalError(
                f"This caller may use {per_minute} tokens a minute.",
                Code.RATE_LIMITED,
                retry_after_seconds=wait_seconds,
            )
    if (limits.tokens_per_day and used + usage.spoken_for >= limits.tokens_per_day) or (
        per_minute and tokens.used + usage.spoken_for >= per_minute
    ):
        raise LocalError(
            "Running requests of this caller may use all the tokens that it has left.",
            Code.RATE_LIMITED,
            retry_after_seconds=LIMITS.retry_after_seconds,
        )


def spend(
    usage: Usage, limits: ActorLimits, tokens: int, *, now_seconds: float, now_ms: int
) -> Usage:
    """The usage with `tokens` more."""
    bucket, per_minute, today = usage.tokens, limits.tokens_per_minute, day_of(now_ms)
    if per_minute:
        bucket = bucket.at(now_seconds, per_minute)
        bucket = replace(bucket, used=bucket.used + tokens)
    before = usage.day_tokens if usage.day == today else 0
    return replace(usage, tokens=bucket, day=today, day_tokens=before + tokens)


def check_use(
    limits: ActorLimits,
    *,
    model: str,
    called: Collection[Collection[str]],
    capability: str,
    broader: Collection[str],
) -> None:
    """Whether the model and the capability are among those an actor may use.

    Args:
        limits: what the actor is held to.
        model: as the request names it; "" leaves the choice to the node.
        called: every model that it may stand for, each by all its names and ids.
        capability: what is to be done.
        broader: every capability above that one.

    Raises:
        PolicyDeniedError: `denied`.
    """
    allowed = frozenset(limits.capabilities)
    if allowed and capability not in allowed and allowed.isdisjoint(broader):
        raise PolicyDeniedError(f"This caller may not ask for {capability[:80]!r}.")
    if not limits.models:
        return
    if not model:
        raise PolicyDeniedError("This caller has to name the model: it may not use every one.")
    models = frozenset(name.removeprefix(MODEL_URN) for name in limits.models)
    if model.removeprefix(MODEL_URN) in models:
        return
    if not called or any(models.isdisjoint(names) for names in called):
        raise PolicyDeniedError(f"This caller may not use the model {model[:80]!r}.")
