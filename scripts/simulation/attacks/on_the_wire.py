"""Attacks on GossipSub and Kad-DHT themselves, by members: they need `--net libp2p`.

eclipse  peer ids next to the keys under which models are provided: they drop what they are told
         there, and name themselves to whoever asks
covert   behaves, grafts everybody, and from one moment on passes nothing on
resend   says frames of others again, as they were signed, for as long as it runs
"""

import hashlib
import random
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterator
from functools import partial
from typing import Any

import trio
from libp2p.kad_dht.utils import sort_peer_ids_by_distance
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.pubsub.pb import rpc_pb2
from multiaddr import Multiaddr
from scripts.simulation.scene import Scene
from scripts.simulation.world import SimNode

from aigrid.node.app import Node
from aigrid.node.discovery.providers import model_key
from aigrid.node.network.transport import PeerAddress
from aigrid.node.policy.caller import OPERATOR
from aigrid.protocol.errors import AigridError, Code
from aigrid.protocol.identity import Identity
from aigrid.protocol.inference import ChatMessage, TextRequest
from aigrid.protocol.limits import LIMITS

GROUND_FOR_EACH = 40
"""Identities that are made at once for each one that is kept."""
GROUND_BATCHES_MAX = 100
SEEKERS = ("s0000", "s0001")
ELSEWHERE = frozenset({"vision"})
"""What a seeker replicates: nothing of what it will ask for."""
SETTLE_SECONDS = 5.0
SEEK_EVERY_SECONDS = 2.0
SEEK_TIMES = 3
FRAMES_KEPT = 24
RESEND_EVERY_SECONDS = 1.5


def grid_of(seed: int, founder: str) -> str:
    """The DID of the grid that a founder makes: its authority's."""
    return Identity(hashlib.sha256(f"{seed}/{founder}/grid".encode()).digest()).did


def ground(
    rng: random.Random,
    grid: str,
    models: tuple[str, ...],
    count: int,
    others: Collection[Identity] = (),
) -> Iterator[Identity]:
    """Identities whose peer ids are nearest to the keys of these models, in turn, of many made.

    More are made, up to a bound, until none of `others` is as near.
    """
    far, near = [ID.from_base58(one.peer_id) for one in others], dict[ID, Identity]()
    batches = 0
    for number in range(count):
        key = multihash(model_key(grid, models[number % len(models)]))
        while not near or (nearest := sort_peer_ids_by_distance(key, [*near, *far])[0]) not in near:
            made = [Identity(rng.randbytes(32)) for _ in range(GROUND_FOR_EACH * count)]
            near |= {ID.from_base58(one.peer_id): one for one in made}
            batches += 1
            far = far if batches < GROUND_BATCHES_MAX else []
        yield near.pop(nearest)


def multihash(key: str) -> bytes:
    """As `node/network/libp2p_dht.py` has it."""
    return b"\x12\x20" + hashlib.sha256(key.encode()).digest()


async def arm(scene: Scene) -> Callable[[], Awaitable[None]]:
    """Make the attackers what they are. What is returned is cancelled when the attack ends."""
    match scene.options.kind:
        case "eclipse":
            return await _eclipse(scene)
        case "covert":
            scene.watch.attacked.add("silent")
            for one in scene.attackers():
                _graft_everybody(one.node)
            return partial(_fall_silent, scene)
        case _:
            scene.watch.attacked.add("resent")
            return partial(_resend, scene, [Frames(one) for one in scene.attackers()])


# eclipse


async def _eclipse(scene: Scene) -> Callable[[], Awaitable[None]]:
    scene.watch.attacked.add("eclipsed")
    for one in scene.attackers():
        _lie(one, scene)
    for name in SEEKERS:
        await scene.sim.start(name, interests=ELSEWHERE)
        scene.watch.admitted.add(scene.sim.nodes[name].node.identity.did)
        scene.watch.exempt.add(name)
        await scene.sim.join(name, scene.founder)
    await trio.sleep(SETTLE_SECONDS)
    return partial(_seek, scene, SEEKERS)


def _lie(one: SimNode, scene: Scene) -> None:
    """Of a key it knows nobody but the attackers; of a model it knows nothing."""
    lies = [
        PeerInfo(
            ID.from_base58(bad.node.identity.peer_id),
            [Multiaddr(address) for address in bad.node.transport.listen_addresses],
        )
        for bad in scene.attackers()
    ]
    store = _library(one.node).dht.provider_store
    store.add_provider = lambda _key, _provider: None
    store.get_providers = lambda _key: list(lies)

    async def nothing(*_: Any, **_more: Any) -> None:
        await trio.lowlevel.checkpoint()

    vars(one.node.typed_queries)["serve"] = nothing


async def _seek(scene: Scene, seekers: Collection[str]) -> None:
    """Each asks for each model, of which it has no record: the DHT, and whom it knows, must do."""
    for model in scene.models:
        for name in seekers:
            await trio.sleep(SEEK_EVERY_SECONDS)
            if name not in scene.sim.nodes:
                continue  # it was killed
            scene.watch.checks["found"] += 1
            node = scene.sim.nodes[name].node
            hints = await node.transport.find_providers(model_key(node.grid.did, model))
            honest = {one.node.identity.peer_id for one in scene.honest()}
            scene.watch.checks["eclipsed"] += honest.isdisjoint(hint.peer_id for hint in hints)
            code = await _ask_again(node, model, scene.options.patience_seconds)
            if code is not None:
                scene.watch.violated("found", f"{name} did not find {model}: {code.value}")
    await trio.sleep_forever()


async def _ask_again(node: Node, model: str, patience_seconds: float) -> Code | None:
    """As whoever was told that there is none: few are asked at a time, and others each time."""
    code = None
    for times in range(SEEK_TIMES):
        if times:
            await trio.sleep(LIMITS.find_again_seconds)
        try:
            await _ask(node, model, patience_seconds)
        except AigridError as error:
            code = error.code
        else:
            return None
    return code


async def _ask(node: Node, model: str, patience_seconds: float) -> None:
    request = TextRequest(messages=(ChatMessage("user", "anybody"),))
    async with node.router.infer(
        model,
        request,
        request_id=node.new_request_id(),
        caller=OPERATOR,
        patience_seconds=patience_seconds,
    ) as answer:
        async for _ in answer.chunks:
            pass


# covert


def _graft_everybody(node: Node) -> None:
    """Its mesh has no upper bound, and it wants all that listen in it."""
    gossip = _library(node).gossip
    gossip.degree = gossip.degree_low = gossip.degree_high = 1_000


async def _fall_silent(scene: Scene) -> None:
    """They connect to everybody; a quarter into the run, all at once, they stop to forward."""
    for one in scene.attackers():
        for other in scene.honest():
            peer = PeerAddress(other.node.identity.peer_id, other.node.transport.listen_addresses)
            await one.node.transport.connect(peer)
    await trio.sleep(scene.options.duration_seconds / 4)
    scene.sim.note("attack", "silence")

    async def keep_to_oneself(*_: Any, **_more: Any) -> None:
        scene.watch.checks["silent"] += 1
        await trio.lowlevel.checkpoint()

    for one in scene.attackers():
        _library(one.node).gossip.publish = keep_to_oneself
        _library(one.node).gossip.emit_ihave = keep_to_oneself
    await trio.sleep_forever()


# resend


class Frames:
    """What one attacker has heard, as it was signed by its authors."""

    def __init__(self, one: SimNode) -> None:
        self._node = one.node
        self._pubsub = _library(one.node).pubsub
        self._heard: deque[Any] = deque(maxlen=FRAMES_KEPT)
        push = self._pubsub.push_msg

        async def hear(forwarder: Any, message: Any) -> None:
            kept = rpc_pb2.Message()
            kept.CopyFrom(message)
            self._heard.append(kept)
            await push(forwarder, message)

        self._pubsub.push_msg = hear

    def say_again(self) -> int:
        """To every peer, all at once; how many messages that were."""
        rpc = rpc_pb2.RPC(publish=list(self._heard))
        gossip = _library(self._node).gossip
        for peer in tuple(self._pubsub.peer_queues):
            gossip.send_rpc(peer, rpc)
        return len(self._heard)


def _watch_what_comes_again(scene: Scene, one: SimNode) -> None:
    """`again`: an honest node is given each message of gossip once."""
    gossip, seen = vars(one.node.transport)["_gossip"], set[tuple[bytes, bytes]]()
    given = gossip._deliver  # noqa: SLF001 - what is watched

    def deliver(publisher: str, message: Any) -> None:
        scene.watch.checks["again"] += 1
        number = message.from_id, message.seqno
        if number in seen:
            scene.watch.violated("again", f"{one.name} was given a message of gossip twice")
        seen.add(number)
        given(publisher, message)

    vars(gossip)["_deliver"] = deliver


async def _resend(scene: Scene, all_frames: list[Frames]) -> None:
    for one in scene.honest():
        _watch_what_comes_again(scene, one)
    while True:
        await trio.sleep(RESEND_EVERY_SECONDS)
        for frames in all_frames:
            scene.watch.checks["resent"] += frames.say_again()


def _library(node: Node) -> Any:
    return vars(node.transport)["_library"]
