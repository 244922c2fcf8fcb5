"""Members that give away weights, and send something else: the real transfer, of small files.

A holder publishes models with files; attackers fetch them honestly, offer them, and then answer
each in its own way. Everybody else fetches every model, one after the other.
"""

import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import trio
from scripts.simulation.checks.properties import Watch
from scripts.simulation.scene import Scene
from scripts.simulation.world import SimNode, eventually

from aigrid.protocol.chunks import DIGEST_BYTES, chunk_count
from aigrid.protocol.errors import AigridError
from aigrid.protocol.limits import LIMITS, MIB
from aigrid.protocol.messages import Piece, Weights, encode
from aigrid.protocol.model import ModelDescription, ModelFile

FILE = "weights.bin"
FILE_BYTES = 2 * MIB + 17
MODELS = 2
KNOWN_SECONDS = 60.0
FETCHED_SECONDS = 40.0
"""A fetch has so long, however many of those who are asked send rubbish."""

Send = Callable[[bytes], Awaitable[None]]


async def _wrong(send: Send, length: int) -> None:
    """As much as was asked for, and none of it right."""
    for at in range(0, length, LIMITS.weights_piece_bytes):
        await send(encode(Piece(bytes(min(LIMITS.weights_piece_bytes, length - at)))))


async def _stalled(_send: Send, _length: int) -> None:
    await trio.sleep_forever()


async def _endless(send: Send, _length: int) -> None:
    while True:
        await send(encode(Piece(bytes(LIMITS.weights_piece_bytes))))


async def _short(send: Send, length: int) -> None:
    await _wrong(send, length // 2)


WAYS: tuple[tuple[Callable[[Send, int], Awaitable[None]], bool], ...] = (
    (_stalled, True),
    (_wrong, False),
    (_endless, False),
    (_short, True),
)
"""How they answer, and whether to requests for lists of chunks as well."""


class Poisoned:
    """What honest nodes have been sent so far.

    Attributes:
        fetches: how many each has begun, by PeerId.
    """

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._caught: dict[tuple[str, str], int] = {}
        self.fetches: Counter[str] = Counter()

    def asked(self, peer_id: str, poisoner: str) -> None:
        """Nobody asks one again in a later fetch that was caught, while an honest one is there."""
        if self._caught.get((peer_id, poisoner), self.fetches[peer_id]) < self.fetches[peer_id]:
            self._watch.violated("avoided", f"{poisoner} was asked again by whom it had poisoned")

    def fetched(self, peer_id: str) -> None:
        """A fetch is over, in which those were not to be asked that were caught before it."""
        self._watch.checks["weights"] += 1
        self._watch.checks["avoided"] += sum(
            who == peer_id and caught < self.fetches[peer_id]
            for (who, _), caught in self._caught.items()
        )

    def caught(self, peer_id: str, poisoner: str) -> None:
        """All of a wrong answer was read."""
        self._caught.setdefault((peer_id, poisoner), self.fetches[peer_id])


@dataclass(slots=True)
class _Poisoner:
    """`lists`: whether chunk lists, too, are wrong; else only what they are of."""

    name: str
    way: Callable[[Send, int], Awaitable[None]]
    lists: bool
    honest: Callable[..., Awaitable[None]]
    poisoned: Poisoned

    async def serve(self, peer_id: str, message: Weights, send: Send) -> None:
        part = message.part
        if not part.count and not self.lists:
            await self.honest(peer_id, message, send)
            return
        self.poisoned.asked(peer_id, self.name)
        length = DIGEST_BYTES * chunk_count(FILE_BYTES)
        if part.count:
            length = min(part.count * MIB, FILE_BYTES - part.first * MIB)
        await self.way(send, length)
        self.poisoned.caught(peer_id, self.name)


async def arm(scene: Scene) -> Callable[[], Awaitable[None]]:
    """Publish, and have the attackers hold what they poison from now on; then all fetch it."""
    poisoned = Poisoned(scene.watch)
    publisher = scene.sim.nodes[scene.holders[0]]
    for number in range(MODELS):
        data = scene.rng(f"weights {number}").randbytes(FILE_BYTES)
        scene.files[await _publish(scene, publisher, number, data)] = data
    for one in scene.attackers():
        for model in scene.files:
            await _fetch(one, model)
    # In the order in which they are asked: the first stalls, and lists of chunks with it.
    in_order = sorted(scene.attackers(), key=lambda one: one.node.identity.did)
    for number, one in enumerate(in_order):
        way, lists = WAYS[number % len(WAYS)]
        giving = one.node.weights.giving
        poisoner = _Poisoner(one.name, way, lists, giving.serve, poisoned)
        vars(giving)["serve"] = poisoner.serve
    holders = 1 + len(scene.bad)
    for model in scene.files:
        for one in scene.honest():
            known = one.node.weights.holders
            if one is not publisher:
                await eventually(
                    lambda known=known, model=model: len(known(model)) >= holders,
                    seconds=KNOWN_SECONDS,
                )
    return partial(_fetch_everywhere, scene, poisoned)


async def _publish(scene: Scene, one: SimNode, number: int, data: bytes) -> str:
    path = scene.sim.directory / f"weights-{number}"
    path.write_bytes(data)
    sha256 = hashlib.sha256(data).hexdigest()
    description = ModelDescription(
        "echo",
        "text-generation",
        (ModelFile(FILE, sha256, len(data)),),
        options={"tag": f"heavy-{number}"},
    )
    published = await one.node.hosting.add(
        description,
        {FILE: path},
        name=f"heavy-{number}",
        capabilities=("text-generation",),
        license_id="Apache-2.0",
    )
    return published.model


async def _fetch(one: SimNode, model: str) -> None:
    """Raises AigridError."""
    node: Any = one.node
    await eventually(lambda: node.weights.holders(model), seconds=KNOWN_SECONDS)
    await node.weights.fetch(model, node.weights.choose(model))


async def _fetch_everywhere(scene: Scene, poisoned: Poisoned) -> None:
    """Everybody honest fetches every model."""
    async with trio.open_nursery() as nursery:
        for one in scene.honest():
            if one.name != scene.holders[0]:
                nursery.start_soon(_fetch_all, scene, one, poisoned)


async def _fetch_all(scene: Scene, one: SimNode, poisoned: Poisoned) -> None:
    rng, watch = scene.rng(f"{one.name}/fetch"), scene.watch
    for model, data in scene.files.items():
        await trio.sleep(rng.uniform(0.0, 2.0))
        poisoned.fetches[one.node.identity.peer_id] += 1
        problem = "not in time"
        with trio.move_on_after(FETCHED_SECONDS):
            try:
                await _fetch(one, model)
                problem = ""
            except AigridError as error:
                problem = error.message
            except Exception:
                if scene.is_up(one):
                    raise
        if not scene.is_up(one):
            return  # it was killed, whatever came of it
        poisoned.fetched(one.node.identity.peer_id)
        if problem:
            watch.violated("weights", f"{one.name} did not get a model: {problem}")
            continue
        path = scene.sim.directory / one.name / "models" / model / "files" / FILE
        if path.read_bytes() != data:
            watch.violated("weights", f"{one.name} holds other weights than were published")
