"""Discrete events instead of tasks: 100,000 nodes as arrays, a few of them real. See the docs.

A heap of ticks; at each of them whatever is due happens for all nodes at once.
"""

import hashlib
import heapq
import random
import time
from collections.abc import Callable

import numpy as np
from scripts.simulation.attacks.defences import listed
from scripts.simulation.checks.judging import NOBODY_KILLED, nothing_for
from scripts.simulation.checks.properties import VIOLATIONS_MAX, Violation
from scripts.simulation.events.crowd import TICKS_PER_SECOND, Bucketed, Crowd, Ints, Links, Versions
from scripts.simulation.events.found import Found, Spreading
from scripts.simulation.events.sample import START_MS, Said, Sampled, identity_of
from scripts.simulation.network.spread import spread
from scripts.simulation.options import Options

from aigrid.protocol.errors import AigridError
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.record import Record

Progress = Callable[[str, float], None]
SLOT_TICKS = 100  # whoever reconciles within this time does so at once
WELL_TICKS = 500
LOOK_TICKS = 5 * TICKS_PER_SECOND
WAITING = 40  # requests that wait, where it is looked at who would act
CHECKS = ("merged", "reconciled", "agrees", "indexed", "placed", "served")
"""What every run has to have looked at."""
OCCASIONS = {"merge": "older", "freshness": "older", "reconciliation": "fetched"}
"""What has to have come for a bug, or a missing defence, to show."""


class Events:
    """One run."""

    def __init__(self, options: Options, progress: Progress) -> None:
        self._options, self._progress = options, progress
        self.found = Found(options)
        self._rng = random.Random(f"{options.seed}/events")
        self._draws = np.random.default_rng(options.seed)
        self._digest = hashlib.sha256()
        links = Links(
            options.nodes,
            options.connections,
            spread(options.latency_ms),
            spread(options.loss),
            self._draws,
        )
        holders = list(range(options.holders))
        count = max(1, round(options.publish * options.duration_seconds))
        silent = options.nodes - options.holders  # half of a small crowd is left to speak
        sample = min(options.sample, max(2, silent // 2))
        speakers = min(silent - sample, count)
        self._speakers = holders + [
            options.holders + n
            for n in sorted(self._rng.sample(range(options.nodes - options.holders), speakers))
        ]
        names = set(self._speakers)
        others = [node for node in range(options.nodes) if node not in names]
        picked = sorted(self._rng.sample(others, sample))
        who = {node: identity_of(options.seed, node) for node in self._speakers}
        self.said = Said(identity_of(options.seed, -1), who, holders)
        self.crowd = Crowd(links, len(self._speakers), options.nodes, self._draws)
        seed = options.seed
        self.sample = {n: Sampled(n, identity_of(seed, n), self.said, seed) for n in picked}
        self._spreading: dict[int, Spreading] = {}
        self._of: dict[tuple[int, int], int] = {}  # (key, version) -> its number
        self._bucketed = Bucketed()
        self._heap: list[tuple[int, int, Callable[[int], None]]] = []
        self._order = self._look_again_at = 0
        every = int(LIMITS.sync_interval_seconds * TICKS_PER_SECOND)
        self._sync_at = self._draws.integers(0, every, options.nodes)

    # Time

    def _at(self, tick: int, act: Callable[[int], None]) -> None:
        self._order += 1
        heapq.heappush(self._heap, (tick, self._order, act))

    def _now_ms(self, tick: int) -> int:
        return START_MS + tick

    def _note(self, tick: int, *parts: object) -> None:
        self._digest.update(f"{tick} {' '.join(map(str, parts))}\n".encode())

    def _violated(self, tick: int, name: str, what: str) -> None:
        self._note(tick, "violation", name)
        if len(self.found.violations) < VIOLATIONS_MAX:
            self.found.violations.append(Violation(name, tick / TICKS_PER_SECOND, what))

    def _counted(self, name: str, amount: int = 1) -> None:
        self.found.checks[name] = self.found.checks.get(name, 0) + amount

    def run(self) -> Found:
        """All of it: load and faults, then until everybody holds the same."""
        began, options = time.process_time(), self._options
        end = int(options.duration_seconds * TICKS_PER_SECOND)
        self._plan(end)
        last = end + int(options.settle_seconds * TICKS_PER_SECOND)
        tick = 0
        while self._heap and tick <= last:
            tick, _, act = heapq.heappop(self._heap)
            act(tick)
            if tick > end and tick >= self._look_again_at and self._well():
                self.found.well_seconds = (tick - end) / TICKS_PER_SECOND
                break
            self._look_again_at = max(self._look_again_at, tick - tick % WELL_TICKS + WELL_TICKS)
            self._progress("faults and load" if tick <= end else "settling", min(1.0, tick / last))
        if self.found.well_seconds is None:
            self._violated(tick, "converged", f"after {options.settle_seconds:.0f} s not all agree")
        self.found.outrun = sum(
            one.left > 0 and len(self.said.versions[one.key]) > one.version
            for one in self._spreading.values()
        )
        self._look(tick)
        self._judge_sample(tick)
        self._note(tick, "sent", int(self.crowd.sent.sum()), self.crowd.lost)
        self._digest.update(self.crowd.held.tobytes())
        self.found.trace_hash = self._digest.hexdigest()
        self.found.end_seconds = tick / TICKS_PER_SECOND
        self.found.cpu_seconds = time.process_time() - began
        return self.found

    def _plan(self, end: int) -> None:
        options, rng = self._options, self._rng
        for key in range(options.holders):  # everybody knows what is offered at first
            record = self.said.say(key, self._speakers[key], START_MS, rng)
            self.crowd.held[key] = 1
            for one in self.sample.values():
                one.hear([record], START_MS)
        self.crowd.lossy = True
        for times, act in (
            (self._poisson(options.publish, end), self._issue),
            (self._poisson(options.rate, end), self._ask),
            (self._poisson(options.churn / 60, end), self._kill),
        ):
            for tick in times:
                self._at(tick, act)
        if options.partition:
            self._at(end // 4, self._split)
            self._at(3 * end // 4, self._heal)
        self._at(end, self._calm)
        settle = end + int(options.settle_seconds * TICKS_PER_SECOND)
        for tick in range(SLOT_TICKS, settle + 1, SLOT_TICKS):
            self._at(tick, self._reconcile)
        for tick in range(LOOK_TICKS, settle + 1, LOOK_TICKS):
            self._at(tick, self._look)

    def _poisson(self, rate: float, end: int) -> list[int]:
        times, now = [], 0.0
        while rate:
            now += self._rng.expovariate(rate) * TICKS_PER_SECOND
            if now >= end:
                break
            times.append(int(now))
        return times

    # What is said, and how it spreads

    def _issue(self, tick: int) -> None:
        up = [key for key, node in enumerate(self._speakers) if self.crowd.up[node]]
        if not up:
            return
        key = self._rng.choice(up)
        node = self._speakers[key]
        record = self.said.say(key, node, self._now_ms(tick), self._rng)
        version = len(self.said.versions[key])
        number = self._of[key, version] = len(self._of)
        one = self._spreading[number] = Spreading.begun(key, version, node, tick, self.crowd.up)
        self.found.due += one.left
        self.found.issued += 1
        self._note(tick, "issue", key, version, record.content_id[-8:])
        self._hear(number, np.array([node]), tick)

    def _arrive(self, tick: int) -> None:
        for number, nodes in self._bucketed.take(tick):
            self._hear(number, nodes[self.crowd.up[nodes]], tick)

    def _hear(self, number: int, nodes: Ints, tick: int) -> None:
        """Gossip: whoever hears it first takes it in, and passes it on."""
        one = self._spreading[number]
        first: Ints = nodes[~one.seen[nodes]]
        if not len(first):
            return
        one.seen[first] = True
        news = self.crowd.learn(one.key, one.version, first)
        record = self.said.versions[one.key][one.version - 1]
        fresh = set(news.tolist())
        for node in first.tolist() if self.sample else ():
            if node in self.sample:
                changed = self.sample[node].hear([record], self._now_ms(tick))
                self._agree(tick, node, changed == (node in fresh))
                older = self.crowd.held[one.key, node] > one.version
                self._counted("older", int(older))
        self._learned(number, news, tick)
        for due in self._bucketed.put(number, self.crowd.forward(first, tick)):
            self._at(due, self._arrive)

    def _learned(self, number: int, nodes: Ints, tick: int, *, killed: bool = False) -> None:
        """They have it, or were killed: nobody waits for these any more."""
        one = self._spreading.get(number)
        if one is None or one.left <= 0:
            return
        came: Ints = nodes[one.missing[nodes]]
        one.missing[came] = False
        one.left -= len(came)
        seconds = (tick - one.began) / TICKS_PER_SECOND
        if killed:
            self.found.killed += len(came)
        else:
            self.found.each.add(seconds, len(came))
        if not one.left:
            self.found.arrived += 1
            self.found.everywhere.add(seconds)
            self._note(tick, "everywhere", one.key, one.version)

    def _reconcile(self, tick: int) -> None:
        due = np.flatnonzero((self._sync_at <= tick) & self.crowd.up)
        self._sleep(due, LIMITS.sync_interval_seconds, tick)
        self._meet(*self.crowd.partners(due), tick)

    def _sleep(self, nodes: Ints, seconds: float, tick: int) -> None:
        """As `RecordSync.run` does between two of them."""
        pause = seconds * TICKS_PER_SECOND * self._draws.uniform(0.8, 1.2, len(nodes))
        self._sync_at[nodes] = tick + pause.astype(np.int64)

    def _meet(self, askers: Ints, asked: Ints, tick: int) -> None:
        compared = {}
        for node, peer in zip(askers.tolist(), asked.tolist(), strict=True):
            if node in self.sample:
                compared[node] = (self.said.held(self.crowd.held[:, peer]), peer)
        before = {node: self.crowd.held[:, node].copy() for node in self.sample}
        keys, nodes = self.crowd.reconcile(askers, asked)
        self._sleep(np.intersect1d(askers, nodes), LIMITS.sync_again_seconds, tick)
        for node, (theirs, _) in compared.items():
            self._really(node, theirs, before[node], tick)
        for node, one in self.sample.items():  # and those that were asked are given what they lack
            gained = self.crowd.held[:, node]
            if (gained != before[node]).any():
                one.hear(
                    self.said.held(np.where(gained > before[node], gained, 0)), self._now_ms(tick)
                )
        for node in compared:  # at once: the next peer might put right what this one put wrong
            self._compare(tick, node)
        versions = self.crowd.held[keys, nodes] if len(keys) else keys
        for key, version in sorted({*zip(keys.tolist(), versions.tolist(), strict=True)}):
            number = self._of.get((key, version))
            if number is not None:
                self._learned(number, nodes[(keys == key) & (versions == version)], tick)

    def _really(self, node: int, theirs: list[Record], before: Versions, tick: int) -> None:
        """The sampled node compares in the real conversation: it must fetch just what it lacks."""
        try:
            fetched = self.sample[node].reconcile(theirs, self._now_ms(tick))
        except AigridError as error:
            self._violated(tick, "reconciled", f"n{node}: {error.code.value}")
            return
        for record in theirs:
            key, version = self.said.key_of[record.content_id]
            lacks = version > before[key]
            self._counted("fetched", int(lacks))
            self._counted("older", int(version < before[key]))
            if lacks and record.content_id not in fetched:
                self._violated(tick, "reconciled", f"n{node} did not fetch key {key}")
        self._counted("reconciled")

    # Faults

    def _kill(self, tick: int) -> None:
        alive = np.flatnonzero(self.crowd.up)
        mortal = alive[~np.isin(alive, list(self.sample))]  # who is real runs throughout
        if len(mortal) < 2:
            return
        node = int(mortal[self._rng.randrange(len(mortal))])
        self._counted("killed")
        self.crowd.up[node] = False
        for number, one in self._spreading.items():
            if one.left and one.missing[node]:
                self._learned(number, np.array([node]), tick, killed=True)
        self._fault(tick, f"n{node} is killed")
        down = spread(self._options.down_seconds).draw(self._rng)
        self._at(tick + int(down * TICKS_PER_SECOND), lambda now: self._revive(now, node))

    def _revive(self, tick: int, node: int) -> None:
        if not self.crowd.up[node]:
            self.crowd.up[node] = True
            self._alive_again(tick, *self.crowd.links.of(np.array([node])))

    def _alive_again(self, tick: int, links: Ints, nodes: Ints) -> None:
        """These nodes have these links again: as `RecordSync.on_alive`, now and a little later."""
        first = np.flatnonzero(np.diff(nodes, prepend=-1))
        place = np.arange(len(nodes)) - np.repeat(first, np.diff(first, append=len(nodes)))
        again = tick + int(2 * LIMITS.gossip_interval_seconds * TICKS_PER_SECOND)
        for number in range(int(place.max(initial=-1)) + 1):
            askers = nodes[place == number]
            asked = self.crowd.links.peers[links[place == number]]

            def meet(now: int, askers: Ints = askers, asked: Ints = asked) -> None:
                able = self.crowd.reach(askers, asked)
                self._meet(askers[able], asked[able], now)

            meet(tick)
            self._at(again, meet)

    def _split(self, tick: int) -> None:
        count = round(self._options.partition * self._options.nodes)
        away = self._draws.choice(self._options.nodes, count, replace=False)
        self.crowd.side[away] = 1
        self._fault(tick, f"{count} nodes are cut off")

    def _heal(self, tick: int) -> None:
        links, nodes = self.crowd.links.of(np.arange(self._options.nodes))
        apart = self.crowd.side[nodes] != self.crowd.side[self.crowd.links.peers[links]]
        self.crowd.side[:] = 0
        self._alive_again(tick, links[apart], nodes[apart])
        self._fault(tick, "the partition heals")

    def _calm(self, tick: int) -> None:
        self.crowd.lossy = False
        for node in np.flatnonzero(~self.crowd.up).tolist():
            self._revive(tick, node)
        self._fault(tick, "faults end")

    def _fault(self, tick: int, what: str) -> None:
        self._note(tick, what)
        self.found.faults.append((tick / TICKS_PER_SECOND, what))

    # What is asked, and what must hold

    def _ask(self, tick: int) -> None:
        node = self._rng.choice(sorted(self.sample))
        self._counted("served")
        up = self.crowd.up & (self.crowd.side == self.crowd.side[node])
        chosen = self.sample[node].ask(
            {n: bool(up[n]) for n in self.said.holders}, self._now_ms(tick)
        )
        at = tick / TICKS_PER_SECOND
        self.found.asked.append((at, chosen is not None, -1 if chosen is None else chosen))
        self._note(tick, "ask", node, chosen)

    def _agree(self, tick: int, node: int, holds: bool) -> None:  # noqa: FBT001
        self._counted("merged")
        if not holds:
            self._violated(tick, "merged", f"n{node} merged otherwise than the arrays say")

    def _compare(self, tick: int, node: int) -> None:
        self._counted("agrees")
        if self.sample[node].column(self.crowd.keys) != self.crowd.held[:, node].tolist():
            self._violated(tick, "agrees", f"the store of n{node} differs from its column")

    def _look(self, tick: int) -> None:
        """Each sampled store holds just what its column says; and who would act is bounded."""
        able, acting = self.said.holders, set[int]()
        for node, one in sorted(self.sample.items()):
            self._compare(tick, node)
            verdicts = one.place(able, WAITING, self._now_ms(tick))
            acting |= {n for n, found in verdicts.items() if found.turn_seconds == 0.0}
        self.found.most_acting = max(self.found.most_acting, len(acting))

    def _well(self) -> bool:
        newest = np.array([len(self.said.versions.get(k, ())) for k in range(self.crowd.keys)])
        return bool((self.crowd.held[:, self.crowd.up] == newest[:, None]).all())

    def _judge_sample(self, tick: int) -> None:
        """Once all agree, the sampled nodes' indexes name the same, and they would place alike."""
        if self.found.well_seconds is None:
            return
        now_ms = self._now_ms(tick)
        expected = set(self.said.holders)
        told = set()
        for node, one in sorted(self.sample.items()):
            self._counted("indexed")
            if one.offering(now_ms) != expected:
                self._violated(tick, "indexed", f"n{node} does not know who offers the model")
            told.add(str(sorted(one.place(self.said.holders, WAITING, now_ms).items())))
        self._counted("placed", len(self.sample) - 1)
        if len(told) > 1:
            self._violated(tick, "placed", "who know the same place otherwise")
        success = [answered for _, answered, _ in self.found.asked]
        if success and sum(success) / len(success) < self._options.success_min:
            share = f"{sum(success) / len(success):.1%} of {len(success)}"
            self._violated(tick, "served", f"{share} would have been answered")
        self._judge_checks(tick)

    def _judge_checks(self, tick: int) -> None:
        """What was to be looked at, and never came."""
        if self._options.churn and not self.found.checks.get("killed"):
            self._violated(tick, "checked", NOBODY_KILLED)
        for name in CHECKS:
            if not self.found.checks.get(name):
                self._violated(tick, "checked", nothing_for(name))
        for broken in filter(None, (self._options.plant, *listed(self._options.without))):
            name = OCCASIONS.get(broken, CHECKS[0])
            if not self.found.checks.get(name):
                what = f"`{broken}` had no occasion to show: nothing {name} came"
                self._violated(tick, "checked", what)
