"""A node that stops in order says so to whom it serves."""

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final

import pytest
import trio
from tests.engines.speller import spell
from tests.simulation.harness import eventually
from tests.simulation.test_continuation import PLAIN, PROMPT, same, world
from trio.testing import MockClock

from aigrid.node.app import Node
from aigrid.node.mesh.routing.answer import Answer
from aigrid.node.policy.caller import OPERATOR
from aigrid.protocol.errors import Code, RemoteError
from aigrid.protocol.inference import InferChunk
from aigrid.protocol.limits import LIMITS

pytestmark = pytest.mark.trio
SLOW_SECONDS: Final = LIMITS.drain_seconds / 2  # a chunk


async def test_another_goes_on_where_a_node_stops(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    whole = list(spell(PLAIN, PROMPT.encode()))
    async with world(tmp_path, "a", "b", seconds_per_chunk=SLOW_SECONDS) as made:
        chunks: list[InferChunk] = []
        async with (
            made.asker.router.infer(
                "parrot", PLAIN, request_id="request-1", caller=OPERATOR
            ) as answer,
            trio.open_nursery() as nursery,
        ):
            first = made.sim.nodes[made.names[answer.node]]
            nursery.start_soon(first.node.stop)
            async for batch in answer.chunks:
                chunks.extend(batch)
        assert same(chunks, whole)
        assert [segment.receipted for segment in answer.segments] == [True, True]
        assert first.node.serving.served == 0


async def test_where_nobody_can_go_on_that_is_what_is_said(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path, "a", seconds_per_chunk=SLOW_SECONDS) as made:
        stopping = made.sim.nodes["a"].node
        asked = made.asker.router.infer("parrot", PLAIN, request_id="request-1", caller=OPERATOR)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop_once_it_runs, stopping)
            with pytest.raises(RemoteError) as caught:
                await read(asked)
        assert caught.value.code is Code.SHUTTING_DOWN


async def read(asked: AbstractAsyncContextManager[Answer]) -> None:
    async with asked as answer:
        async for _ in answer.chunks:
            pass


async def stop_once_it_runs(node: Node) -> None:
    await eventually(lambda: node.serving.running == 1, seconds=10)
    await node.stop()
