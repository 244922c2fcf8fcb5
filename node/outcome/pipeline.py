"""Running a pipeline: each step as soon as what it waits for is there."""

import math
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from aigrid.node.outcome.asking import Outcome
from aigrid.node.outcome.modes import Step
from aigrid.node.outcome.steps import INPUT, Graph, Made
from aigrid.protocol.errors import AigridError

RunStep = Callable[[Step, Any], Awaitable[Outcome]]
"""Asks for a step with its decoded input. Raises AigridError."""


class StepFailedError(Exception):
    """A step that failed, by name; `error` says why, `done` are the outcomes of those before."""

    def __init__(self, step: str, error: AigridError, done: dict[str, Outcome]) -> None:
        super().__init__(step)
        self.step = step
        self.error = error
        self.done = done


async def run(graph: Graph, run_step: RunStep) -> dict[str, Outcome]:
    """The outcome of every step, by name.

    Where one fails, those under way are cancelled.

    Raises:
        StepFailedError: which one, and why.
    """
    made = {INPUT: graph.given}
    outcomes: dict[str, Outcome] = {}
    failed: StepFailedError | None = None
    send, receive = trio.open_memory_channel[tuple[str, Outcome | AigridError]](math.inf)

    async def one(name: str) -> None:
        try:
            found: Outcome | AigridError = await run_step(
                graph.steps[name], graph.input_of(name, made)
            )
        except AigridError as error:
            found = error
        send.send_nowait((name, found))

    waves = graph.waves()
    async with trio.open_nursery() as nursery:
        while waves.is_active() and failed is None:
            for name in waves.get_ready():
                nursery.start_soon(one, name)
            name, found = await receive.receive()
            if isinstance(found, AigridError):
                failed = StepFailedError(name, found, outcomes)
            else:
                outcomes[name] = found
                made[name] = Made(found.reply.value, len(found.reply.output))
                waves.done(name)
        nursery.cancel_scope.cancel()
    if failed is not None:
        raise failed
    return outcomes
