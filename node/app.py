"""The composition root: the one place that constructs services and says who knows whom.

`Node` runs over any `World`: the real one (`node/daemon.py`), or virtual time in the tests. Nothing
below reads a clock, draws randomness, opens a socket or starts a process by itself.
"""

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace

import trio

from aigrid.engines.base import Device, Estimate, ModelSource, Probe
from aigrid.metagraph.graph import Metagraph
from aigrid.metagraph.index import Index
from aigrid.metagraph.local import LocalState
from aigrid.metagraph.store import Store
from aigrid.node.auditing_setup import auditing_of
from aigrid.node.describing import describe, find_devices, usable_devices
from aigrid.node.discovery.announce import Announcer
from aigrid.node.discovery.gossip import Gossip
from aigrid.node.discovery.grid import Grid, Membership
from aigrid.node.discovery.interests import Interests
from aigrid.node.discovery.join_client import JoinClient
from aigrid.node.discovery.join_host import JoinHost
from aigrid.node.discovery.known import KnownPeers
from aigrid.node.discovery.mingling import Mingling
from aigrid.node.discovery.peers import Peers
from aigrid.node.discovery.providers import ProviderHints, hint_keys
from aigrid.node.discovery.rotation import Rotating
from aigrid.node.discovery.sync import RecordSync
from aigrid.node.discovery.typed_query import TypedQueries
from aigrid.node.expiry import Expiry
from aigrid.node.inbound import Inbound
from aigrid.node.known_engines import KnownEngines
from aigrid.node.learning_setup import learning_of
from aigrid.node.mesh.pool.fitting import fit
from aigrid.node.mesh.pool.progress import LoadProgress
from aigrid.node.mesh.routing.router import Router
from aigrid.node.mesh.shelf.bringing import Bringing, Fit
from aigrid.node.mesh.shelf.hosting import Hosting
from aigrid.node.mesh.shelf.hub import Hub
from aigrid.node.mesh.shelf.models import LocalModels
from aigrid.node.mesh.shelf.succession import take_over
from aigrid.node.network.streams import RpcClient, RpcServer
from aigrid.node.network.transport import JOIN_PROTOCOL, RPC_PROTOCOL
from aigrid.node.placement_setup import Placement
from aigrid.node.policy.assembly import Policy
from aigrid.node.policy.statuses import StatusKeeper
from aigrid.node.pool_setup import pins_of, pool_of
from aigrid.node.querying import Querying
from aigrid.node.serving_setup import serving_of
from aigrid.node.settings.config import NodeConfig
from aigrid.node.vitals_setup import vitals_of
from aigrid.node.weights_setup import weights_of
from aigrid.node.workers.failures import WorkerFailures
from aigrid.node.world import World
from aigrid.protocol.identity import Identity, did_of_peer_id, peer_id_of_did
from aigrid.protocol.kinds import Kind, NodeBody
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.record import Record

__all__ = ["Node", "World"]


class Node:
    """A node's services. Construct, then `run`; the attributes are what commands work with."""

    def __init__(
        self,
        config: NodeConfig,
        world: World,
        *,
        identity: Identity,
        authority: Identity | None,
    ) -> None:
        self.config = config
        self.identity = identity
        self.transport = world.transport
        self.now_ms = world.now_ms
        self.tracer = world.tracer
        self._world = world
        self._engines = KnownEngines(world.spawner, config.engines, changed=self._engines_changed)
        self._store = Store(world.database)
        self.local = LocalState(self._store)
        self._build_graph(authority)
        self._build_discovery()
        self._build_mesh()
        self._build_answering()
        self._wire()

    def _build_graph(self, authority: Identity | None) -> None:
        self.local.grid = grid = self.local.grid or (authority.did if authority else "")
        if authority is not None and authority.did != grid:
            authority = None  # of a grid that was left, by a node that died before retiring it
        self.graph = Metagraph(
            self._store,
            Index(),
            grid=grid,
            own_did=self.identity.did,
            open_to_strangers=self.config.open_to_strangers,
            now_ms=self.now_ms(),
        )
        self.querying = Querying(self.graph, start=self._world.start_dataset, now_ms=self.now_ms)
        self.statuses = StatusKeeper(
            self.graph,
            identity=self.identity,
            authority=lambda: self.grid.authority,
            now_ms=self.now_ms,
            random_bytes=self._world.random_bytes,
        )
        self.grid = Grid(
            identity=self.identity,
            membership=Membership(grid, authority),
            graph=self.graph,
            statuses=self.statuses,
            transport=self.transport,
            keys=self._world.keys,
            now_ms=self.now_ms,
            random_bytes=self._world.random_bytes,
        )

    def _build_discovery(self) -> None:
        world, rng = self._world, self._world.rng
        self.rpc = RpcClient(self.transport)
        self.join_client = JoinClient(
            self.grid,
            self.transport,
            now_ms=self.now_ms,
            random_bytes=world.random_bytes,
            name=self.config.name,
            remember=lambda host: self.known.learn(did_of_peer_id(host.peer_id), host.addresses),
        )
        self.join_host = JoinHost(
            self.grid,
            self.local,
            now_ms=self.now_ms,
            random_bytes=world.random_bytes,
            approve_everybody=self.config.open_to_strangers,
        )
        self.known = KnownPeers(
            self.local, own_peer_id=self.identity.peer_id, bootstrap=self.config.bootstrap
        )
        self.rotating = Rotating(self.grid, self.join_client, self.known, self.now_ms, rng)
        self.peers = Peers(
            self.transport,
            self.rpc,
            greet=self.join_client.greet,
            known_addresses=lambda: self.known.addresses(self.grid.sought(), rng),
            address_of=self.known.address_of,
            now_ms=self.now_ms,
            rng=rng,
        )
        self.interests = Interests(self.graph, chosen=self.config.interests, now_ms=self.now_ms)
        self.gossip = Gossip(
            self.transport, self.graph, self.interests, now_ms=self.now_ms, spreads=self._is_ours
        )
        self.sync = RecordSync(
            self.graph, self.rpc, self.peers, self.interests, now_ms=self.now_ms, rng=rng
        )
        self.hints = ProviderHints(self.transport, keys=self._hint_keys)
        self.typed_queries = TypedQueries(
            self.graph, self.rpc, self.peers, self.hints, now_ms=self.now_ms, rng=rng
        )
        self.mingling = Mingling(self.transport, self.peers, self.interests, self.grid, rng=rng)

    def _build_mesh(self) -> None:
        world = self._world
        self.models = LocalModels(
            self.config.data_dir / "models",
            cache_directory=self.config.data_dir / "cache",
            run_blocking=world.run_blocking,
            token=lambda: world.random_bytes(8).hex(),
            trusted=lambda model: self.hosting.trusted(model),  # noqa: PLW0108 - made later
        )
        self.loading = LoadProgress()
        self.pool = pool_of(
            self.config,
            world,
            self.models,
            engines_for=self._engines_for,
            on_change=self._offers_changed,
            name_of=lambda model: self.hosting.name(model),  # noqa: PLW0108 - made later
            progress=self.loading,
        )
        self.hosting: Hosting = Hosting(
            identity=self.identity,
            graph=self.graph,
            models=self.models,
            pool=self.pool,
            estimate=self._estimate,
            discover=world.spawner.discover,
            loading=self.loading,
            now_ms=self.now_ms,
            changed=self._shelf_changed,
            runs_code=self._engines.runs_code,
            takes=self._engines.takes,
            trusted_publishers=self.config.trusted_publishers,
            foresight=lambda: self.policy.foresight,
        )
        self.pins = pins_of(self.config, self, self._estimate)
        self.hub = Hub(self.config.data_dir / "downloads" / "hub", run_blocking=world.run_blocking)
        self.bringing = Bringing(
            models=self.models,
            hosting=self.hosting,
            read=world.spawner.read,
            fit=self._fit,
            formats=lambda: self._engines.table.formats,
            task_of=self.graph.index.concepts.task_of,
            trusted=self.identity.did in self.config.trusted_publishers,
        )

    def _build_answering(self) -> None:
        world = self._world
        self.policy = Policy(
            self.config,
            identity=self.identity,
            graph=self.graph,
            statuses=self.statuses,
            manifest_of=self.hosting.manifest,
            rpc=self.rpc,
            transport=self.transport,
            now_ms=self.now_ms,
            random_bytes=world.random_bytes,
        )
        self.serving = serving_of(self)
        self.vitals = vitals_of(self)
        self.weights = weights_of(self, formats=lambda: self._engines.table.formats)
        self.announcer = Announcer(
            self.graph,
            self.identity,
            describe=self._describe,
            offers=lambda: self.placement.offers(),  # noqa: PLW0108 - made later
            seeds=self.weights.seeds,
            now_ms=self.now_ms,
        )
        self.placement = Placement(self, self.weights, rng=world.rng)
        self.learning = learning_of(self)
        self.router = Router(
            own_peer_id=self.identity.peer_id,
            graph=self.graph,
            peers=self.peers,
            rpc=self.rpc,
            serving=self.serving,
            presenter=self.policy.presenter,
            receipts=self.policy.receipts,
            reach=self.typed_queries.ask,
            rotation_waits_for=lambda: self.rotating.waits_for,
            now_ms=self.now_ms,
            rng=world.rng,
            summon=self.placement.summon,
            own_problem=self.placement.why_not,
            remembered=self.learning,
        )
        self.auditor, self.audited = auditing_of(self, world.random_bytes)

    def _wire(self) -> None:
        answering = self.sync, self.typed_queries, self.serving, self.policy.giving
        inbound = Inbound(*answering, self.weights.giving, vitals=self.vitals, now_ms=self.now_ms)
        self.transport.handle_stream(RPC_PROTOCOL, RpcServer(inbound.handle).serve)
        self.transport.handle_stream(JOIN_PROTOCOL, self.join_host.serve, strangers=True)
        self.graph.listeners.append(self._on_record)
        self.interests.listeners.append(self.announcer.poke)
        self.peers.on_alive = self._on_alive
        self.grid.on_switched = self._on_switched
        self.on_switched: Callable[[], None] = lambda: None

    async def run(self, *, task_status: "trio.TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; `stop` first for a clean farewell."""
        async with AsyncExitStack() as stack:
            stack.callback(self._store.close)
            await self.models.open()
            await take_over(self.local, self.graph, self.models, self.identity, self.now_ms())
            await self.hub.sweep(self.now_ms())
            await stack.enter_async_context(self.transport.running())
            nursery = await stack.enter_async_context(trio.open_nursery())
            await nursery.start(self._world.spawner.run)
            nursery.start_soon(self._engines.run)
            self.grid.found()
            self.transport.announce_nearby(self.grid.did, self.config.name)
            for service in (
                self.rpc,
                self.grid,
                self.rotating,
                self.statuses,
                self.pool,
                self.weights,
                self.gossip,
                self.announcer,
                self.sync,
                self.peers,
                self.hints,
                self.typed_queries,
                self.mingling,
                self.querying,
                self.learning,
                self.auditor,
                Expiry(self.graph, now_ms=self.now_ms),
            ):
                await nursery.start(service.run)
            await self._engines.asked.wait()
            for late in (self.hosting.watch, self.pins, *self.placement.services):
                await nursery.start(late.run)
            task_status.started()
            await trio.sleep_forever()

    async def stop(self) -> None:
        """Withdraw offers, refuse new work, let live answers finish in time; cut off the rest."""
        self.announcer.withdraw()
        self.placement.demands.withdraw()
        await self.gossip.flush()
        with trio.move_on_after(LIMITS.drain_seconds):
            await self.serving.drain()
        await self.serving.cut_off()

    @property
    def probes(self) -> tuple[Probe, ...]:
        """What the installed engines have said, by name."""
        return self._engines.table.probes

    @property
    def sandbox(self) -> str:
        """What holds workers in."""
        return self._world.spawner.sandbox

    @property
    def worker_failures(self) -> WorkerFailures:
        """Of the workers that ended unasked, the newest ones, oldest first."""
        return self._world.spawner.worker_failures

    def new_request_id(self) -> str:
        return self._world.random_bytes(12).hex()

    def _describe(self) -> NodeBody:
        said = self.interests.announced()
        return describe(self.config, self.identity.did, self.transport, self.probes, said)

    def usable_devices(self) -> tuple[Device, ...]:
        """The devices that some engine can use, as they were when they were probed."""
        return usable_devices(self.probes)

    async def find_devices(self) -> tuple[Device, ...]:
        """Every device here, as free as it is now; and those that only engines know of."""
        return await find_devices(self._world.spawner, self.usable_devices())

    def _is_ours(self, record: Record) -> bool:
        authority = self.grid.authority
        return record.issuer in {self.identity.did, authority.did if authority else ""}

    def _hint_keys(self) -> frozenset[str]:
        offered, concepts = self.hosting.manifests(), self.graph.index.concepts
        return hint_keys(self.grid.did, offered, concepts, self.now_ms(), self.weights.seeds())

    def _shelf_changed(self) -> None:
        """Said at once: an offer under a manifest that was replaced is none."""
        self.announcer.announce()
        self.hints.poke()
        self.pins.poke()

    def _offers_changed(self) -> None:
        self.announcer.poke()
        self.hints.poke()

    def _on_record(self, record: Record) -> None:
        if record.kind is Kind.NODE:
            did, body = record.issuer, record.body
            is_member = self.graph.membership_of(did, self.now_ms()) is not None
            if is_member and isinstance(body, NodeBody) and self.known.learn(did, body.addresses):
                self.peers.moved(peer_id_of_did(did))
            self.peers.poke()
        elif record.kind is Kind.CAPABILITY:
            self.hints.poke()  # what we offer may now be known by more names

    async def _on_alive(self, peer_id: str) -> None:
        self.hints.poke()
        await self.sync.on_alive(peer_id)

    def _on_switched(self) -> None:
        """We are in another grid: forget the peers of the old one, say everything again."""
        self.local.grid = self.grid.did
        self.peers.forget()
        self.transport.announce_nearby(self.grid.did, self.config.name)
        self.announcer.start_over()
        self.gossip.repeat(self.identity.did)
        self.hints.poke()
        self.on_switched()

    def _engines_changed(self) -> None:
        self.pool.equip(self.usable_devices())
        self.announcer.poke()

    def _engines_for(self, source: ModelSource) -> tuple[str, ...]:
        return self._engines.table.engines_for(source)

    async def _fit(self, source: ModelSource) -> Fit:
        source = replace(source, room=self.pool.budget.room())
        return await fit(source, self._engines_for(source), self._world.spawner)

    async def _estimate(self, source: ModelSource) -> Estimate:
        return (await self._fit(source)).estimate
