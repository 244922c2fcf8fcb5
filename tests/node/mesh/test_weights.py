"""Models on their way between whole nodes in virtual time: fetched, given, refused, kept."""

import pytest
import trio
from tests.simulation.harness import Simulation, eventually
from tests.simulation.heavy import content, manifest_of, publish_heavy, start_heavy

from aigrid.protocol.errors import AigridError
from aigrid.protocol.limits import MIB

DATA = {"weights.bin": content(5 * MIB + 17), "tokens.txt": b"hello", "nothing.txt": b""}


@pytest.fixture
async def sim(tmp_path):
    async with trio.open_nursery() as nursery:
        yield Simulation(21, tmp_path, nursery)
        nursery.cancel_scope.cancel()


async def grid(sim, *names, **options):
    nodes = [await start_heavy(sim, name, **options) for name in names]
    for name in names[1:]:
        await sim.join(name, names[0])
    await trio.sleep(5)  # for them to meet
    return nodes


async def knows(node, model, holders=1):
    """The manifest of a model, once so many who give it are known."""
    await eventually(lambda: len(node.weights.holders(model)) >= holders, seconds=60)
    return manifest_of(node, model)


def files_of(sim, name, model):
    folder = sim.directory / name / "models" / model / "files"
    return {path.name: path.read_bytes() for path in folder.iterdir()}


async def refusal(awaitable):
    with pytest.raises(AigridError) as caught:
        await awaitable
    return caught.value


async def test_a_model_is_fetched_offered_and_given_on(sim, autojump_clock):
    a, b, c = await grid(sim, "a", "b", "c")
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
    await eventually(lambda: len(c.weights.holders(model)) == 2, seconds=60)
    sim.kill("a")
    await eventually(lambda: c.weights.holders(model) == (b.identity.did,), seconds=60)
    await c.weights.fetch(model, manifest)
    assert files_of(sim, "c", model) == DATA
    assert (await sim.ask("c", model, "hello"))[0].strip() == "hello"
