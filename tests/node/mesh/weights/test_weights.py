"""Models on their way between whole nodes in virtual time: fetched, given on, kept, let go."""

from dataclasses import replace
from typing import Any

import pytest
import trio
from tests.simulation.harness import Simulation, eventually
from tests.simulation.heavy import (
    HeavyEcho,
    content,
    files_of,
    heavy_grid,
    knows,
    manifest_of,
    publish_heavy,
    start_heavy,
)

from aigrid.node.settings.weights import WeightsConfig
from aigrid.protocol.errors import AigridError, Code, LocalError, UsageError
from aigrid.protocol.limits import MIB

DATA = {"weights.bin": content(5 * MIB + 17), "tokens.txt": b"hello", "nothing.txt": b""}
SLOW = WeightsConfig(upload_bytes_per_second=MIB)


@pytest.fixture
async def sim(tmp_path):
    async with trio.open_nursery() as nursery:
        yield Simulation(21, tmp_path, nursery)
        nursery.cancel_scope.cancel()


async def refusal(awaitable):
    with pytest.raises(AigridError) as caught:
        await awaitable
    return caught.value


async def test_a_model_is_fetched_offered_and_given_on(sim, autojump_clock):
    _, b, c = await heavy_grid(sim, "a", "b", "c")
    model = await publish_heavy(sim, "a", DATA)
    manifest = await knows(b, model)
    said = []

    async def progress(text):
        said.append(text)
        await trio.lowlevel.checkpoint()

    await b.weights.fetch(model, manifest, progress=progress)
    assert any("% of 6 MiB from 1 node" in text for text in said)
    assert files_of(sim, "b", model) == DATA
    assert [(o.model, o.manifest) for o in b.hosting.offers()] == [(model, manifest.content_id)]
    assert b.weights.fetching() == {}
    await eventually(lambda: len(c.weights.holders(model)) == 2, seconds=60)
    sim.kill("a")
    await eventually(lambda: c.weights.holders(model) == (b.identity.did,), seconds=60)
    await c.weights.fetch(model, manifest)
    assert files_of(sim, "c", model) == DATA
    assert (await sim.ask("c", model, "hello"))[0].strip() == "hello"


async def test_several_holders_give_at_once(sim, autojump_clock):
    nodes = await heavy_grid(sim, "a", "b", "c", "d", weights=SLOW)
    model = await publish_heavy(sim, "a", {"weights.bin": content(24 * MIB)})
    for node in nodes[1:3]:
        await node.weights.fetch(model, await knows(node, model))
    manifest = await knows(nodes[3], model, holders=3)
    before = [node.weights.giving.given_bytes for node in nodes]
    began = trio.current_time()
    await nodes[3].weights.fetch(model, manifest)
    seconds = trio.current_time() - began
    gave = [node.weights.giving.given_bytes - b for node, b in zip(nodes, before, strict=True)]
    assert all(given >= 5 * MIB for given in gave[:3])
    assert sum(gave) <= 28 * MIB, "few chunks are sent twice"
    assert seconds < 12, "three upload caps are three times as fast as one"


async def test_a_fetch_is_one_for_all_and_outlives_who_asked(sim, autojump_clock):
    a, b = await heavy_grid(sim, "a", "b", weights=SLOW)
    model = await publish_heavy(sim, "a", DATA)
    manifest = await knows(b, model)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(b.weights.fetch, model, manifest)
        nursery.start_soon(b.weights.fetch, model, manifest)
        await trio.sleep(2)
        assert "%" in b.weights.progress(model)
        nursery.cancel_scope.cancel()
    await b.weights.fetch(model, manifest)
    assert files_of(sim, "b", model) == DATA
    assert a.weights.giving.given_bytes < 7 * MIB


async def test_a_restart_goes_on_where_it_was(sim, autojump_clock):
    a, b = await heavy_grid(sim, "a", "b", weights=SLOW)
    size = 24 * MIB
    model = await publish_heavy(sim, "a", {"weights.bin": content(size)})
    manifest = await knows(b, model)
    with trio.move_on_after(12):
        await b.weights.fetch(model, manifest)
    sim.kill("b")
    given = a.weights.giving.given_bytes
    assert size // 3 < given < size
    b = await start_heavy(sim, "b", incarnation=1)
    assert b.models.list() == {}
    manifest = await knows(b, model)
    await b.weights.fetch(model, manifest)
    received = b.weights.report()["received_bytes"]
    assert received < size - given + 5 * MIB, "at most what was on the wire is sent again"
    assert files_of(sim, "b", model) == {"weights.bin": content(size)}
    assert not b.models.fetching()


async def test_what_a_power_cut_took_is_fetched_again(sim, autojump_clock):
    """The journal claims chunks that are not on the disk, and others that there are none of."""
    _, b = await heavy_grid(sim, "a", "b", weights=SLOW)
    model = await publish_heavy(sim, "a", DATA)
    manifest = await knows(b, model)
    with trio.move_on_after(4):
        await b.weights.fetch(model, manifest)
    sim.kill("b")
    folder = sim.directory / "b" / "models" / f".fetching-{model}"
    with (folder / "files" / "weights.bin").open("r+b") as file:
        file.write(bytes(MIB))
    with (folder / "journal").open("ab") as journal:
        journal.write(bytes.fromhex("00000002000000040000000900000009ffff"))
    b = await start_heavy(sim, "b", incarnation=1)
    await b.weights.fetch(model, await knows(b, model))
    assert files_of(sim, "b", model) == DATA


async def test_who_wants_it_no_more_drops_it_on_its_way_or_when_it_is_here(sim, autojump_clock):
    a, b = await heavy_grid(sim, "a", "b", weights=SLOW)
    model = await publish_heavy(sim, "a", DATA)
    manifest = await knows(b, model)
    async with trio.open_nursery() as nursery:

        async def fetch():
            assert (await refusal(b.weights.fetch(model, manifest))).code is Code.CANCELLED

        nursery.start_soon(fetch)
        await trio.sleep(2)
        await b.weights.drop(model)
    assert not b.models.fetching()
    await b.weights.fetch(model, manifest)
    await eventually(lambda: a.weights.holders(model) == (b.identity.did,), seconds=10)
    await b.weights.drop(model)
    await eventually(lambda: not a.weights.holders(model), seconds=10)
    assert b.models.list() == {}
    assert (await refusal(a.weights.drop(model))).code is Code.USAGE


async def test_a_node_that_gives_nothing_says_so(sim, autojump_clock):
    a, b = await heavy_grid(sim, "a", "b", weights=WeightsConfig(seed=False))
    model = await publish_heavy(sim, "a", DATA)
    await eventually(b.router.models, seconds=10)
    assert b.weights.holders(model) == ()
    error = await refusal(b.weights.fetch(model, manifest_of(b, model)))
    assert error.code is Code.NO_CANDIDATE
    assert a.weights.report()["seeds"] == 0


async def test_a_day_has_so_many_bytes(sim, autojump_clock):
    await heavy_grid(sim, "a")
    b = await start_heavy(sim, "b", weights=WeightsConfig(fetch_bytes_per_day=7 * MIB))
    await sim.join("b", "a")
    models = [
        await publish_heavy(sim, "a", {"w": content(5 * MIB, seed)}, called=f"m{seed}")
        for seed in range(2)
    ]
    for model in models:
        await knows(b, model)
    await b.weights.fetch(models[0], manifest_of(b, models[0]))
    error = await refusal(b.weights.fetch(models[1], manifest_of(b, models[1])))
    assert error.code is Code.OVER_BUDGET
    assert 0 < error.retry_after_seconds <= 86_400
    sim.kill("b")
    b = await start_heavy(
        sim, "b", incarnation=1, weights=WeightsConfig(fetch_bytes_per_day=7 * MIB)
    )
    await knows(b, models[1])
    error = await refusal(b.weights.fetch(models[1], manifest_of(b, models[1])))
    assert error.code is Code.OVER_BUDGET, "a restart is no new day"
    sim.skip_seconds(86_400)
    await eventually(lambda: b.weights.holders(models[1]), seconds=600)
    await b.weights.fetch(models[1], manifest_of(b, models[1]))


async def test_the_longest_unused_goes_but_not_what_too_few_others_hold(sim, autojump_clock):
    await heavy_grid(sim, "a")
    b = await start_heavy(sim, "b", weights=WeightsConfig(cache_bytes=11 * MIB, replicas_min=1))
    await sim.join("b", "a")
    models = [
        await publish_heavy(sim, "a", {"w": content(5 * MIB, seed)}, called=f"m{seed}")
        for seed in range(4)
    ]
    for model in models:
        await knows(b, model)
    for model in models[:2]:
        await b.weights.fetch(model, manifest_of(b, model))
        await trio.sleep(1)
    await sim.ask("b", models[0], "hello")
    await trio.sleep(600)  # until it is unloaded again
    await eventually(lambda: len(b.weights.holders(models[2])) == 1, seconds=60)
    await b.weights.fetch(models[2], manifest_of(b, models[2]))
    assert set(b.models.list()) == {models[0], models[2]}, "the one that was used stays"
    sim.kill("a")
    await trio.sleep(10)
    with b.weights.cache.coming(models[3], 5 * MIB):
        error = await refusal(b.weights.cache.make_room(models[3]))
    assert error.code is Code.OVER_QUOTA
    assert set(b.models.list()) == {models[0], models[2]}


async def test_a_model_that_never_fits_is_refused_before_anything_is_written(sim, autojump_clock):
    await heavy_grid(sim, "a")
    b = await start_heavy(sim, "b", weights=WeightsConfig(cache_bytes=MIB))
    await sim.join("b", "a")
    model = await publish_heavy(sim, "a", DATA)
    error = await refusal(b.weights.fetch(model, await knows(b, model)))
    assert error.code is Code.OVER_QUOTA
    assert not b.models.fetching()


async def test_what_runs_code_comes_from_publishers_who_are_trusted_alone(sim, autojump_clock):
    _, b = await heavy_grid(sim, "a", "b")
    model = await publish_heavy(sim, "a", DATA)
    manifest = await knows(b, model)
    b.hosting._runs_code = lambda _: True
    assert (await refusal(b.weights.fetch(model, manifest))).code is Code.DENIED
    b.hosting._trusted_publishers = {manifest.issuer}
    await b.weights.fetch(model, manifest)
    assert b.hosting.offered(model)


async def test_a_format_that_no_engine_takes_is_not_fetched(sim, autojump_clock):
    _, b = await heavy_grid(sim, "a", "b")
    model = await publish_heavy(sim, "a", DATA)
    manifest = await knows(b, model)
    b.weights._formats = frozenset
    assert (await refusal(b.weights.fetch(model, manifest))).code is Code.UNSUPPORTED_MODEL


async def test_a_file_that_changed_at_the_holder_is_not_given(sim, autojump_clock):
    a, b = await heavy_grid(sim, "a", "b")
    model = await publish_heavy(sim, "a", DATA)
    manifest = await knows(b, model)
    path = sim.directory / "a" / "models" / model / "files" / "weights.bin"
    with path.open("r+b") as file:
        file.write(b"x")
    error = await refusal(b.weights.fetch(model, manifest))
    assert error.code is Code.NO_CANDIDATE
    assert "not what was published" in error.message
    assert a.models.list() == {}
    assert a.peers.observation(b.identity.peer_id).failures_in_row == 0


async def test_a_manifest_of_another_model_or_withdrawn_is_no_ground(sim, autojump_clock):
    a, b = await heavy_grid(sim, "a", "b")
    model = await publish_heavy(sim, "a", DATA)
    other = await publish_heavy(sim, "a", {"w": b"x"}, called="other")
    await knows(b, other)
    manifest = await knows(b, model)
    error = await refusal(b.weights.fetch(model, manifest_of(b, other)))
    assert error.code is Code.WRONG_MANIFEST
    await a.hosting.withdraw(model)
    await eventually(lambda: not b.weights.holders(model), seconds=10)
    assert (await refusal(b.weights.fetch(model, manifest))).code is Code.WRONG_MANIFEST
    assert (await refusal(b.weights.fetch(model, replace(manifest)))).code is Code.WRONG_MANIFEST


async def test_a_disk_need_not_hold_a_fetched_model_twice(sim, autojump_clock, monkeypatch):
    """What is moved into place takes no room; what is copied does."""
    _, b = await heavy_grid(sim, "a", "b")
    model = await publish_heavy(sim, "a", DATA)
    manifest = await knows(b, model)
    checked = []
    monkeypatch.setattr(
        "aigrid.node.mesh.shelf.models.check_room", lambda _, needed: checked.append(needed)
    )
    await b.weights.fetch(model, manifest)
    assert checked == [0]
    await publish_heavy(sim, "b", {"w": content(1000)}, called="other")
    assert checked == [0, 1000]


async def test_a_disk_on_which_nothing_can_be_noted_ends_no_node(sim, autojump_clock, monkeypatch):
    _, b = await heavy_grid(sim, "a", "b")
    model = await publish_heavy(sim, "a", {"w": content(MIB)})
    manifest = await knows(b, model)

    def full(*_: object) -> None:
        raise UsageError("the disk is full", Code.DATA_DIRECTORY_UNUSABLE)

    with monkeypatch.context() as patched:
        patched.setattr(b.weights.ledger._local, "set", full)
        await b.weights.fetch(model, manifest)
        await trio.sleep(60)
    assert files_of(sim, "b", model) == {"w": content(MIB)}
    assert (await sim.ask("b", model, "hello"))[0].strip() == "hello"


async def test_who_waits_for_a_fetch_when_the_node_stops_does_not_hear_that_it_is_done(
    sim, autojump_clock
):
    _, b = await heavy_grid(sim, "a", "b", weights=SLOW)
    model = await publish_heavy(sim, "a", DATA)
    manifest = await knows(b, model)
    async with trio.open_nursery() as nursery:

        async def fetch():
            assert (await refusal(b.weights.fetch(model, manifest))).code is Code.SHUTTING_DOWN

        nursery.start_soon(fetch)
        await trio.sleep(2)
        sim.kill("b")


async def test_what_is_pinned_stays_though_it_is_not_loaded(sim, autojump_clock):
    await heavy_grid(sim, "a")
    small = WeightsConfig(cache_bytes=11 * MIB, replicas_min=1)
    b = await start_heavy(sim, "b", weights=small)
    await sim.join("b", "a")
    models = [
        await publish_heavy(sim, "a", {"w": content(5 * MIB, seed)}, called=f"m{seed}")
        for seed in range(3)
    ]
    for model in models:
        await knows(b, model)
    await b.weights.fetch(models[0], manifest_of(b, models[0]))
    spawner: Any = b._world.spawner
    spawner.engines = {}  # nothing can be loaded any more
    b.pins.pin(models[0])
    await trio.sleep(1)
    spawner.engines = {"echo": HeavyEcho}
    for model in models[1:]:
        await b.weights.fetch(model, manifest_of(b, model))
    assert set(b.models.list()) == {models[0], models[2]}


async def test_two_that_come_at_once_do_not_count_on_the_same_room(sim, autojump_clock):
    await heavy_grid(sim, "a", weights=SLOW)
    b = await start_heavy(sim, "b", weights=WeightsConfig(cache_bytes=8 * MIB))
    await sim.join("b", "a")
    models = [
        await publish_heavy(sim, "a", {"w": content(5 * MIB, seed)}, called=f"m{seed}")
        for seed in range(2)
    ]
    for model in models:
        await knows(b, model)
    codes = []

    async def fetch(model: str) -> None:
        try:
            await b.weights.fetch(model, manifest_of(b, model))
        except AigridError as error:
            codes.append(error.code)

    async with trio.open_nursery() as nursery:
        for model in models:
            nursery.start_soon(fetch, model)
    assert codes == [Code.OVER_QUOTA]
    assert len(b.models.list()) == 1


async def test_a_manifest_that_leads_to_other_files_is_followed_once(
    sim, autojump_clock, monkeypatch
):
    a, b = await heavy_grid(sim, "a", "b")
    model = await publish_heavy(sim, "a", DATA)
    manifest = await knows(b, model)

    async def not_those(*_: object) -> None:
        await trio.lowlevel.checkpoint()
        raise LocalError("not what its description says", Code.HASH_MISMATCH)

    monkeypatch.setattr(b.hosting, "take_in", not_those)
    assert (await refusal(b.weights.fetch(model, manifest))).code is Code.HASH_MISMATCH
    given = a.weights.giving.given_bytes
    error = await refusal(b.weights.fetch(model, manifest))
    assert error.code is Code.HASH_MISMATCH
    assert "publish" in error.message
    assert a.weights.giving.given_bytes == given
    assert (await refusal(b.weights.fetch(model, manifest))).code is Code.HASH_MISMATCH
    with pytest.raises(AigridError):
        b.weights.choose(model)
