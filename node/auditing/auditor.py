"""Checks answers that were drawn, a few at a time, at other holders of the model that gave them."""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog
import trio

from aigrid.metagraph.preferences import Preferences
from aigrid.node.auditing.case import Case, Work, same, work
from aigrid.node.auditing.sampling import first_checker, second_checker, share
from aigrid.node.auditing.settling import Check, Settled, settle
from aigrid.node.mesh.routing.answer import Answer, Inference
from aigrid.protocol.errors import AigridError
from aigrid.protocol.inference import Finish, InferChunk, InferRequest
from aigrid.protocol.limits import LIMITS

log = structlog.get_logger()
_CHECKERS_MAX = 4  # of whom two have to say something
_SEED_BITS = 53  # what JSON carries exactly


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What an auditor has to know of the rest.

    Attributes:
        own_peer_id: of this node.
        holders: PeerIds of those that offer a model now, by its id.
        same_everywhere: whether a model of that id is the same bytes wherever it is.
        standing: of a node, by PeerId.
        found: is told of a node, model id and capability whether the work was wrong.
        token: a fresh name for a request.
    """

    own_peer_id: str
    holders: Callable[[str], Sequence[str]]
    same_everywhere: Callable[[str], bool]
    standing: Callable[[str], float]
    found: Callable[[str, str, str, bool], None]
    token: Callable[[], str]


class Auditor:
    """A service. Nobody waits for it, and what it has no room for is not checked.

    Attributes:
        results: how many answers were found `right` or `wrong`, stayed `unsettled` (nobody else
            could say, or all differ), or were `dropped` for want of room.
    """

    def __init__(
        self, inference: Inference, around: Surroundings, *, least_share: float, rng: random.Random
    ) -> None:
        """`least_share`: of the answers of a node of full standing; 0 for no audits."""
        self._inference = inference
        self._around = around
        self._least = least_share
        self._most = share(0.0, least_share)
        self._rng = rng
        self._send, self._receive = trio.open_memory_channel[Case](LIMITS.audit_queue_max)
        self.results: Counter[str] = Counter()

    @property
    def on(self) -> bool:
        """Whether anything is checked."""
        return self._least > 0

    def drawn(self) -> float | None:
        """See `Audits`."""
        if not self.on:
            return None
        drawn = self._rng.random()
        return drawn if drawn < self._most else None

    def wants(self, node: str, model: str, drawn: float) -> bool:
        """See `Audits`. Only what more than one holds can be checked, and oneself is not."""
        around = self._around
        return (
            node != around.own_peer_id
            and drawn < share(around.standing(node), self._least)
            and around.same_everywhere(model)
            and any(holder != node for holder in around.holders(model))
        )

    def seed(self) -> int:
        """See `Audits`."""
        return self._rng.getrandbits(_SEED_BITS)

    def take(self, case: Case) -> None:
        """See `Audits`."""
        try:
            self._send.send_nowait(case)
        except trio.WouldBlock:
            self.results["dropped"] += 1

    async def run(self, *, task_status: "trio.TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(LIMITS.audit_concurrent_max):
                nursery.start_soon(self._work_off)
            task_status.started()

    async def _work_off(self) -> None:
        async for case in self._receive:
            settled = await self._settled(case)
            self._note(case, settled)

    async def _settled(self, case: Case) -> Settled:
        request = case.check()
        checks: list[tuple[Check, Work]] = []
        asked = [case.node]
        while request is not None and len(asked) <= _CHECKERS_MAX:
            order = self._order(case.model, asked, deciding=bool(checks))
            if not order:
                break
            checked = await self._checked(case, request, case.prefer(asked, order))
            if checked is None:
                asked.append(order[0])  # or an accomplice could end any audit
                continue
            check, _ = checked
            asked.append(check.node)
            if check.verdict != "unclear":
                checks.append(checked)
            alike = len(checks) < 2 or same(checks[0][1], checks[1][1]) == "same"
            settled = settle(case.node, [one for one, _ in checks], alike=alike)
            if settled is not None:
                return settled
        return Settled()

    def _order(self, model: str, asked: Sequence[str], *, deciding: bool) -> list[str]:
        """Who is asked next: this node if it can, else one that is drawn, then whoever there is."""
        own = self._around.own_peer_id
        holders = {one for one in self._around.holders(model) if one not in asked}
        if not holders or own in holders:
            return [own, *sorted(holders - {own})] if holders else []
        standings = {one: self._around.standing(one) for one in holders}
        draw = second_checker if deciding else first_checker
        drawn = draw(standings, self._rng)
        return [drawn, *sorted(holders - {drawn})]

    async def _checked(
        self, case: Case, request: InferRequest, preferences: Preferences
    ) -> tuple[Check, Work] | None:
        """What one more holder makes of it; None where none is there, or none can say."""
        chunks: list[InferChunk] = []
        try:
            async with self._inference.infer(
                case.model,
                request,
                request_id=self._around.token(),
                caller=case.caller,
                preferences=preferences,
                criteria=case.criteria,
                patience_seconds=LIMITS.audit_patience_seconds,
            ) as answer:
                await _read(answer, chunks)
        except AigridError as error:
            log.info("audit_not_answered", model=case.model, code=error.code.value)
            return None
        said = work(chunks)
        if said is None or len(answer.segments) > 1:
            return None
        own = answer.node == self._around.own_peer_id
        return Check(answer.node, case.verdict(said), own=own), said

    def _note(self, case: Case, settled: Settled) -> None:
        for nodes, wrong in ((settled.right, False), (settled.wrong, True)):
            for node in nodes:
                self._around.found(node, case.model, case.capability, wrong)
        named = {True: "wrong", False: "right"}
        known = case.node in (*settled.right, *settled.wrong)
        result = named[case.node in settled.wrong] if known else "unsettled"
        self.results[result] += 1
        log.info(
            "audit_settled",
            peer=case.node,
            model=case.model,
            result=result,
            wrong=list(settled.wrong),
        )


async def _read(answer: Answer, chunks: list[InferChunk]) -> None:
    async for batch in answer.chunks:
        chunks += (chunk for chunk in batch if not isinstance(chunk, Finish))
