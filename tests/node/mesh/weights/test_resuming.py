"""Fetches are seen while they come, and go on after a restart or a full disk by themselves."""

import re
import shutil
from typing import NamedTuple

import pytest
import trio
from tests.node.mesh.weights.test_weights import refusal
from tests.simulation.harness import Simulation, eventually
from tests.simulation.heavy import (
    content,
    files_of,
    heavy_grid,
    knows,
    publish_heavy,
    start_heavy,
)

from aigrid.metagraph.local import LocalState
from aigrid.metagraph.store import Store
from aigrid.node.mesh.weights.asked_for import AskedFor, FetchJournal
from aigrid.node.settings.placement import PlacementConfig
from aigrid.node.settings.weights import WeightsConfig
from aigrid.protocol.errors import Code
from aigrid.protocol.limits import DAY, LIMITS, MIB

SLOW = WeightsConfig(upload_bytes_per_second=MIB)
DATA = {"weights.bin": content(12 * MIB)}


class Disk(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
async def sim(tmp_path):
    async with trio.open_nursery() as nursery:
        yield Simulation(25, tmp_path, nursery)
        nursery.cancel_scope.cancel()


async def broken_off(sim, *, askers=None, placement=None):
    """`b` is killed while it fetches a model from `a`."""
    a, b = await heavy_grid(sim, "a", "b", weights=SLOW)
    model = await publish_heavy(sim, "a", DATA)
    manifest = await knows(b, model)
    with trio.move_on_after(6):
        await b.weights.fetch(model, manifest, askers=askers)
    (view,) = b.weights.fetching().values()
    assert 0 < view["bytes"] < view["all_bytes"] == 12 * MIB
    assert view["percent"] == 100 * view["bytes"] // view["all_bytes"]
    assert set(view["holders"]) == {a.identity.did}
    assert view["asked_by"] == ("operator" if askers is None else "placement")
    given = a.weights.giving.given_bytes
    sim.kill("b")
    return a, await start_heavy(sim, "b", incarnation=1, placement=placement), model, given


async def test_what_the_operator_asked_for_goes_on_after_a_restart(sim, autojump_clock):
    a, b, model, given = await broken_off(sim)
    assert b.weights.report()["broken_off"] == [model]
    await eventually(lambda: model in b.models.list(), seconds=120)
    assert files_of(sim, "b", model) == DATA
    assert a.weights.giving.given_bytes - given < 12 * MIB - given + 5 * MIB
    await trio.sleep(1)
    assert b.weights.report()["broken_off"] == []
    assert b.weights.ledger.spent.unasked.fetched == 0
    assert b.weights.ledger.spent.fetched >= 6 * MIB


async def test_what_placement_began_goes_on_where_its_operator_still_lets_it(sim, autojump_clock):
    _, b, model, _ = await broken_off(
        sim, askers=(), placement=PlacementConfig("members", replicas_min=0)
    )
    await eventually(lambda: model in b.models.list(), seconds=120)
    assert b.weights.ledger.spent.unasked.fetched >= 6 * MIB


async def test_what_placement_began_stays_where_its_operator_hosts_nothing_now(sim, autojump_clock):
    _, b, model, _ = await broken_off(sim, askers=(), placement=PlacementConfig("nothing"))
    await trio.sleep(600)
    assert b.models.list() == {}
    assert b.weights.report()["broken_off"] == [model]
    sim.skip_seconds(int(LIMITS.fetch_kept_seconds) + DAY)
    await eventually(lambda: not b.weights.report()["broken_off"], seconds=60)


async def test_what_was_dropped_does_not_go_on(sim, autojump_clock):
    _, b, model, _ = await broken_off(sim, placement=PlacementConfig("nothing"))
    await b.weights.drop(model)
    await trio.sleep(120)
    assert b.models.list() == {}
    assert not b.models.fetching()


async def test_a_full_disk_pauses_fetches_and_what_is_here_is_served_on(
    sim, autojump_clock, monkeypatch
):
    a, b = await heavy_grid(sim, "a", "b", weights=SLOW)
    small = await publish_heavy(sim, "a", {"w": b"small"}, called="small")
    await b.weights.fetch(small, await knows(b, small))
    model = await publish_heavy(sim, "a", DATA)
    manifest = await knows(b, model)
    free = [LIMITS.disk_spare_bytes - 1]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk(1, 1, free[0]))
    await trio.sleep(2 * LIMITS.fetch_resume_seconds)
    paused = b.weights.report()["paused"]
    assert re.match(r"64 MiB have to stay free in .*, 63 MiB are free", paused)
    error = await refusal(b.weights.fetch(model, manifest))
    assert error.code is Code.DATA_DIRECTORY_UNUSABLE
    assert (await sim.ask("b", small, "hello"))[0].strip() == "hello"
    assert small in b.models.list(), "nothing goes where that would not be enough"
    free[0] = 1 << 40
    await eventually(lambda: model in b.models.list(), seconds=120)
    assert b.weights.report()["paused"] == ""
    assert a.weights.giving.given_bytes < 14 * MIB


def test_the_journal_is_bounded_and_read_back():
    local = LocalState(Store())
    journal = FetchJournal(local)
    for number in range(LIMITS.fetches_remembered_max + 5):
        journal.note(f"m{number}", AskedFor("cid", number, ("did",) if number % 2 else None))
    again = FetchJournal(local).all()
    assert again == journal.all()
    assert len(again) == LIMITS.fetches_remembered_max
    assert "m0" not in again
    local.set("weights/asked", '{"m": 5}')
    assert FetchJournal(local).all() == {}
