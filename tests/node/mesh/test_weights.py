"""Models on their way between whole nodes in virtual time: fetched, given, refused, kept."""

import hashlib
import random

import pytest
import trio
from tests.simulation.harness import Simulation, eventually

from aigrid.protocol.errors import AigridError, Code
from aigrid.protocol.limits import MIB
from aigrid.protocol.model import ModelDescription, ModelFile


@pytest.fixture
async def sim(tmp_path):
    async with trio.open_nursery() as nursery:
        yield Simulation(21, tmp_path, nursery)
        nursery.cancel_scope.cancel()


async def publish(sim, name, data, **more):
    """An echo model that has files, as heavy as a test can bear."""
    node = sim.nodes[name].node
    paths = {}
    for file, content in data.items():
        paths[file] = sim.directory / f"{name}-{file}"
        paths[file].write_bytes(content)
    files = tuple(
        ModelFile(file, hashlib.sha256(content).hexdigest(), len(content))
        for file, content in sorted(data.items())
    )
    description = ModelDescription("echo", "text-generation", files)
    published = await node.hosting.add(
        description,
        paths,
        name="parrot",
        capabilities=("text-generation",),
        license_id="Apache-2.0",
        **more,
    )
    return published.model


def content(size, seed=1):
    return random.Random(seed).randbytes(size)


DATA = {"weights.bin": content(5 * MIB + 17), "tokens.txt": b"hello", "nothing.txt": b""}


async def grid(sim, *names):
    for name in names:
        await sim.start(name)
    for name in names[1:]:
        await sim.join(name, names[0])
    return [sim.nodes[name].node for name in names]


def manifest_at(node, model):
    return node.graph.manifests_of(model, node.now_ms())[0]


async def knows(node, model, holders=1):
    await eventually(lambda: len(node.weights.holders(model)) >= holders, seconds=60)
    return manifest_at(node, model)


async def test_a_model_is_fetched_offered_and_given_on(sim, autojump_clock):
    a, b, c = await grid(sim, "a", "b", "c")
    model = await publish(sim, "a", DATA)
    manifest = await knows(b, model)
    said = []

    async def progress(text):
        said.append(text)

    await b.weights.fetch(model, manifest, progress=progress)
    assert any("% of 6 MiB" in text for text in said)
    folder = sim.directory / "b" / "models" / model / "files"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == DATA
    assert [(o.model, o.manifest) for o in b.hosting.offers()] == [(model, manifest.content_id)]
    await eventually(lambda: len(c.weights.holders(model)) == 2, seconds=60)
    sim.kill("a")
    await eventually(lambda: c.weights.holders(model) == (b.identity.did,), seconds=60)
    await c.weights.fetch(model, manifest)
    assert (await sim.ask("c", model, "hello"))[0].strip() == "hello"
