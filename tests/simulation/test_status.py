"""What a node says about itself."""

from pathlib import Path

import pytest
import trio
from tests.simulation.harness import Simulation, eventually
from trio.testing import MockClock

from aigrid.node.status import status_of


async def test_status_counts_records_without_reading_them(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with trio.open_nursery() as nursery:
        sim = Simulation(1, tmp_path, nursery)
        node = (await sim.start("one")).node
        await sim.publish_echo("one", "parrot")
        await eventually(node.router.models, seconds=30)
        expected = len(node.graph.live_records(node.now_ms()))
        monkeypatch.setattr(node.graph, "live_records", None)  # reads, and decodes, all of them
        assert status_of(node)["records"] == expected == 5
        nursery.cancel_scope.cancel()
