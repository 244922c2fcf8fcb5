"""What a node says about itself."""

from pathlib import Path

import pytest
import trio
from tests.simulation.harness import START_MS, Simulation, eventually
from trio.testing import MockClock

from aigrid.node.commands.status import status_of
from aigrid.protocol.timestamp import format_ms


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
        assert status_of(node)["tasks"] == trio.lowlevel.current_statistics().tasks_living
        nursery.cancel_scope.cancel()


async def test_status_says_until_when_members_are_served(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        sim = Simulation(1, tmp_path, nursery)
        node = (await sim.start("one")).node
        await trio.sleep(1)
        said = status_of(node)["revocations"]
        assert said["delegates"] == 0
        assert said["known_until"] == format_ms(START_MS)
        assert said["members_served_until"] == format_ms(START_MS + 86_400_000)
        nursery.cancel_scope.cancel()
