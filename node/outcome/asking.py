"""How candidates are asked for one outcome: a mode, run over whatever answers. No decisions here.

Who is asked in which order is selection's; what counts as the same answer, or as a sure one, is
`agreement`'s and `confidence`'s. A candidate that fails, is late or says what its contract does not
allow gives its place to the next one; when nobody is left, what went wrong first is raised, with
all who failed.
"""

import math
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import msgspec
import trio

from aigrid.metagraph.selection import Criteria
from aigrid.node.outcome.agreement import Agreement
from aigrid.node.outcome.confidence import confidence
from aigrid.node.outcome.contract import Contract
from aigrid.node.outcome.modes import Cascade, Race, Vote
from aigrid.protocol.errors import (
    AigridError,
    Code,
    EngineError,
    InvalidRequestError,
    NoCandidateError,
)
from aigrid.protocol.inference import InferRequest, TextRequest

_LATE_SECONDS = 1.0  # where nothing was observed yet
_NAMED_MAX = 4


@dataclass(frozen=True, slots=True)
class Want:
    """A checked request of one capability, to be answered by whoever does it best.

    Attributes:
        contract: what was asked for.
        request: as engines understand it.
        criteria: what whoever answers must be, and what counts among those that are.
    """

    contract: Contract
    request: InferRequest
    criteria: Criteria


@dataclass(frozen=True, slots=True)
class Target:
    """A candidate: a PeerId and a model id. `size_bytes`: of the model's files, 0 where unknown."""

    node: str
    model: str
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer.

    Attributes:
        target: who gave it.
        output: JSON text; `value` is the same, decoded.
        logprobs: of its tokens, where the engine told them.
        segments: who produced which part, with receipts; opaque here.
    """

    target: Target
    output: bytes
    value: Any
    logprobs: tuple[float, ...] = ()
    segments: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Failure:
    """A candidate that gave no answer, and why."""

    target: Target
    error: AigridError


@dataclass(slots=True)
class Outcome:
    """What came of it.

    Attributes:
        reply: the answer.
        others: answers that were given beside it; the caller has paid for them too.
        failures: candidates that gave none, in that order.
        told: what the mode has to say of it: who agreed, how sure it is.
    """

    reply: Reply
    others: list[Reply] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    told: dict[str, Any] = field(default_factory=dict)


class Mesh(Protocol):
    """What answers. Both raise AigridError."""

    async def candidates(self, want: Want) -> Sequence[Target]:
        """Who may be asked, the best first; empty where nobody can now."""

    async def ask(self, want: Want, target: Target | None) -> Reply:
        """The answer of one of them; without a `target` of the first that answers."""

    def late_after_seconds(self, target: Target) -> float | None:
        """The time in which 95 % of its answers had come so far; None where there were too few."""


async def fallback(mesh: Mesh, want: Want) -> Outcome:
    """One after the other; the mesh does that by itself, and waits where nobody is there yet."""
    return Outcome(await mesh.ask(want, None))


async def race(mesh: Mesh, want: Want, mode: Race) -> Outcome:
    """Whoever answers first. Another is asked when the last one asked is late, or one has failed.

    Those that failed are none of the `mode.of` that may be under way.
    """
    waiting = deque(await mesh.candidates(want))
    if not waiting:
        return await fallback(mesh, want)
    async with _asking(mesh, want) as asking:
        while waiting or asking.running:
            late_seconds = math.inf
            if waiting and asking.running < mode.of:
                target = waiting.popleft()
                asking.start(target)
                if waiting and asking.running < mode.of:
                    late_seconds = _late_seconds(mesh, target, mode)
            reply = await asking.next(late_seconds)
            if reply is not None:
                asked = len(asking.failures) + asking.running + 1
                return Outcome(reply, [], asking.failures, {"asked": asked})
    raise NobodyAnsweredError(asking.failures)


async def vote(mesh: Mesh, want: Want, mode: Vote) -> Outcome:
    """What enough of them say. Each node has one vote, whatever models it holds."""
    targets = await mesh.candidates(want)
    if not targets:
        await mesh.ask(want, None)  # which says why there is nobody, or waits until somebody is
        targets = await mesh.candidates(want)
    places = {target: n for n, target in enumerate(_one_a_node(targets))}
    waiting = deque(places)
    if len(waiting) < mode.needed:
        raise NoCandidateError(
            f"{len(waiting)} can vote on {want.contract.capability} now, and {mode.needed} must "
            "agree: lower `agree`, or wait until more nodes offer it"
        )
    replies: dict[int, Reply] = {}
    agreement, agreeing = Agreement(), tuple[int, ...]()
    async with _asking(mesh, want) as asking:
        for _ in range(min(mode.of, len(waiting))):
            asking.start(waiting.popleft())
        while asking.running:
            reply = await asking.next(math.inf)
            if reply is None:
                if waiting:
                    asking.start(waiting.popleft())
                continue
            place = places[reply.target]
            replies[place] = reply
            agreement.add(place, reply.value)
            best, agreeing = agreement.most()
            if len(agreeing) >= mode.needed:
                others = [replies[n] for n in sorted(replies) if n != best]
                told = {
                    "asked": len(replies) + asking.running,
                    "answered": len(replies),
                    "agreed": len(agreeing),
                    "needed": mode.needed,
                    "dissenting": [
                        {"node": replies[n].target.node, "model": replies[n].target.model}
                        for n in sorted(replies)
                        if n not in agreeing
                    ],
                }
                return Outcome(replies[best], others, asking.failures, told)
    if not replies:
        raise NobodyAnsweredError(asking.failures)
    raise NoAgreementError(len(agreeing), len(replies), mode.needed, asking.failures)


async def cascade(mesh: Mesh, want: Want, mode: Cascade) -> Outcome:
    """The smallest model first; a larger one while the answer is not sure enough.

    The last answer counts, however sure, of those that say how sure they are. Of several holders
    of one model the best is asked, and the next where that fails. How large a model behind a server
    is nobody knows: such ones come last.
    """
    if isinstance(want.request, TextRequest) and want.request.top_logprobs is None:
        request = msgspec.structs.replace(want.request, top_logprobs=0)
        want = replace(want, request=request)  # by which a text says how sure it is
    by_model: dict[str, list[Target]] = {}
    for target in await mesh.candidates(want):
        by_model.setdefault(target.model, []).append(target)
    models = sorted(by_model.values(), key=lambda found: _size_order(found[0]))
    if not models:
        return await fallback(mesh, want)
    found, replies = None, list[Reply]()
    failures: list[Failure] = []
    steps: list[dict[str, Any]] = []
    for holders in models[: mode.of]:
        reply = await _first_of(mesh, want, holders, failures)
        if reply is None:
            continue
        sure = confidence(reply.value, reply.logprobs)
        replies.append(reply)
        steps.append({"model": reply.target.model, "confidence": sure})
        if sure is not None:
            found = reply
            if sure >= mode.confidence:
                break
    if not replies:
        raise NobodyAnsweredError(failures)
    if found is None:
        raise InvalidRequestError(
            f"No answer of {want.contract.capability} says how sure it is, so no cascade can be "
            "built on them: use another mode, such as `vote`.",
            Code.UNSUPPORTED_PARAMETER,
            param="mode",
        )
    others = [one for one in replies if one is not found]
    return Outcome(found, others, failures, {"steps": steps})


class NobodyAnsweredError(AigridError):
    """All that were asked failed: the code is that of the first. `failures`: one at least."""

    def __init__(self, failures: Sequence[Failure]) -> None:
        first = failures[0].error
        super().__init__(
            f"{first.message.rstrip('.')}. {_who_failed(failures)}",
            first.code,
            retry_after_seconds=first.retry_after_seconds,
        )
        self.failures = tuple(failures)
        self.param: str | None = getattr(first, "param", None)
        self.progress: dict[str, Any] | None = getattr(first, "progress", None)


class NoAgreementError(EngineError):
    """Those that answered do not say the same. `failures`: those that gave no answer."""

    def __init__(
        self, agreed: int, answered: int, needed: int, failures: Sequence[Failure] = ()
    ) -> None:
        beside = f" {_who_failed(failures)}" if failures else ""
        super().__init__(
            f"Of {answered} answers {agreed} say the same, and {needed} must: "
            f"lower `agree`, or raise `of`.{beside}",
            Code.NO_AGREEMENT,
        )
        self.failures = tuple(failures)


@asynccontextmanager
async def _asking(mesh: Mesh, want: Want) -> "AsyncIterator[_Asking]":
    """Leaving cancels those that have not answered."""
    async with trio.open_nursery() as nursery:
        try:
            yield _Asking(nursery, lambda target: mesh.ask(want, target))
        finally:
            nursery.cancel_scope.cancel()


class _Asking:
    """Candidates that are asked at once. `running`: how many of them have not answered yet."""

    def __init__(self, nursery: trio.Nursery, ask: Callable[[Target], Awaitable[Reply]]) -> None:
        self._nursery = nursery
        self._ask = ask
        self._send, self._receive = trio.open_memory_channel[Reply | Failure](math.inf)
        self.running = 0
        self.failures: list[Failure] = []

    def start(self, target: Target) -> None:
        self.running += 1
        self._nursery.start_soon(self._run, target)

    async def next(self, seconds: float) -> Reply | None:
        """The next answer; None where one has failed, or none has come in time."""
        with trio.move_on_after(seconds):
            found = await self._receive.receive()
            self.running -= 1
            if isinstance(found, Reply):
                return found
            self.failures.append(found)
        return None

    async def _run(self, target: Target) -> None:
        try:
            found: Reply | Failure = await self._ask(target)
        except AigridError as error:
            found = Failure(target, error)
        self._send.send_nowait(found)


async def _first_of(
    mesh: Mesh, want: Want, holders: Iterable[Target], failures: list[Failure]
) -> Reply | None:
    for target in holders:
        try:
            return await mesh.ask(want, target)
        except AigridError as error:
            failures.append(Failure(target, error))
    return None


def _who_failed(failures: Sequence[Failure]) -> str:
    shown = ", ".join(f"{one.target.node} ({one.error.code})" for one in failures[:_NAMED_MAX])
    more = len(failures) - _NAMED_MAX
    return f"Failed: {shown} and {more} more." if more > 0 else f"Failed: {shown}."


def _late_seconds(mesh: Mesh, target: Target, mode: Race) -> float:
    if mode.after_ms is not None:
        return mode.after_ms / 1000
    known = mesh.late_after_seconds(target)
    return _LATE_SECONDS if known is None else known


def _size_order(target: Target) -> tuple[bool, int, str]:
    return target.size_bytes == 0, target.size_bytes, target.model


def _one_a_node(targets: Iterable[Target]) -> list[Target]:
    by_node: dict[str, Target] = {}
    for target in targets:
        by_node.setdefault(target.node, target)
    return list(by_node.values())
