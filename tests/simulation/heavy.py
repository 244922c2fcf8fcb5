"""Models that have files and that virtual time can bear: the echo engine, which ignores them here."""

import hashlib
import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import trio
from tests.simulation.harness import SimNode, Simulation, eventually

from aigrid.engines.base import Estimate, ModelSource
from aigrid.engines.echo import EchoEngine
from aigrid.node.app import Node
from aigrid.protocol.model import ModelDescription, ModelFile
from aigrid.protocol.record import Record


class HeavyEcho(EchoEngine):
    """Repeats what it was asked, whatever files there are."""

    def estimate(self, source: ModelSource) -> Estimate:
        return super().estimate(replace(source, files={}))


async def start_heavy(sim: Simulation, name: str, **options: Any) -> Node:
    """A node whose echo engine takes files."""
    started: SimNode = await sim.start(name, **options)
    started.node._world.spawner.engines = {"echo": HeavyEcho}  # type: ignore[attr-defined]
    return started.node


def content(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def described(data: Mapping[str, bytes], **options: Any) -> ModelDescription:
    files = tuple(
        ModelFile(file, hashlib.sha256(raw).hexdigest(), len(raw))
        for file, raw in sorted(data.items())
    )
    return ModelDescription("echo", "text-generation", files, options=options)


async def publish_heavy(
    sim: Simulation, name: str, data: Mapping[str, bytes], *, called: str = "parrot", **more: Any
) -> str:
    """The model's id."""
    paths = {file: sim.directory / f"{name}-{called}-{file}" for file in data}
    for file, path in paths.items():
        path.write_bytes(data[file])
    published = await sim.nodes[name].node.hosting.add(
        described(data, tag=called),
        paths,
        name=called,
        capabilities=("text-generation",),
        license_id="Apache-2.0",
        **more,
    )
    return published.model


def manifest_of(node: Node, model: str) -> Record:
    """The one manifest of a model that a node knows."""
    (manifest,) = node.graph.manifests_of(model, node.now_ms())
    return manifest


async def heavy_grid(sim: Simulation, *names: str, **options: Any) -> list[Node]:
    """Nodes that have met; the first one founded the grid."""
    nodes = [await start_heavy(sim, name, **options) for name in names]
    for name in names[1:]:
        await sim.join(name, names[0])
    await trio.sleep(5)
    return nodes


async def knows(node: Node, model: str, holders: int = 1) -> Record:
    """The manifest of a model, once a node knows of so many who give it."""
    await eventually(lambda: len(node.weights.holders(model)) >= holders, seconds=60)
    return manifest_of(node, model)


def files_of(sim: Simulation, name: str, model: str) -> dict[str, bytes]:
    folder = sim.directory / name / "models" / model / "files"
    return {path.name: path.read_bytes() for path in folder.iterdir()}
