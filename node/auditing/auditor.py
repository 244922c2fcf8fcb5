"""Checks answers that were drawn, a few at a time, at other holders of the model that gave them."""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog
import trio

from aigrid.metagraph.preferences import ANY, Preferences
from aigrid.node.auditing.case import Case, Work, same, size_bytes, work
from aigrid.node.auditing.room import Room
from aigrid.node.auditing.sampling import examinee, first_checker, is_known, second_checker, share
from aigrid.node.auditing.settling import Check, Settled, settle
from aigrid.node.mesh.routing.answer import Answer, Inference
from aigrid.protocol.errors import AigridError
from aigrid.protocol.inference import Finish, InferChunk
from aigrid.protocol.limits import LIMITS

log = structlog.get_logger()
_CHECKERS_MAX = 6  # of whom two have to say something
_SPARE_BYTES = 1 << 20  # by which a check may be longer than all of an answer and its request


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What an auditor has to know of the rest.

    Attributes:
        own_peer_id: of this node.
        holders: PeerIds of those that offer a model now, by its id, and that a request may prefer.
        same_everywhere: whether a model of that id is the same bytes wherever it is.
        standing: of a node, by PeerId.
        withheld: is told of a node that left out what its answer could be checked by.
        found: is told of a node, model id and capability whether the work was wrong.
        token: a fresh name for a request.
    """

    own_peer_id: str
    holders: Callable[[str, Preferences], Sequence[str]]
    same_everywhere: Callable[[str], bool]
    standing: Callable[[str], float]
    withheld: Callable[[str], None]
    found: Callable[[str, str, str, bool], None]
    token: Callable[[], str]


class Auditor:
    """A service. Nobody waits for it, and what it has no room for is not checked.

    Attributes:
        results: how many answers were found `right` or `wrong`, stayed `unsettled` (nobody else
            could say, or all differ), or were `dropped` for want of room; `withheld` are those that
            came without what they could be checked by.
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
        self.room = Room(LIMITS.audit_held_max_bytes)
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
            and any(holder != node for holder in around.holders(model, ANY))
        )

    def take(self, case: Case) -> None:
        """See `Audits`."""
        try:
            self._send.send_nowait(case)
        except trio.WouldBlock:
            self.room.give(case.held_bytes)
            self.results["dropped"] += 1

    async def run(self, *, task_status: "trio.TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(LIMITS.audit_concurrent_max):
                nursery.start_soon(self._work_off)
            task_status.started()

    async def _work_off(self) -> None:
        async for case in self._receive:
            try:
                await self._audit(case)
            except Exception as error:  # noqa: BLE001 - boundary: what other nodes have answered
                name = type(error).__name__  # without its traceback, which may quote the answer
                log.error("audit_failed", model=case.model, error=name)  # noqa: TRY400 - see there
            finally:
                self.room.give(case.held_bytes)

    async def _audit(self, case: Case) -> None:
        if case.check() is None:
            self._around.withheld(case.node)
            self.results["withheld"] += 1
            return
        asked = [case.node]
        settled = await self._settled(case, asked)
        self._note(case, settled)
        await self._examine(case, settled, asked)

    async def _settled(self, case: Case, asked: list[str]) -> Settled:
        """Who was wrong; whoever is asked is added to `asked`."""
        checks: list[tuple[Check, Work]] = []
        while len(asked) <= _CHECKERS_MAX:
            checker = self._next(case, asked, deciding=bool(checks))
            if checker is None:
                break
            asked.append(checker)
            checked = await self._checked(case, checker)
            if checked is None or checked[0].verdict == "unclear":
                continue
            checks.append(checked)
            alike = len(checks) < 2 or same(checks[0][1], checks[1][1]) == "same"
            settled = settle(case.node, [one for one, _ in checks], alike=alike)
            if settled is not None:
                return settled
        return Settled()

    def _next(self, case: Case, asked: Sequence[str], *, deciding: bool) -> str | None:
        """Who is asked next: this node if it can, else one that is drawn."""
        standings = self._others(case, asked)
        if not standings or self._around.own_peer_id in standings:
            return self._around.own_peer_id if standings else None
        draw = second_checker if deciding else first_checker
        return draw(standings, self._rng)

    def _others(self, case: Case, asked: Sequence[str]) -> dict[str, float]:
        """Holders that may be asked and were not, and their standing."""
        holders = self._around.holders(case.model, case.anybody)
        return {one: self._around.standing(one) for one in holders if one not in asked}

    async def _examine(self, case: Case, settled: Settled, asked: Sequence[str]) -> None:
        """Let one that has no standing check what is known by now.

        Of a text it could say that all is as it should be, and compute nothing: so every second
        time it is given tokens of which nothing is.
        """
        around = self._around
        own, clear = around.own_peer_id, case.node in (*settled.right, *settled.wrong)
        known = any(one == own or is_known(around.standing(one)) for one in asked[1:])
        if not (clear and known):
            return
        one = examinee(self._others(case, asked), self._rng)
        if one is None:
            return
        planted = case.planted() if self._rng.getrandbits(1) else None
        exam = planted or case
        checked = await self._checked(exam, one)
        if checked is None or checked[0].verdict == "unclear":
            return
        wrong = planted is not None or case.node in settled.wrong
        right = (checked[0].verdict == "different") == wrong
        around.found(one, case.model, case.capability, not right)
        log.info("audit_exam", peer=one, model=case.model, right=right)

    async def _checked(self, case: Case, checker: str) -> tuple[Check, Work] | None:
        """What one more holder makes of it; None where it cannot say."""
        request = case.check()
        if request is None:
            return None
        chunks: list[InferChunk] = []
        try:
            async with self._inference.infer(
                case.model,
                request,
                request_id=self._around.token(),
                caller=case.caller,
                preferences=case.prefer(checker),
                criteria=case.criteria,
                patience_seconds=LIMITS.audit_patience_seconds,
            ) as answer:
                await _read(answer, chunks, most_bytes=case.held_bytes + _SPARE_BYTES)
        except AigridError as error:
            log.info("audit_not_answered", model=case.model, code=error.code.value)
            return None
        said = work(chunks)
        if said is None or len(answer.segments) > 1 or answer.node != checker:
            return None
        return Check(checker, case.verdict(said), own=checker == self._around.own_peer_id), said

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


async def _read(answer: Answer, chunks: list[InferChunk], *, most_bytes: int) -> None:
    """A check is not much longer than what it checks; of one that is nothing is left."""
    left_bytes = most_bytes
    async for batch in answer.chunks:
        for chunk in batch:
            left_bytes -= size_bytes(chunk)
            if left_bytes < 0:
                chunks.clear()
                return
            if not isinstance(chunk, Finish):
                chunks.append(chunk)
