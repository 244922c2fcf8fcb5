"""Who is at work here now, and what they have used: the state around `limits`."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import structlog
import trio

from aigrid.node.discovery.grid import NowMs
from aigrid.node.policy import limits
from aigrid.node.policy.api_keys import Actor, ApiKeys
from aigrid.node.policy.caller import Caller
from aigrid.node.policy.limits import NO_LIMITS, ActorLimits, Usage
from aigrid.protocol.errors import AigridError, PolicyDeniedError

_log = structlog.get_logger("aigrid.gateway")


class Visit:
    """One request of a caller: asked before it uses anything, told what it has used.

    Without an actor there are no limits: the operator's own callers.
    """

    def __init__(
        self, caller: Caller, actor: Actor | None = None, meter: "Meter | None" = None
    ) -> None:
        self.caller = caller
        self.actor = actor
        self.spent = 0
        self.spoken_for = 0
        self._meter = meter

    @property
    def limits(self) -> ActorLimits:
        """What the caller is held to."""
        return NO_LIMITS if self.actor is None else self.actor.limits

    def may_begin(
        self,
        model: str,
        called: Collection[Collection[str]],
        capability: str,
        broader: Collection[str],
        *,
        most: int = 0,
    ) -> None:
        """Whether an answer may begin; see `limits.check_use` and `limits.check_tokens`.

        `most` is what it may cost: others that run at the same time have to do without.

        Raises:
            PolicyDeniedError: `denied`.
            LocalError: `rate_limited` or `over_budget`.
        """
        if self.actor is None or self._meter is None:
            return
        limits.check_use(
            self.limits, model=model, called=called, capability=capability, broader=broader
        )
        self._meter.check_tokens(self.actor)
        self.spoken_for += most
        self._meter.speak_for(self.actor, most)

    def may_operate(self) -> None:
        """Raise PolicyDeniedError (`denied`) unless the caller may load and unload models here."""
        if self.actor is not None and not self.limits.operates:
            raise PolicyDeniedError(
                "This caller may not operate the node: its key was made without --operates."
            )

    def spend(self, tokens: int) -> None:
        """Charge tokens to the caller."""
        self.spent += tokens
        if tokens and self.actor is not None and self._meter is not None:
            self._meter.spend(self.actor, tokens)


class Meter:
    """The usage of all actors. Rates are of this process, the tokens of the day outlive it."""

    def __init__(self, keys: ApiKeys, *, now_ms: NowMs) -> None:
        self._keys = keys
        self._now_ms = now_ms
        self._usage: dict[str, Usage] = {}

    @contextmanager
    def visit(self, caller: Caller, actor: Actor | None) -> Iterator[Visit]:
        """A request of `actor` while it runs.

        Raises:
            LocalError: `rate_limited`.
        """
        if actor is None:
            yield Visit(caller)
            return
        usage = self.usage(actor)
        self._usage[actor.id] = limits.admit(usage, actor.limits, now_seconds=trio.current_time())
        visit = Visit(caller, actor, self)
        try:
            yield visit
        finally:
            self._leave(actor, visit)

    def usage(self, actor: Actor) -> Usage:
        """What an actor has used."""
        found = self._usage.get(actor.id)
        return self._keys.usage(actor) if found is None else found

    def day_tokens(self, actor: Actor) -> int:
        """What it has used today."""
        usage = self.usage(actor)
        return usage.day_tokens if usage.day == limits.day_of(self._now_ms()) else 0

    def check_tokens(self, actor: Actor) -> None:
        """Raises LocalError: `rate_limited` or `over_budget`."""
        now_seconds, now_ms = trio.current_time(), self._now_ms()
        usage = self.usage(actor)
        limits.check_tokens(usage, actor.limits, now_seconds=now_seconds, now_ms=now_ms)

    def speak_for(self, actor: Actor, tokens: int) -> None:
        """An answer has begun that may use so many tokens."""
        usage = self.usage(actor)
        self._usage[actor.id] = replace(usage, spoken_for=usage.spoken_for + tokens)

    def spend(self, actor: Actor, tokens: int) -> None:
        """Charge tokens to an actor."""
        now_seconds, now_ms = trio.current_time(), self._now_ms()
        self._usage[actor.id] = limits.spend(
            self.usage(actor), actor.limits, tokens, now_seconds=now_seconds, now_ms=now_ms
        )

    def counts(self) -> Mapping[str, int]:
        """Requests running now, by the actor's id."""
        return {id_: usage.running for id_, usage in self._usage.items() if usage.running}

    def _leave(self, actor: Actor, visit: Visit) -> None:
        usage = self._usage[actor.id] = limits.release(self.usage(actor), visit.spoken_for)
        if visit.spent:
            try:
                self._keys.keep_usage(actor, usage)
            except AigridError as error:  # the answer is out; the next one may be kept
                _log.warning("usage_not_kept", actor=actor.id, code=error.code.value)
        if not usage.running and not self._keys.holds(actor):
            del self._usage[actor.id]
