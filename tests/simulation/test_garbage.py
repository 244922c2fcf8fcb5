"""A request that has failed is let go of at once, here and at the node that turned it away."""

from pathlib import Path

import pytest
import trio
from tests.garbage import without_collector
from tests.simulation.test_observing import two
from trio.testing import MockClock

from aigrid.protocol.errors import Code

pytestmark = pytest.mark.trio
WORDS = 500_000


@pytest.mark.parametrize("model", ["near", "far"])
async def test_nothing_of_a_failed_request_waits_for_the_collector(
    tmp_path: Path, autojump_clock: MockClock, model: str
) -> None:
    async with two(tmp_path) as made:
        await made.ask(model, text="short")
        with without_collector(WORDS) as left:
            course = await made.ask(model, text="one " * WORDS)
            await trio.sleep(1)
            assert course.code is Code.CONTEXT_LENGTH_EXCEEDED
            assert left() == []
