"""What nodes do at random times: ask, whatever becomes of it, and issue records."""

import random
from collections.abc import Callable, Container
from contextlib import suppress
from dataclasses import dataclass

import trio
from scripts.simulation.world import SimNode

from aigrid.metagraph.selection import ANYTHING, STRATEGIES, Criteria, Filters
from aigrid.node.policy.caller import OPERATOR
from aigrid.protocol.errors import AigridError, VerificationError
from aigrid.protocol.inference import ChatMessage, TextChunk, TextRequest
from aigrid.protocol.kinds import CapabilityBody, Kind
from aigrid.protocol.record import Record

CAPABILITY = "text-generation"
RECORD_MS = 600_000
# Beyond patience: loading, a silent node, the answer itself. Who has waited longer gives up.
ANSWER_SECONDS = 60.0
NAMES = 4
AFRESH = 4
WITHDRAWN_EVERY = 5
"""Every so manieth record is withdrawn instead, if its speaker has said it."""
# Every so manieth record is one that soon ends, under a key of its own that begins so.
BRIEF_EVERY, BRIEF, BRIEF_SECONDS = 3, "moment-", (3.0, 20.0)


@dataclass(slots=True)
class Request:
    """One request; `outcome` is "" until it is over, then "ok", a code, or one of two others.

    These are "asker_killed", and "unanswered" where the asker gave up waiting.

    Attributes:
        began_seconds, took_seconds: virtual ones.
        node: name of who answered, "" where nobody did.
        right: whether the answer was what the model says.
        receipts: ids of those that hold, one for each node that answered a part.
    """

    number: int
    asker: str
    began_seconds: float
    after: bool
    outcome: str = ""
    took_seconds: float = 0.0
    node: str = ""
    attempts: int = 0
    right: bool = True
    receipts: tuple[str, ...] = ()


class Workload:
    """Asks from the nodes that `askers` names, in a `nursery` of its own."""

    def __init__(
        self,
        rng: random.Random,
        askers: Callable[[], list[SimNode]],
        name_of: Callable[[str], str],
        *,
        models: tuple[str, ...],
        words: int,
        by_capability: bool,
        patience_seconds: float,
        done: Callable[[Request], None],
    ) -> None:
        self._rng = rng
        self._askers = askers
        self._name_of = name_of
        self._models = models
        self._words = words
        self._by_capability = by_capability
        self._patience_seconds = patience_seconds
        self._done = done
        self.requests: list[Request] = []

    async def run(self, rate: float, seconds: float, *, after: bool = False) -> None:
        """Ask for so long, and wait for the last answer."""
        deadline = trio.current_time() + seconds
        async with trio.open_nursery() as nursery:
            while rate:
                pause = self._rng.expovariate(rate)
                if trio.current_time() + pause >= deadline:
                    break
                await trio.sleep(pause)
                askers = self._askers()
                if askers:
                    self._start(nursery, self._rng.choice(askers), after=after)
            await trio.sleep_until(deadline)

    def _start(self, nursery: trio.Nursery, asker: SimNode, *, after: bool) -> None:
        number = len(self.requests)
        request = Request(number, asker.name, trio.current_time(), after)
        self.requests.append(request)
        text = " ".join(f"word{number}-{n}" for n in range(self._words))
        model = "" if self._by_capability else self._rng.choice(self._models)
        nursery.start_soon(self._ask, request, asker, model, text)

    async def _ask(self, request: Request, asker: SimNode, model: str, text: str) -> None:
        request.outcome = "unanswered"
        with trio.move_on_after(self._patience_seconds + ANSWER_SECONDS + 1):
            try:
                said = await self._answer(request, asker, model, text)
                request.outcome, request.right = "ok", said.strip() == text
            except AigridError as error:
                request.outcome = error.code.value
        if asker.scope.cancel_called:
            request.outcome = "asker_killed"
        request.took_seconds = trio.current_time() - request.began_seconds
        self._done(request)

    async def _answer(self, request: Request, asker: SimNode, model: str, text: str) -> str:
        node, parts = asker.node, list[str]()
        criteria = Criteria(Filters(capability=CAPABILITY), STRATEGIES["balanced"])
        async with node.audited.infer(
            model,
            TextRequest(messages=(ChatMessage("user", text),)),
            request_id=node.new_request_id(),
            caller=OPERATOR,
            capability="" if model else CAPABILITY,
            criteria=ANYTHING if model else criteria,
            patience_seconds=self._patience_seconds,
        ) as answer:
            async for batch in answer.chunks:
                parts += [chunk.text for chunk in batch if isinstance(chunk, TextChunk)]
            request.node, request.attempts = self._name_of(answer.node), answer.attempts
            request.receipts = tuple(one.receipt for one in answer.segments if one.receipted)
        return "".join(parts)


async def publish(
    rng: random.Random, speakers: Callable[[], list[SimNode]], rate: float, seconds: float
) -> None:
    """For so long, issue capabilities anew; a node has but a few, so that most replace others.

    Every third is a new one that soon ends.
    """
    deadline, number = trio.current_time() + seconds, 0
    while rate:
        await trio.sleep(rng.expovariate(rate))
        if trio.current_time() >= deadline:
            return
        found, number = speakers(), number + 1
        if not found:
            continue
        one = rng.choice(found)
        if number % BRIEF_EVERY and not number % WITHDRAWN_EVERY:
            withdraw(one, f"skill-{rng.randrange(NAMES)}")
        elif number % BRIEF_EVERY:
            say(one, f"skill-{rng.randrange(NAMES)}", RECORD_MS)
        else:
            say(one, f"{BRIEF}{number}", round(1000 * _brief_seconds(rng, one)))


def _brief_seconds(rng: random.Random, one: SimNode) -> float:
    """Of somebody who lives in the past, some last until now and a little longer."""
    behind = max(0.0, -one.clock.skew_seconds)
    return rng.uniform(*BRIEF_SECONDS) + rng.choice((0.0, behind))


def say(one: SimNode, name: str, ttl_ms: int) -> Record | None:
    """Issue a capability; None where the node's clock was set back, and it knows better."""
    node = one.node
    iri = f"{node.identity.did}#{name}"
    body = CapabilityBody(
        id=iri, broader=(CAPABILITY,), labels={"en": f"{name} at {node.now_ms()}"}
    )
    with suppress(VerificationError):
        return node.graph.issue(
            Kind.CAPABILITY, body, node.identity, now_ms=node.now_ms(), ttl_ms=ttl_ms
        )
    return None


def withdraw(one: SimNode, name: str) -> Record | None:
    """Take a capability back; None where there is nothing to take back, or as `say` has it."""
    node = one.node
    iri = f"{node.identity.did}#{name}"
    with suppress(VerificationError):
        return node.graph.withdraw(Kind.CAPABILITY, iri, node.identity, now_ms=node.now_ms())
    return None


def say_afresh(rng: random.Random, nodes: list[SimNode], surely: Container[str]) -> None:
    """A few of them, and those with these names, say and withdraw what all have to hear of."""
    few = {one.name for one in rng.sample(nodes, min(AFRESH, len(nodes)))}
    for one in nodes:
        if one.name in few or one.name in surely:
            say(one, f"afresh-{one.name}", RECORD_MS)
            names = (f"skill-{number}" for number in range(NAMES))
            if not any(withdraw(one, name) for name in names):
                say(one, "mistake", RECORD_MS)
                withdraw(one, "mistake")
