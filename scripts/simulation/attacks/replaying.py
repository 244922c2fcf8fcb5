"""Members that send again what was true once: records, signed requests, receipts; and forgeries.

Meanwhile honest nodes withdraw some of what they said, the authority removes one of the attackers,
and its delegate, who can only revoke, another: so there is always something to bring back.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

import trio
from msgspec import structs
from scripts.simulation.attacks.forging import forge
from scripts.simulation.scene import Scene
from scripts.simulation.world import SimNode

from aigrid.metagraph.preferences import Preferences
from aigrid.node.discovery.batches import batches
from aigrid.node.policy.caller import OPERATOR
from aigrid.protocol.errors import AigridError
from aigrid.protocol.inference import ChatMessage, TextRequest
from aigrid.protocol.kinds import Kind
from aigrid.protocol.messages import (
    RECORDS_TOPIC,
    Chunks,
    Infer,
    Push,
    Receipted,
    Records,
    decode_rpc_answer,
    decode_rpc_request,
    encode,
)
from aigrid.protocol.record import Record

SAID_AGAIN = 24
"""Records that are sent again at once."""
EVERY_SECONDS = 1.0
SILENCE_SECONDS = 10.0
OLDER = 2
"""Requests of before the last few that are sent again at once."""


class Replayer:
    """One attacker and all that it has heard since it was made."""

    def __init__(self, scene: Scene, one: SimNode) -> None:
        self._scene = scene
        self._rng = scene.rng(f"{one.name}/replay")
        self._forgery = scene.rng(f"{one.name}/forge")
        self._node = one.node
        self._call = one.node.rpc.call
        self.name = one.name
        live = one.node.graph.store.live(0)
        self._records = {record.content_id: record.raw for record in live}
        self._asked: tuple[str, bytes] | None = None  # PeerId that was asked last, and with what
        self._own: list[tuple[str, bytes]] = []  # of these, what was answered
        self._others: list[Infer] = []
        self._receipts: dict[str, bytes] = {}  # by PeerId of who got it
        scene.sim.learned.append(self._learned)
        vars(one.node.rpc)["call"] = self._asking
        vars(one.node.serving)["serve"] = self._serving(one.node.serving.serve)

    def _learned(self, name: str, record: Record) -> None:
        if name == self.name:
            self._records[record.content_id] = record.raw

    def _asking(self, peer_id: str, body: bytes, **more: Any) -> Any:
        """What this node asks, noted; an honest request the first time."""
        if isinstance(decode_rpc_request(body), Infer):
            self._asked = (peer_id, body)
        return self._call(peer_id, body, **more)

    def _serving(self, serve: Callable[..., Any]) -> Callable[..., Any]:
        """What it is asked, noted; and with every answer the receipt of the first."""

        async def noting(peer_id: str, message: Infer, send: Callable[..., Any]) -> None:
            self._others.append(message)

            async def sending(body: bytes) -> None:
                if isinstance(decode_rpc_answer(body), Receipted):
                    body = self._receipts.setdefault(peer_id, body)
                await send(body)

            await serve(peer_id, message, sending)

        return noting

    async def say_records(self) -> None:
        """By gossip to all, and to one straight."""
        raws = self._rng.sample(sorted(self._records.values()), min(SAID_AGAIN, len(self._records)))
        raws += forge(self._node, self._scene.watch, self._forgery)
        honest = self._rng.choice(self._scene.honest()).node
        for batch in batches(raws):
            await self._node.transport.publish(RECORDS_TOPIC, encode(Records(batch)))
            with suppress(AigridError):
                await self._ask(honest.identity.peer_id, encode(Push(batch)))

    async def ask_once(self) -> None:
        """An honest request, to have one that can be sent again."""
        request = TextRequest(messages=(ChatMessage("user", "once and never again"),))
        with suppress(AigridError):
            async with self._node.router.infer(
                self._rng.choice(self._scene.models),
                request,
                request_id=self._node.new_request_id(),
                caller=OPERATOR,
                preferences=Preferences(ignore=(self._node.identity.peer_id,)),
                patience_seconds=5.0,
            ) as answer:
                async for _ in answer.chunks:
                    pass
            if self._asked is not None:
                self._own.append(self._asked)

    async def ask_again(self) -> None:
        """Its own requests of those who have answered them, those of others of other holders."""
        nodes = self._scene.sim.nodes
        holders = [nodes[name].node for name in self._scene.holders if name in nodes]
        older = self._own[:-4]  # whose presentations are about to expire, or have
        again = self._own[-4:] + self._rng.sample(older, min(OLDER, len(older)))
        for message in self._others[-4:] if holders else ():
            peer_id = self._rng.choice(holders).identity.peer_id
            again += [(peer_id, one) for one in self._passed_on(message, peer_id)]
        for peer_id, body in again:
            self._scene.watch.checks["once"] += 1
            with suppress(AigridError):
                if await self._ask(peer_id, body):
                    what = "a signed request" if (peer_id, body) in self._own else "another's"
                    self._scene.watch.violated("once", f"{what} of {self.name} was served again")

    def _passed_on(self, message: Infer, peer_id: str) -> list[bytes]:
        """As it came, and for the manifest by which that node has the model."""
        offers = self._node.graph.index.offers_of_model(message.model, self._node.now_ms())
        manifests = [offer.manifest for offer in offers if offer.node == peer_id]
        changed = [structs.replace(message, manifest=manifest) for manifest in manifests]
        return [encode(one) for one in (message, *changed)]

    async def _ask(self, peer_id: str, body: bytes) -> bool:
        """Whether what comes back is an answer of a model."""
        async with self._call(peer_id, body, silence_seconds=SILENCE_SECONDS) as bodies:
            async for one in bodies:
                if isinstance(decode_rpc_answer(one), Chunks):
                    return True
        return False

    async def go_on(self) -> None:
        while True:
            await trio.sleep(EVERY_SECONDS * self._rng.uniform(0.8, 1.2))
            await self.say_records()
            await self.ask_once()
            await self.ask_again()


def arm(scene: Scene) -> Callable[[], Awaitable[None]]:
    """Have the attackers note everything from now on."""
    return partial(_go_on, scene, [Replayer(scene, one) for one in scene.attackers()])


async def _go_on(scene: Scene, replayers: list[Replayer]) -> None:
    async with trio.open_nursery() as nursery:
        for replayer in replayers:
            nursery.start_soon(replayer.go_on)
        nursery.start_soon(_withdraw, scene)
        await _remove(scene)


async def _remove(scene: Scene) -> None:
    """The authority removes one attacker; a delegate, who can only revoke, the last of several."""
    nodes = scene.sim.nodes
    delegate = next((name for name in scene.holders if name in nodes), None)
    founder = nodes[scene.founder].node
    if delegate is not None:
        did = nodes[delegate].node.identity.did
        founder.statuses.delegate(founder.grid.did, [did], 1)
    first, last = scene.attackers()[0], scene.attackers()[-1]
    await trio.sleep(scene.options.duration_seconds / 4)
    _removed(scene, scene.founder, first)
    await trio.sleep(scene.options.duration_seconds / 2)
    if last is not first and delegate is not None:
        _removed(scene, delegate, last)


def _removed(scene: Scene, by: str, one: SimNode) -> None:
    """Unless who was to do it is down just now."""
    if by not in scene.sim.nodes:
        return
    did = one.node.identity.did
    scene.sim.nodes[by].node.grid.remove(did)
    scene.watch.removed[did] = trio.current_time()


async def _withdraw(scene: Scene) -> None:
    """Now and then an honest node takes back one of its capabilities."""
    rng = scene.rng("withdraw")
    while True:
        await trio.sleep(EVERY_SECONDS)
        node = rng.choice(scene.honest()).node
        did, now_ms = node.identity.did, node.now_ms()
        said = [
            one.subject
            for one in node.graph.live_records(now_ms, issuer=did)
            if one.kind is Kind.CAPABILITY
        ]
        if said:
            subject = rng.choice(sorted(said))
            node.graph.withdraw(Kind.CAPABILITY, subject, node.identity, now_ms=now_ms)
