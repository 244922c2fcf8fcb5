"""A request of a capability from its body to its answer, without HTTP."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from aigrid.node.gateway.capabilities.grid import Grid, Known
from aigrid.node.gateway.core import GatewayCore
from aigrid.node.gateway.patience import Wish
from aigrid.node.gateway.told import OutcomeError, failures_object
from aigrid.node.outcome import asking, pipeline
from aigrid.node.outcome.asking import Outcome, Reply
from aigrid.node.outcome.contracts import Contracts
from aigrid.node.outcome.modes import Cascade, Race, Step, Vote
from aigrid.node.outcome.pipeline import StepFailedError
from aigrid.node.outcome.request import Asked, Body, asked, check_steps, step_asked
from aigrid.node.outcome.steps import FIRST, Graph
from aigrid.node.policy.metering import Visit
from aigrid.protocol.errors import AigridError


class Outcomes:
    """What can be asked for here, and asking for it."""

    def __init__(self, core: GatewayCore, contracts: Contracts, known: Known) -> None:
        self.contracts = contracts
        self._core = core
        self._known = known

    async def ask(
        self,
        capability: str,
        body: Body,
        *,
        request_id: str,
        visit: Visit,
        wish: Wish | None = None,
    ) -> dict[str, Any]:
        """The answer to a body, as it is sent: `output` and `aigrid`.

        Raises:
            AigridError: what is wrong with the request, or with everybody who was asked. Of a
                pipeline it names the step. An OutcomeError where answers were given all the same,
                or a mode says who failed.
        """
        contract = self.contracts.of(capability)
        found = asked(contract, body)
        if found.graph is not None:  # before anything is asked that would be in vain
            check_steps(found.graph, self.contracts.of)
        grid = Grid(self._core, self._known, request_id, visit, wish)
        try:
            return await self._outcome(grid, found)
        except StepFailedError as failed:
            raise OutcomeError(failed.error, grid.paid, prefix=f"Step {failed.step!r}: ") from None
        except AigridError as error:
            unmet = OutcomeError(error, grid.paid)
            if not (unmet.segments or unmet.failures):
                raise
            raise unmet from None

    async def _outcome(self, grid: Grid, found: Asked) -> dict[str, Any]:
        if found.graph is not None:
            return await self._pipeline(grid, found, found.graph)
        outcome = await _run(grid, found)
        return {
            "output": msgspec.Raw(outcome.reply.output),
            "aigrid": {**_said(grid, found, outcome), **self._cost(grid.request_id)},
        }

    async def _pipeline(self, grid: Grid, first: Asked, graph: Graph) -> dict[str, Any]:
        said: dict[str, dict[str, Any]] = {}

        async def run_step(step: Step, value: Any) -> Outcome:
            contract = self.contracts.of(step.capability)
            wanted = first if step.name == FIRST else step_asked(contract, step, value, seed)
            own = grid.for_step()
            outcome = await _run(own, wanted)
            said[step.name] = {
                "output": msgspec.Raw(outcome.reply.output),
                **_said(own, wanted, outcome, explain=first.explain),
            }
            return outcome

        seed = first.want.criteria.seed
        outcomes = await pipeline.run(graph, run_step)
        last = outcomes[graph.output]
        replies = [one for done in outcomes.values() for one in (done.reply, *done.others)]
        return {
            "output": msgspec.Raw(last.reply.output),
            "aigrid": {
                "node": last.reply.target.node,
                "model": last.reply.target.model,
                "mode": "pipeline",
                **_made_by(replies),
                "steps": {name: said[name] for name in graph.steps},
                **self._cost(grid.request_id),
            },
        }

    def _cost(self, request_id: str) -> dict[str, Any]:
        """As it stands now, of all who were asked."""
        course = self._core.course(request_id)
        return {"attempts": course.attempts, "overhead_ms": course.overhead_ms}


async def _run(grid: Grid, wanted: Asked) -> Outcome:
    want, mode = wanted.want, wanted.mode
    if isinstance(mode, Race):
        return await asking.race(grid, want, mode)
    if isinstance(mode, Vote):
        return await asking.vote(grid, want, mode)
    if isinstance(mode, Cascade):
        return await asking.cascade(grid, want, mode)
    return await asking.fallback(grid, want)


def _said(
    grid: Grid, wanted: Asked, outcome: Outcome, *, explain: bool = False
) -> Mapping[str, Any]:
    """The `aigrid` object: who answered, how that came, and what was known of everybody."""
    target = outcome.reply.target
    return {
        "node": target.node,
        "model": target.model,
        "mode": type(wanted.mode).__name__.lower(),
        **outcome.told,
        **_made_by([outcome.reply, *outcome.others]),
        **failures_object(outcome.failures),
        **({"explain": grid.explained} if wanted.explain or explain else {}),
    }


def _made_by(replies: Sequence[Reply]) -> dict[str, Any]:
    segments = [segment for reply in replies for segment in reply.segments]
    return {
        "segments": [msgspec.to_builtins(one) for one in segments],
        "receipts": [one.receipt for one in segments if one.receipt],
    }
