"""One answer to whether a node may host a model, and of several manifests the one that will do."""

from dataclasses import replace

import pytest
import trio
from tests.simulation.harness import Simulation, eventually
from tests.simulation.heavy import content, heavy_grid, knows, manifest_of, publish_heavy

from aigrid.node.mesh.shelf.hostable import Means, Standing, why_not_host
from aigrid.node.settings.placement import PlacementConfig
from aigrid.protocol.errors import Code, PolicyDeniedError
from aigrid.protocol.limit import GIB

DENIED = PolicyDeniedError("not without a grant", Code.NO_GRANT)
GOOD = Standing(live=True, hosted=True, safe=True)
ABLE = Means(formats=("echo",), memory_bytes=GIB, cache_bytes=GIB)


@pytest.fixture
async def sim(tmp_path):
    async with trio.open_nursery() as nursery:
        yield Simulation(26, tmp_path, nursery)
        nursery.cancel_scope.cancel()


async def test_the_reasons_in_their_order(sim, autojump_clock):
    (a,) = await heavy_grid(sim, "a")
    model = await publish_heavy(sim, "a", {"w": content(1000)})
    manifest = manifest_of(a, model)

    def code(standing=GOOD, means=ABLE, *, of=model, fetch=True, load=True):
        found = why_not_host(of, manifest, standing, means, fetch=fetch, load=load)
        return None if found is None else found.code

    assert code() is None
    assert code(of="another") is Code.WRONG_MANIFEST
    assert code(replace(GOOD, live=False)) is Code.WRONG_MANIFEST
    assert code(replace(GOOD, hosted=False)) is Code.NOT_SERVED
    assert code(replace(GOOD, safe=False)) is Code.DENIED
    assert code(replace(GOOD, refusal=DENIED)) is Code.NO_GRANT
    assert code(means=replace(ABLE, formats=())) is Code.UNSUPPORTED_MODEL
    assert code(means=replace(ABLE, memory_bytes=-1)) is Code.OVER_QUOTA
    assert code(means=replace(ABLE, memory_bytes=-1), load=False) is None
    assert code(means=replace(ABLE, cache_bytes=1)) is Code.OVER_QUOTA
    assert code(means=replace(ABLE, cache_bytes=1), fetch=False) is None
    assert code(means=replace(ABLE, contradicted=(manifest.content_id,))) is Code.HASH_MISMATCH
    assert code(replace(GOOD, refusal=DENIED), None) is Code.NO_GRANT
    assert code(GOOD, None) is None


async def test_shelf_weights_and_placement_say_the_same(sim, autojump_clock):
    _, b = await heavy_grid(sim, "a", "b", placement=PlacementConfig("nothing"))
    model = await publish_heavy(sim, "a", {"w": content(1000)})
    manifest = await knows(b, model)
    refused = replace(b.policy.decider.own.operator, hosts=frozenset({"translation"}))
    bringable = b.placement.placing._bringable
    assert bringable.problem(manifest, ()) == ""
    await b.weights.fetch(model, manifest)
    b.policy.decider.own = replace(b.policy.decider.own, operator=refused)
    told = b.weights.may_host(model, manifest)
    assert told is not None
    assert told.message == bringable.problem(manifest, ())
    assert told.message in b.hosting.problem(model)
    await b.weights.drop(model)
    assert told.message == bringable.problem(manifest, ())


async def test_an_older_manifest_will_do_where_the_newest_is_refused(sim, autojump_clock):
    _, b, c = await heavy_grid(sim, "a", "b", "c", placement=PlacementConfig("members"))
    data = {"w": content(1000)}
    model = await publish_heavy(sim, "a", data)
    older = await knows(c, model)
    await trio.sleep(1)
    assert await publish_heavy(sim, "b", data) == model
    await eventually(lambda: len(c.graph.manifests_of(model, sim.now_ms())) == 2, seconds=30)
    bringable = c.placement.placing._bringable
    newest = bringable.manifest(model)
    assert newest is not None
    assert newest.issuer == b.identity.did
    c.weights._fetching.contradicted[newest.content_id] = None
    assert bringable.manifest(model) == older
    assert bringable.manifest(model, {newest.content_id}) == older
