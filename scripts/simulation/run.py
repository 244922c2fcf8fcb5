"""One run: a grid comes up, is used under faults and attacks, and has to be well again."""

import math
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trio
from scripts.simulation import deterministic
from scripts.simulation.attacks.attackers import arm, engine_of, identities
from scripts.simulation.attacks.defences import without
from scripts.simulation.attacks.occasions import unshown
from scripts.simulation.checks.judging import judge
from scripts.simulation.checks.promptly import spread_seconds
from scripts.simulation.checks.properties import Violation, Watch
from scripts.simulation.checks.wrong_clocks import WrongClocks, is_far
from scripts.simulation.doubles import crashing
from scripts.simulation.faults import Faults
from scripts.simulation.joining import Joining, come_up_seconds
from scripts.simulation.network.conditions import Conditions
from scripts.simulation.network.networks import net_of
from scripts.simulation.network.spread import spread
from scripts.simulation.options import Options
from scripts.simulation.plants import planted
from scripts.simulation.ready import put, stored
from scripts.simulation.scene import Scene
from scripts.simulation.workload import CAPABILITY, Request, Workload, publish, say_afresh
from scripts.simulation.world import SimNode, Simulation, eventually

from aigrid.engines.base import Engine
from aigrid.node.settings.placement import PlacementConfig
from aigrid.node.settings.trust import TrustConfig
from aigrid.protocol.limits import LIMITS

FOUNDER = "n0000"
AFTER_SECONDS = 10.0
LOOK_SECONDS = 1.0
QUICK_JOINS = 10_000.0
BAD_TIMES_QUICKER = 10
DATABASES_BYTES = 1 << 29  # of caches of all nodes together, and of logs
POLL_SECONDS = 0.001  # for each node, between two looks at all of them

Progress = Callable[[str, float], None]


@dataclass
class Outcome:
    """What a run came to. Seconds are virtual, but for `cpu_seconds`.

    Attributes:
        phases: name -> (virtual seconds, CPU seconds) that it took.
        well_seconds: from the end of the faults until liveness held; None where it never did.
        names: of nodes, by PeerId.
        refused_joins: by code.
    """

    options: Options
    trace_hash: str = ""
    violations: list[Violation] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    phases: dict[str, tuple[float, float]] = field(default_factory=dict)
    faults: list[tuple[float, str]] = field(default_factory=list)
    well_seconds: float | None = None
    watch: Watch | None = None
    network: Conditions | None = None
    names: dict[str, str] = field(default_factory=dict)
    records: int = 0
    refused_joins: Counter[str] = field(default_factory=Counter)
    attackers: list[str] = field(default_factory=list)
    clocks_reported: dict[str, int] = field(default_factory=dict)
    last_events: list[str] = field(default_factory=list)

    @property
    def well(self) -> bool:
        return not self.violations

    @property
    def cpu_seconds(self) -> float:
        return sum(cpu for _, cpu in self.phases.values())

    @property
    def virtual_seconds(self) -> float:
        return sum(virtual for virtual, _ in self.phases.values())


def _silent(_phase: str, _share: float) -> None:
    pass


def simulate(options: Options, directory: Path, progress: Progress = _silent) -> Outcome:
    """Run it; `directory` is empty, and takes the nodes' databases."""
    limits: dict[str, float] = {"connections_wanted": options.connections}
    for name in ("database_cache_bytes", "database_log_bytes"):
        limits[name] = min(getattr(LIMITS, name), DATABASES_BYTES // options.nodes)
    if not options.storm:
        limits |= dict.fromkeys(("joins_burst", "joins_per_second"), QUICK_JOINS)
    outcome = Outcome(options)
    repeatable = net_of(options.net).repeatable(options.seed)
    with deterministic.limits(**limits), deterministic.cheap_nodes(), repeatable:
        deterministic.run(options.seed, _Run(options, directory, progress, outcome).main)
    return outcome


class _Run:
    def __init__(
        self, options: Options, directory: Path, progress: Progress, outcome: Outcome
    ) -> None:
        self._options = options
        self._directory = directory
        self._progress = progress
        self._outcome = outcome
        self._incarnations: dict[str, int] = {}
        self._rng = random.Random(f"{options.seed}/run")
        self._models = tuple(f"parrot-{n}" for n in range(options.models))
        names = [f"n{n:04d}" for n in range(options.nodes)]
        self._bad = sorted(self._rng.sample(names[1:], options.attackers))
        self._good = [name for name in names if name not in set(self._bad)]
        self._holders = self._rng.sample(self._good[1:], options.holders)
        self._mortal = [name for name in self._good[1:] if name not in self._holders[:1]]
        self._names = names

    async def main(self) -> None:
        """Everything, within one nursery whose end kills all nodes."""
        outcome, options = self._outcome, self._options
        net, network_rng = net_of(options.net), random.Random(f"{options.seed}/network")
        network = net.conditions(network_rng, spread(options.latency_ms), spread(options.loss))
        self._network = network
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(network.run)
                self._sim = Simulation(
                    options.seed, self._directory, nursery, network, partial(net.transport, network)
                )
                self._watch = Watch(
                    self._sim,
                    network,
                    patience_seconds=options.patience_seconds,
                    spread_seconds=spread_seconds(options),
                )
                self._scene = Scene(
                    options,
                    self._sim,
                    self._watch,
                    tuple(self._bad),
                    self._models,
                    tuple(self._holders),
                    FOUNDER,
                    self._offer,
                )
                self._joining = Joining(self._sim, FOUNDER, outcome.refused_joins)
                await self._live()
                nursery.cancel_scope.cancel()
        except Exception as error:  # noqa: BLE001 - boundary: whatever ends a node ends the run
            self._watch.violated("no_crash", _first_line(error))
        outcome.watch, outcome.network = self._watch, self._network
        outcome.violations = self._watch.violations
        self._sim.note("sent", *self._network.sent())
        outcome.trace_hash = self._sim.trace_hash()
        outcome.last_events = list(self._sim.trace)[-40:]

    async def _live(self) -> None:
        self._outcome.attackers = self._bad
        self._watch.exempt.update(self._bad)
        try:
            with trio.fail_after(come_up_seconds(self._options)):
                await self._timed("come_up", self._come_up)
        except trio.TooSlowError:
            self._watch.violated("comes_up", self._joining.why())
            return
        with planted(self._options.plant) as ran, without(self._options.without) as left_out:
            await self._timed("be_used", self._be_used)
            await self._timed("recover", self._recover)
        caught = bool(self._watch.violations)
        for what in unshown(self._options, ran, left_out, caught=caught):
            self._watch.violated("checked", what)
        self._outcome.records = len(self._sim.nodes[FOUNDER].node.graph.items(self._sim.now_ms()))

    async def _timed(self, name: str, phase: Callable[[], Awaitable[None]]) -> None:
        began, cpu = trio.current_time(), time.process_time()
        try:
            await phase()
        finally:
            spent = trio.current_time() - began, time.process_time() - cpu
            self._outcome.phases[name] = spent

    # The grid comes up

    async def _come_up(self) -> None:
        self._sim.identities = identities(self._scene)
        await (self._start_ready() if self._options.ready else self._start_all())
        self._outcome.names = {
            one.node.identity.peer_id: name for name, one in self._sim.nodes.items()
        }
        self._watch.admitted.update(one.node.identity.did for one in self._sim.nodes.values())
        if not self._options.ready:
            await self._joining.all(
                self._names[1:],
                at_once=self._options.storm,
                progress=partial(self._progress, "joining"),
            )
        poll_seconds = POLL_SECONDS * len(self._names)
        await eventually(self._all_met, seconds=math.inf, poll_seconds=poll_seconds)
        async with trio.open_nursery() as nursery:
            for name in self._holders:
                nursery.start_soon(self._offer_all, name)
        await eventually(self._all_offered, seconds=math.inf, poll_seconds=poll_seconds)
        self._attack = await arm(self._scene)
        await trio.sleep(3)

    async def _start_all(self) -> None:
        for name in self._names:
            await self._start(name)

    async def _start_ready(self) -> None:
        """All at once, each on what it would hold had it joined."""
        await self._start(FOUNDER)
        founder = self._sim.nodes[FOUNDER]
        database = stored(founder, self._sim, self._names[1:])
        self._watch.assume(founder.node.graph.live_records(self._sim.now_ms()))
        async with trio.open_nursery() as nursery:
            for name in self._names[1:]:
                put(database, self._sim, name)
                nursery.start_soon(self._start, name)

    def _all_met(self) -> bool:
        """Whether all know all, and nobody is alone."""
        nodes, every = [one.node for one in self._sim.nodes.values()], len(self._names)
        return all(
            len(node.grid.members()) == every and node.peers.alive_members() for node in nodes
        )

    async def _start(self, name: str) -> None:
        options, rng = self._options, random.Random(f"{self._options.seed}/{name}/machine")
        engine: Callable[[], Engine] = crashing(
            options.crashes, rng, lasts=lambda: self._network.lossy
        )
        if name in self._bad:
            engine = engine_of(options.kind)
        incarnation = self._incarnations[name] = self._incarnations.get(name, -1) + 1
        started = await self._sim.start(
            name,
            incarnation=incarnation,
            engines={"echo": engine},
            placement=PlacementConfig(host="nothing" if name in self._bad else "members"),
            trust=TrustConfig(audit=options.audit),
        )
        if incarnation:
            self._watch.started_again(name)
        started.spawner.start_seconds = spread(options.load_seconds).draw(rng)
        started.spawner.chunk_seconds = spread(options.token_ms).draw(rng) / 1000
        if name in self._bad:  # whoever wants to be asked had better be quick
            started.spawner.chunk_seconds /= BAD_TIMES_QUICKER

    async def _offer(self, name: str, model_name: str) -> None:
        model = await self._sim.publish_echo(
            name, model_name, capability=CAPABILITY, slots=self._options.slots
        )
        if not self._options.cold:
            async with self._sim.nodes[name].node.pool.lease(model):
                pass

    async def _offer_all(self, name: str) -> None:
        for model in self._models:
            await self._offer(name, model)

    def _all_offered(self) -> bool:
        """Whether every node knows every holder of every model; only few are its own peers."""
        holders, now_ms = len(self._holders), self._sim.now_ms()
        for one in self._watch.honest():
            offered = one.node.graph.index.models(now_ms)
            if {len(summary.candidates) for summary in offered} != {holders}:
                return False
            if {name for summary in offered for name in summary.names} != set(self._models):
                return False
        return True

    # It is used

    async def _be_used(self) -> None:
        options, sim, watch = self._options, self._sim, self._watch
        faults = self._faults = Faults(
            options,
            sim,
            self._network,
            random.Random(f"{options.seed}/faults"),
            restart=self._start,
            killed=watch.killed,
        )
        self._workload = Workload(
            random.Random(f"{options.seed}/workload"),
            self._askers,
            lambda peer_id: self._outcome.names.get(peer_id, "?"),
            models=self._models,
            words=options.words,
            by_capability=options.by_capability,
            patience_seconds=options.patience_seconds,
            done=watch.ended,
        )
        self._outcome.requests = self._workload.requests
        self._outcome.faults = faults.log
        clocks = WrongClocks(options, sim, self._network, watch, faults)
        far_off = set(self._mortal[: options.skewed]) if is_far(options) else set()
        watch.exempt |= far_off
        watch.measured = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(faults.run, self._mortal, self._holders)
            nursery.start_soon(self._look, clocks)
            nursery.start_soon(self._attack)
            nursery.start_soon(clocks.speak)
            rng = random.Random(f"{options.seed}/publish")
            nursery.start_soon(
                publish, rng, self._speakers, options.publish, options.duration_seconds
            )
            await self._workload.run(options.rate, options.duration_seconds)
            self._outcome.clocks_reported = clocks.look()
            clocks.look_at_refused()
            nursery.cancel_scope.cancel()
        await faults.stop()
        watch.exempt -= far_off
        watch.look_at_attack()

    def _askers(self) -> list[SimNode]:
        honest = [one for one in self._watch.honest() if one.name not in self._faults.down]
        return honest[: self._options.askers or None]

    def _speakers(self) -> list[SimNode]:
        """Those whose clock is far off, too: what they say is to be refused."""
        unheard = {*self._bad, *self._faults.down}
        return [one for name, one in sorted(self._sim.nodes.items()) if name not in unheard]

    async def _look(self, clocks: WrongClocks) -> None:
        began = trio.current_time()
        while True:
            self._watch.check()
            clocks.look()
            passed = trio.current_time() - began
            self._progress("faults and load", min(1.0, passed / self._options.duration_seconds))
            await trio.sleep(LOOK_SECONDS)

    # It has to be well again

    async def _recover(self) -> None:
        options, watch = self._options, self._watch
        watch.measured = False
        self._outcome.well_seconds = await watch.until_well(
            options.settle_seconds, lambda share: self._progress("settling", share)
        )
        rng = random.Random(f"{options.seed}/afresh")
        watch.afresh = True
        say_afresh(rng, watch.honest(), self._sim.skews)
        watch.afresh = False
        await self._workload.run(max(options.rate, 1.0), AFTER_SECONDS, after=True)
        watch.check()
        if self._outcome.well_seconds is not None:
            await watch.look_on(watch.early_seconds())
            await watch.until_well(options.settle_seconds, lambda _share: None)
        judge(
            options,
            watch,
            self._workload.requests,
            cut_off=self._faults.cut_off,
            killed=self._faults.kills,
        )


def _first_line(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
