"""What names of models mean to a node over time: nodes in virtual time."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from tests.simulation.harness import Simulation, eventually
from trio.testing import MockClock

from aigrid.node.app import Node
from aigrid.node.learning.names import Names
from aigrid.protocol.errors import AigridError, Code
from aigrid.protocol.limits import LIMITS


@pytest.fixture
async def sim(tmp_path: Path) -> AsyncIterator[Simulation]:
    async with trio.open_nursery() as nursery:
        yield Simulation(31, tmp_path, nursery)
        nursery.cancel_scope.cancel()


async def grid(sim: Simulation, *names: str) -> list[Node]:
    for name in names:
        await sim.start(name)
        if name != names[0]:
            await sim.join(name, names[0])
    await trio.sleep(3)
    return [sim.nodes[name].node for name in names]


async def knows(node: Node, count: int) -> None:
    await eventually(
        lambda: len(node.graph.index.resolve("parrot", node.now_ms())) == count, seconds=30
    )


def again(node: Node) -> Names:
    """What this node would make of names after a restart."""
    kept = node.learning.names
    return Names(
        node.local,
        node.graph,
        trusted=kept._trusted,
        pinned=kept.pinned,
        word=kept._word,
        now_ms=node.now_ms,
    )


async def test_a_name_goes_on_meaning_what_it_meant_when_others_take_it(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    asker, *_ = await grid(sim, "asker", "honest", "mallory", "late")
    model = await sim.publish_echo("honest", "parrot")
    await knows(asker, 1)
    other = await sim.publish_echo("mallory", "parrot", tag="another")
    await knows(asker, 2)
    assert asker.router.resolve("parrot") == model
    assert again(asker).resolve("parrot") == (model,)
    listed = {view.model: view.meant for view in asker.router.models()}
    assert listed == {model: True, other: False}
    assert (await sim.ask("asker", "parrot", "hello"))[0].strip() == "hello"
    # Whoever publishes it means its own.
    assert sim.nodes["mallory"].node.router.resolve("parrot") == other
    # A third voice outweighs what was known first, but not what was used.
    await sim.publish_echo("late", "parrot", tag="another")
    await eventually(lambda: len(asker.learning.names.publishers(other)) == 2, seconds=30)
    assert asker.router.resolve("parrot") == model
    assert again(asker).resolve("parrot") == (model,)


async def test_where_nothing_decides_the_error_says_whose_they_are(
    sim: Simulation, autojump_clock: MockClock
) -> None:
    _, honest, mallory = await grid(sim, "asker", "honest", "mallory")
    models = [
        await sim.publish_echo("honest", "parrot"),
        await sim.publish_echo("mallory", "parrot", tag="another"),
    ]
    late = (await sim.start("late")).node
    await sim.join("late", "asker")
    await knows(late, 2)
    late.learning.names._first.clear()  # both came with what a newcomer takes at once
    with pytest.raises(AigridError) as caught:
        late.router.resolve("parrot")
    assert caught.value.code is Code.AMBIGUOUS_MODEL
    for model, node in zip(models, (honest, mallory), strict=True):
        assert f"{model} of {node.identity.did}" in caught.value.message
    late.learning.names.pinned = {"parrot": models[1]}
    assert late.router.resolve("parrot") == models[1]
    late.learning.names.pinned = {"parrot": "bagaaieraaaaa"}
    with pytest.raises(AigridError) as caught:
        late.router.resolve("parrot")
    assert caught.value.code is Code.MODEL_NOT_FOUND


async def test_what_is_kept_of_names_is_bounded(sim: Simulation, autojump_clock: MockClock) -> None:
    asker, _ = await grid(sim, "asker", "honest")
    for name in ("one", "two", "three"):
        await sim.publish_echo("honest", name)
    await eventually(lambda: len(asker.router.models()) == 3, seconds=30)
    object.__setattr__(LIMITS, "names_kept_max", 2)
    try:
        for name in ("one", "two", "three"):
            await sim.ask("asker", name, "hello")
    finally:
        object.__setattr__(LIMITS, "names_kept_max", type(LIMITS)().names_kept_max)
    kept = {name for name, _ in asker.local.all("names/used/")}
    assert kept == {"names/used/two", "names/used/three"}
