"""What is learned of answers, over whole nodes: those that end, break off, and are given up."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.node.mesh.routing.test_router import grid
from trio.testing import MockClock

from aigrid.engines.base import CancelToken
from aigrid.engines.echo import EchoEngine
from aigrid.metagraph.selection import Outcomes
from aigrid.node.app import Node
from aigrid.node.policy.caller import OPERATOR
from aigrid.protocol.errors import AigridError, Code, EngineError
from aigrid.protocol.inference import InferChunk, InferRequest, TextChunk, TextRequest

HELLO = TextRequest(prompt="one two three four five")


class Breaking(EchoEngine):
    """Says a word, and dies; whoever goes on with it fares no better."""

    def infer(self, request: InferRequest, cancel: CancelToken) -> Iterator[InferChunk]:
        yield TextChunk("one", (1,))
        raise EngineError("broken", Code.ENGINE_FAILED)


def learned(asker: Node, model: str) -> Outcomes:
    (holder,) = asker.learning.ledger.peers()
    return asker.learning.outcomes(holder, "text-generation")[model]


async def ask(asker: Node, model: str, *, most: int = 99) -> None:
    async with asker.router.infer(model, HELLO, request_id="request-1", caller=OPERATOR) as answer:
        async for _ in answer.chunks:
            most -= 1
            if not most:
                break


async def test_an_answer_to_its_end_counts_as_served_with_its_latency(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with grid(tmp_path, EchoEngine) as (asker, model):
        for _ in range(2):  # the first is a cold start, which says nothing of the next
            await ask(asker, model)
        found = learned(asker, model)
        assert (round(found.served, 3), found.failed) == (2, 0)
        assert found.latency_ms is not None


async def test_one_that_breaks_off_counts_as_failed(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with grid(tmp_path, Breaking) as (asker, model):
        with pytest.raises(AigridError):
            await ask(asker, model)
        found = learned(asker, model)
        assert found.served == 0
        assert found.failed >= 1


async def test_one_that_is_given_up_counts_as_nothing(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with grid(tmp_path, EchoEngine) as (asker, model):
        await ask(asker, model, most=1)
        assert asker.learning.ledger.peers() == ()
