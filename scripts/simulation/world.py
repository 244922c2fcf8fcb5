"""Whole nodes in virtual time: real services over the in-memory transport, nothing else.

Everything a node could differ by comes from one seed, so a run can be repeated.
"""

import hashlib
import random
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import trio
from msgspec import UNSET, UnsetType

from aigrid.engines.base import Engine
from aigrid.node.app import Node, World
from aigrid.node.network.memory_network import MemoryNetwork
from aigrid.node.network.memory_transport import MemoryTransport
from aigrid.node.network.transport import Transport
from aigrid.node.observing.trace import NO_TRACER, Tracer
from aigrid.node.policy.caller import OPERATOR
from aigrid.node.settings.config import NodeConfig
from aigrid.node.settings.placement import PlacementConfig
from aigrid.node.settings.share import ShareConfig
from aigrid.node.settings.trust import TrustConfig
from aigrid.node.settings.weights import WeightsConfig
from aigrid.node.workers.inline import InlineSpawner
from aigrid.protocol.identity import Identity
from aigrid.protocol.inference import ChatMessage, Finish, TextChunk, TextRequest
from aigrid.protocol.membership import invitation_text
from aigrid.protocol.mesh_kinds import Serves
from aigrid.protocol.model import ModelDescription
from aigrid.protocol.record import Record

START_MS = 1_800_000_000_000
TRACE_KEPT_MAX = 2000


@dataclass
class MemoryKeys:
    """Keys live in memory only; `rotation` is the one that waits to be presented."""

    rotation: Record | None = None
    former: Sequence[Record] = ()

    def retire_authority(self) -> None:
        pass

    def pending_rotation(self) -> Record | None:
        return self.rotation

    def clear_rotation(self) -> None:
        self.rotation = None

    def of_former_keys(self) -> Sequence[Record]:
        return self.former


async def run_inline(function: Any) -> Any:
    """There are no threads in virtual time."""
    await trio.lowlevel.checkpoint()
    return function()


@dataclass
class SimClock:
    """A wall clock that is wrong by `skew_seconds`."""

    right_ms: Callable[[], int]
    skew_seconds: float = 0.0

    def now_ms(self) -> int:
        return self.right_ms() + round(self.skew_seconds * 1000)


@dataclass
class SimNode:
    """A node and the scope that kills it."""

    name: str
    node: Node
    spawner: InlineSpawner
    clock: SimClock
    up_since: float = field(default_factory=trio.current_time)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)


class Simulation:
    """Starts, kills and restarts nodes; `transport` of identity, address and clock, or the model.

    What happened is hashed in order, and `trace` has the end of it; `learned` hear which node has
    taken in which record, those that it issued itself included. `skews` are how many seconds clocks
    of machines are ahead, by the names of their nodes: starting one again does not set its clock.
    """

    def __init__(
        self,
        seed: int,
        directory: Path,
        nursery: trio.Nursery,
        network: MemoryNetwork | None = None,
        transport: Callable[[Identity, str, Callable[[], int]], Transport] | None = None,
    ) -> None:
        self.rng = random.Random(seed)
        self.seed = seed
        self.directory = directory
        self.network = network or MemoryNetwork(rng=self.rng, latency_seconds=(0.005, 0.05))
        self._transport = transport or self._memory_transport
        self.nodes: dict[str, SimNode] = {}
        self.identities: dict[str, Identity] = {}  # of those that chose theirs
        self.skews: dict[str, float] = {}
        self.trace: deque[str] = deque(maxlen=TRACE_KEPT_MAX)
        self.learned: list[Callable[[str, Record], None]] = []
        self._digest = hashlib.sha256()
        self._nursery = nursery
        self._skipped_seconds = 0.0

    def _memory_transport(
        self, identity: Identity, address: str, _now_ms: Callable[[], int]
    ) -> Transport:
        return MemoryTransport(self.network, identity.peer_id, address=address)

    def now_ms(self) -> int:
        return START_MS + round((trio.current_time() + self._skipped_seconds) * 1000)

    def skip_seconds(self, seconds: float) -> None:
        """Let the wall clock of everybody jump, as after a suspend."""
        self._skipped_seconds += seconds

    def note(self, *parts: object) -> None:
        line = f"{trio.current_time():.6f} " + " ".join(map(str, parts))
        self._digest.update(line.encode() + b"\n")
        self.trace.append(line)

    def trace_hash(self) -> str:
        """Of everything noted so far: the same options and seed give the same one."""
        return self._digest.hexdigest()

    def _learns(self, name: str, record: Record) -> None:
        self.note(name, "learns", record.kind.value, record.content_id[-8:])
        for heard in self.learned:
            heard(name, record)

    async def start(
        self,
        name: str,
        *,
        incarnation: int = 0,
        with_authority: bool | None = None,
        interests: frozenset[str] | None = None,
        region: str = "",
        trusted_publishers: Collection[str] = (),
        identity: Identity | None = None,
        rotation: Record | None = None,
        former: Sequence[Record] = (),
        placement: PlacementConfig | None = None,
        weights: WeightsConfig | None = None,
        share: ShareConfig | None = None,
        trust: TrustConfig | None = None,
        tracer: Tracer = NO_TRACER,
        engines: Mapping[str, Callable[[], Engine]] | None = None,
        skew_seconds: float = 0.0,
    ) -> SimNode:
        """Start a node; a later `incarnation` restarts it on its database and another address.

        It has the key of its name, unless `identity` is another; `rotation` waits to be presented,
        `former` is what its former keys let it sign.
        Only the first one brings an authority key, unless `with_authority` says otherwise. It
        replicates everything, unless `interests` names branches.
        """
        identity = identity or self.identity_of(name)
        authority = Identity(hashlib.sha256(f"{self.seed}/{name}/grid".encode()).digest())
        rng = random.Random(f"{self.seed}/{name}/{incarnation}")
        clock = SimClock(self.now_ms, self.skews.get(name, skew_seconds))
        address = self.address_of(name, incarnation)
        transport = self._transport(identity, address, clock.now_ms)
        home = self.directory / name
        home.mkdir(exist_ok=True)
        spawner = InlineSpawner() if engines is None else InlineSpawner(engines)
        world = World(
            transport=transport,
            spawner=spawner,
            now_ms=clock.now_ms,
            rng=rng,
            random_bytes=rng.randbytes,
            run_blocking=run_inline,
            keys=MemoryKeys(rotation, former),
            database=home / "records.db",
            memory={"cpu": 1 << 30},
            tracer=tracer,
        )
        config = NodeConfig(
            data_dir=home,
            name=name,
            region=region,
            threads=1,
            interests=interests,
            trusted_publishers=frozenset(trusted_publishers),
            placement=placement or PlacementConfig(),
            weights=weights or WeightsConfig(),
            share=share or ShareConfig(),
            trust=trust or TrustConfig(),
        )
        holds = incarnation == 0 if with_authority is None else with_authority
        node = Node(config, world, identity=identity, authority=authority if holds else None)
        node.graph.listeners.append(partial(self._learns, name))
        sim_node = SimNode(name, node, spawner, clock)
        self.nodes[name] = sim_node
        await self._nursery.start(partial(self._run, sim_node))
        return sim_node

    @staticmethod
    def address_of(name: str, incarnation: int = 0) -> str:
        """Where a node of this name is; long enough that thousands do not collide."""
        a, b, c, d = hashlib.sha256(name.encode()).digest()[:4]
        return f"/ip4/10.{incarnation & 255}.{a}.{b}/tcp/{1024 + ((c << 8) + d) % 60_000}"

    def identity_of(self, name: str) -> Identity:
        """The key that a node of this name has if nothing else is said."""
        return self.identities.get(name) or Identity(
            hashlib.sha256(f"{self.seed}/{name}".encode()).digest()
        )

    async def _run(self, sim_node: SimNode, *, task_status: Any) -> None:
        with sim_node.scope:
            await sim_node.node.run(task_status=task_status)

    async def join(self, name: str, host: str) -> None:
        """Invite `name` at `host`, and redeem."""
        newcomer = self.nodes[name].node
        invitation = self.nodes[host].node.grid.invite(newcomer.identity.did)
        await newcomer.join_client.redeem(invitation_text(invitation))
        self.note(name, "joined")

    def kill(self, name: str) -> None:
        sim_node = self.nodes.pop(name)
        self.network.kill(sim_node.node.identity.peer_id)
        sim_node.scope.cancel()
        self.note(name, "killed")

    async def publish_echo(
        self,
        name: str,
        model_name: str,
        *,
        capability: str = "text-generation",
        languages: tuple[str, ...] = (),
        serves: Serves | UnsetType = UNSET,
        **options: Any,
    ) -> str:
        description = ModelDescription(
            format="echo", task="text-generation", files=(), options={"tag": model_name, **options}
        )
        published = await self.nodes[name].node.hosting.add(
            description,
            {},
            name=model_name,
            capabilities=(capability,),
            license_id="Apache-2.0",
            languages=languages,
            serves=serves,
        )
        self.note(name, "published", published.model[-8:])
        return published.model

    async def ask(self, name: str, model: str, text: str) -> tuple[str, str]:
        """(answer, PeerId of who served it)."""
        node = self.nodes[name].node
        request = TextRequest(messages=(ChatMessage("user", text),))
        parts = []
        async with node.router.infer(
            model, request, request_id=node.new_request_id(), caller=OPERATOR
        ) as answer:
            async for batch in answer.chunks:
                parts += [chunk.text for chunk in batch if isinstance(chunk, TextChunk)]
                if isinstance(batch[-1], Finish):
                    break
            self.note(name, "answered by", answer.node[-6:], "attempts", answer.attempts)
            return "".join(parts), answer.node


async def eventually(condition: Any, *, seconds: float, poll_seconds: float = 0.05) -> float:
    """Wait in virtual time until `condition()` holds; the time it took."""
    start = trio.current_time()
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - virtual time costs nothing
            await trio.sleep(poll_seconds)
    return trio.current_time() - start
