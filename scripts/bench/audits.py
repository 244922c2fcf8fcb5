"""What audits do to cheats, and what they cost: a model over what a node decides with.

    python scripts/bench/audits.py --seeds 50 --requests 500
    python scripts/bench/audits.py --grid --seeds 20      # other constants

One node asks 20 others; which of them, `selection.rank` says. Each has 0 to 2 of its 2 slots in
use, drawn anew for each request, and a latency of its own; cheats are twice as quick as they would
be, as whoever does less work is. Two of the 20 (10 %) cheat, in one way:

- always: every answer is wrong;
- tenth: 10 % of answers are;
- name: none is for the first half of the requests, then every one;
- restart: honest in its first 20 answers, then wrong until it is blamed; then it has a new key and
  begins anew, at no cost;
- two_agree: always, and both give the same wrong answers;
- noise: always, and 1 % of what honest nodes answer, checks included, comes out otherwise;
- nobody: all are honest, with that noise;
- friend: 12 % of answers are, and a third node, honest but for that, says of each that it is right
  where it is asked to check, and takes a new key whenever it is about to be known.

A cheat that is asked to check cheats as it does otherwise: a check of a task looks like any other
request. Prints a JSON object for each row: the share of requests that got a wrong answer of a
cheat, with and without audits, and of the last half alone; the share of honest nodes that were ever
blamed, and that are suspects at the end though they were not once; checks for each request, in the
first and in the last half. `newcomer` is of an honest node that comes after half of 4,000
requests: what it is asked of the rest, where 1 is as much as everybody.
"""

import argparse
import json
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.bench.reporting import tell
from tests.metagraph.world import NOW, candidate

from aigrid.metagraph.evidence import Evidence
from aigrid.metagraph.selection import (
    DEFAULT_STRATEGY,
    STRATEGIES,
    Observation,
    Strategy,
    rank,
    score,
)
from aigrid.node.auditing import sampling, standing
from aigrid.node.auditing.comparing import Verdict
from aigrid.node.auditing.settling import UNSETTLED, Check, Settled, settle
from aigrid.protocol.limits import LIMITS

NODES, CHEATS, SLOTS, HONEST_FIRST = 20, 2, 2, 20
NOISE = 0.01
LATE = 4000
WAYS = ("always", "tenth", "name", "restart", "two_agree", "noise", "nobody", "friend")
FRIEND = "n2"
WAYS_TO_CHOOSE = {"balanced": STRATEGIES["balanced"], "tiers": DEFAULT_STRATEGY}
RIGHT = "right"
GRID: tuple[dict[str, Any], ...] = (
    {},
    {"audit_wrong_cost": 10},
    {"audit_wrong_cost": 30},
    {"audit_wrong_cost": 40},
    {"audit_standing_max": 20},
    {"audit_standing_max": 80},
    {"audit_share_new": 0.25},
    {"reputation_suspect": 0.4},
    {"audit_wrong_cost": 30, "reputation_suspect": 0.4},
)


@dataclass
class Peer:
    """A node as the one that asks sees it; `key` changes where it begins anew."""

    name: str
    cheats: bool
    ttft_ms: float
    key: int = 0
    answers: int = 0
    standing: float = 0.0
    blamed: int = 0
    was_known: bool = False

    @property
    def suspect(self) -> bool:
        return standing.reputation(self.standing) < LIMITS.reputation_suspect


@dataclass
class Tally:
    """What came of one run; `cheated` and `checks` by request."""

    cheated: list[bool] = field(default_factory=list)
    checks: list[int] = field(default_factory=list)
    blamed: float = 0.0
    fallen: float = 0.0
    newcomer: float = 0.0


class World:
    """Nodes that answer, and one that asks and audits."""

    def __init__(self, way: str, strategy: Strategy, share: float, seed: int, total: int) -> None:
        self.rng = random.Random(seed)
        self.way, self.strategy, self.share, self.total = way, strategy, share, total
        cheats = 0 if way == "nobody" else CHEATS
        self.peers = {f"n{n}": self._peer(f"n{n}", n < cheats) for n in range(NODES)}
        self.done = 0
        self.offers = [candidate(name, slots=SLOTS) for name in self.peers]

    def _peer(self, name: str, cheats: bool) -> Peer:  # noqa: FBT001
        return Peer(name, cheats, self.rng.uniform(100, 300) / (2 if cheats else 1))

    def order(self) -> str:
        """Who is asked."""
        seen = {
            one.name: Observation(running=self.rng.randint(0, SLOTS), ttft_ms=one.ttft_ms)
            for one in self.peers.values()
        }

        def reputation(did: str) -> float:
            peer = self.peers[did.removeprefix("did:")]
            return standing.reputation(peer.standing) if self.share else 1.0

        known = Evidence(reputations=reputation)
        made = rank(
            self.offers, seen, rng=self.rng, now_ms=NOW, strategy=self.strategy, evidence=known
        )
        return made.kept[0].candidate.node

    def work(self, peer: Peer) -> str:
        """What a node answers: those who say the same agree."""
        peer.answers += 1
        if not peer.cheats:
            off = self.way in {"noise", "nobody"} and self.rng.random() < NOISE
            return f"off-{self.rng.random()}" if off else RIGHT
        honest = {
            "tenth": self.rng.random() >= 0.1,
            "friend": self.rng.random() >= 0.12,
            "name": self.done < self.total // 2,
            "restart": peer.answers <= HONEST_FIRST,
        }.get(self.way, False)
        return RIGHT if honest else "lie" if self.way == "two_agree" else f"lie-{peer.name}"

    def request(self, made: Tally) -> None:
        asked = self.peers[self.order()]
        said = self.work(asked)
        made.cheated.append(asked.cheats and said != RIGHT)
        drawn = self.rng.random() < sampling.share(asked.standing, self.share)
        made.checks.append(self.audit(asked, said) if drawn else 0)
        self.done += 1

    def audit(self, asked: Peer, said: str) -> int:
        """As `Auditor` does. Returns how many checks it took."""
        others = {one.name: one.standing for one in self.peers.values() if one is not asked}
        first = self.peers[sampling.first_checker(others, self.rng)]
        del others[first.name]
        outputs = {first.name: self.again(first, asked, said)}
        checks = [Check(first.name, verdict(said, outputs[first.name]))]
        settled = settle(asked.name, checks)
        if settled is None:
            second = self.peers[sampling.second_checker(others, self.rng)]
            del others[second.name]
            outputs[second.name] = self.again(second, asked, said)
            checks.append(Check(second.name, verdict(said, outputs[second.name])))
            alike = outputs[first.name] == outputs[second.name]
            settled = settle(asked.name, checks, alike=alike)
        known = not all(self.peers[name].suspect for name in outputs)
        self.moved(settled or UNSETTLED)
        return len(checks) + (known and self.examined(asked, said, settled, others))

    def again(self, checker: Peer, asked: Peer, said: str) -> str:
        """What one that checks says."""
        covers = self.way == "friend" and checker.name == FRIEND and asked.cheats
        return said if covers else self.work(checker)

    def examined(
        self, asked: Peer, said: str, settled: Settled | None, others: dict[str, float]
    ) -> bool:
        """Whether one without standing was examined."""
        if settled is None or asked.name not in (*settled.right, *settled.wrong):
            return False
        name = sampling.examinee(others, self.rng)
        if name is None:
            return False
        agrees = self.again(self.peers[name], asked, said) == said
        right = agrees == (asked.name in settled.right)
        self.moved(Settled((name,), ()) if right else Settled((), (name,)))
        return True

    def moved(self, settled: Settled) -> None:
        for name in (*settled.right, *settled.wrong):
            peer, wrong = self.peers[name], name in settled.wrong
            peer.standing = standing.moved(peer.standing, wrong=wrong)
            peer.blamed += wrong
            if self.way == "friend" and name == FRIEND and not peer.suspect:
                peer.standing, peer.key = 0.0, peer.key + 1
            peer.was_known |= not peer.suspect
            if wrong and peer.cheats and self.way == "restart":
                peer.standing, peer.answers, peer.key = 0.0, 0, peer.key + 1


def verdict(said: str, again: str) -> Verdict:
    return "same" if said == again else "different"


def run(way: str, strategy: Strategy, share: float, seed: int, total: int) -> Tally:
    world, made = World(way, strategy, share, seed, total), Tally()
    for _ in range(total):
        world.request(made)
    honest = [one for one in world.peers.values() if not one.cheats]
    made.blamed = fmean(one.blamed > 0 for one in honest)
    made.fallen = fmean(one.was_known and one.suspect for one in honest)
    return made


def newcomer(strategy: Strategy, share: float, seed: int, total: int) -> float:
    """Of the second half's requests what one that came then was asked, in fair shares."""
    world, made = World("nobody", strategy, share, seed, total), Tally()
    for _ in range(total // 2):
        world.request(made)
    late = world.peers["n0"]
    late.standing, late.answers, before = 0.0, 0, len(made.checks)
    asked = 0
    for _ in range(before, total):
        asked += world.order() == late.name
        world.request(made)
    return asked / (total - before) * NODES


def summed(way: str, name: str, seeds: int, total: int) -> dict[str, float]:
    """Means over seeds, of the strategy of that name."""
    strategy = WAYS_TO_CHOOSE[name]
    plain = [run(way, strategy, 0.0, seed, total) for seed in range(seeds)]
    audited = [run(way, strategy, LIMITS.audit_share, seed, total) for seed in range(seeds)]
    half = total // 2
    shares = [[fmean(one.cheated[half:]) for one in runs] for runs in (audited, plain)]
    what = f"{name}, {way}: cheated, last half"
    tell(what, shares[0], "share", beside=("without audits", shares[1]))

    def mean(of: Callable[[Tally], float], runs: list[Tally]) -> float:
        return round(fmean(map(of, runs)), 4)

    return {
        "cheated_unaudited": mean(lambda one: fmean(one.cheated), plain),
        "cheated": mean(lambda one: fmean(one.cheated), audited),
        "cheated_unaudited_last_half": mean(lambda one: fmean(one.cheated[half:]), plain),
        "cheated_last_half": mean(lambda one: fmean(one.cheated[half:]), audited),
        "honest_blamed": mean(lambda one: one.blamed, audited),
        "honest_fallen": mean(lambda one: one.fallen, audited),
        "checks_first_half": mean(lambda one: fmean(one.checks[:half]), audited),
        "checks_last_half": mean(lambda one: fmean(one.checks[half:]), audited),
    }


@contextmanager
def bounds(**other: Any) -> Iterator[None]:
    """Other constants, wherever they are read."""
    changed = replace(LIMITS, **other)
    with ExitStack() as stack:
        for module in (sampling, standing, score, sys.modules[__name__]):
            stack.enter_context(patch.object(module, "LIMITS", changed))
        yield


def grid(seeds: int, total: int) -> None:
    """Other constants: cheated shares by way, and the checks and honest falls of `noise`."""
    for number, other in product(range(len(GRID)), (0.02, 0.05)):
        constants = {**GRID[number], "audit_share": other}
        with bounds(**constants):
            for name, strategy in WAYS_TO_CHOOSE.items():
                row: dict[str, object] = {**constants, "strategy": name}
                for way in ("tenth", "name", "noise"):
                    runs = [run(way, strategy, other, seed, total) for seed in range(seeds)]
                    row[way] = round(fmean(fmean(one.cheated) for one in runs), 4)
                row["noise_fallen"] = round(fmean(one.fallen for one in runs), 4)
                row["checks"] = [
                    round(fmean(fmean(one.checks[part]) for one in runs), 3)
                    for part in (slice(None, total // 2), slice(total // 2, None))
                ]
                fair = [newcomer(strategy, other, seed, total) for seed in range(seeds)]
                row["newcomer"] = round(fmean(fair), 3)
                print(json.dumps(row), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--grid", action="store_true")
    parser.add_argument("--strategy", choices=tuple(WAYS_TO_CHOOSE), action="append")
    parser.add_argument("--way", choices=WAYS, action="append")
    given = parser.parse_args()
    if given.grid:
        return grid(given.seeds, given.requests)
    for name in given.strategy or WAYS_TO_CHOOSE:
        strategy = WAYS_TO_CHOOSE[name]
        for way in given.way or WAYS:
            found = summed(way, name, given.seeds, given.requests)
            print(json.dumps({"strategy": name, "way": way, **found}), flush=True)
        share = LIMITS.audit_share
        fair = [newcomer(strategy, share, n, LATE) for n in range(given.seeds // 5 or 1)]
        print(json.dumps({"strategy": name, "newcomer": round(fmean(fair), 3)}))
    return None


if __name__ == "__main__":
    main()
