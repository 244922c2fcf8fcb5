"""Very many nodes, held as arrays: who is linked to whom, and which version of what each holds.

Time is in ticks of a millisecond. Modelled, not run: gossip floods over links, a hop may be lost;
whoever reconciles with a peer and that peer hold afterwards what either held, the newest of each
key. The sampled nodes (`sample`) do both with the real code, and have to come to the same.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scripts.simulation.network.spread import Spread

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
Versions = NDArray[np.int32]
TICKS_PER_SECOND: Final = 1000


def drawn(spread: Spread, rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """So many values of a distribution."""
    match spread.kind:
        case "uniform":
            return rng.uniform(spread.first, spread.second, count)
        case "lognormal":
            return spread.first * rng.lognormal(0.0, spread.second, count)
        case "exponential":
            return rng.exponential(spread.first, count)
        case _:
            return np.full(count, spread.first)


class Links:
    """An undirected graph: each node seeks so many others at random.

    `peers[starts[n]:starts[n + 1]]` are the peers of n, in `ticks` how far they are, in `losses`
    the share of hops that is lost.
    """

    def __init__(
        self, nodes: int, sought: int, latency_ms: Spread, loss: Spread, rng: np.random.Generator
    ) -> None:
        a = np.repeat(np.arange(nodes), min(sought, nodes - 1))
        b = (a + rng.integers(1, nodes, len(a))) % nodes
        pairs = np.unique(np.minimum(a, b) * nodes + np.maximum(a, b))
        low, high = pairs // nodes, pairs % nodes
        ticks = np.maximum(1, np.ceil(drawn(latency_ms, rng, len(pairs)))).astype(np.int64)
        lost = np.minimum(0.9, drawn(loss, rng, len(pairs)))
        source = np.concatenate((low, high))
        order = np.argsort(source, kind="stable")
        self.peers: Ints = np.concatenate((high, low))[order]
        self.ticks: Ints = np.concatenate((ticks, ticks))[order]
        self.losses: NDArray[np.float64] = np.concatenate((lost, lost))[order]
        self.starts: Ints = np.searchsorted(source[order], np.arange(nodes + 1))

    def of(self, nodes: Ints) -> tuple[Ints, Ints]:
        """All links of these nodes: indexes into `peers`, and whose each is."""
        counts = self.starts[nodes + 1] - self.starts[nodes]
        ends = np.cumsum(counts)
        total = int(ends[-1]) if len(ends) else 0
        within = np.arange(total) - np.repeat(ends - counts, counts)
        return np.repeat(self.starts[nodes], counts) + within, np.repeat(nodes, counts)


@dataclass
class Crowd:
    """Attributes:
    held: by key and node the version that it holds, 0 for none.
    up: which nodes run; `side` tells those apart that a partition keeps from each other.
    sent: messages by node.
    """

    links: Links
    keys: int
    nodes: int
    rng: np.random.Generator
    lossy: bool = False
    lost: int = 0
    held: Versions = field(init=False)
    up: Flags = field(init=False)
    side: NDArray[np.int8] = field(init=False)
    sent: Ints = field(init=False)

    def __post_init__(self) -> None:
        self.held = np.zeros((self.keys, self.nodes), np.int32)
        self.up = np.ones(self.nodes, np.bool_)
        self.side = np.zeros(self.nodes, np.int8)
        self.sent = np.zeros(self.nodes, np.int64)

    def learn(self, key: int, version: int, nodes: Ints) -> Ints:
        """Merge one version at these nodes; those to which it is news."""
        news: Ints = nodes[self.held[key, nodes] < version]
        self.held[key, news] = version
        return news

    def forward(self, nodes: Ints, tick: int) -> dict[int, Ints]:
        """Pass something on to all peers; who gets it when, in order of the links."""
        links, source = self.links.of(nodes)
        np.add.at(self.sent, source, 1)
        target = self.links.peers[links]
        goes = self.up[target] & (self.side[target] == self.side[source])
        if self.lossy:
            kept = self.rng.random(len(links)) >= self.links.losses[links]
            self.lost += int((goes & ~kept).sum())
            goes &= kept
        target, due = target[goes], tick + self.links.ticks[links[goes]]
        order = np.argsort(due, kind="stable")
        target, due = target[order], due[order]
        cuts = np.flatnonzero(np.diff(due)) + 1
        parts = np.split(target, cuts)
        return {int(due[at]): part for at, part in zip((0, *cuts), parts, strict=True) if len(part)}

    def partners(self, nodes: Ints) -> tuple[Ints, Ints]:
        """For each of these that runs a random peer that it can reach: (who asks, whom)."""
        first, count = self.links.starts[nodes], np.diff(self.links.starts)[nodes]
        nodes, first, count = nodes[count > 0], first[count > 0], count[count > 0]
        peers = self.links.peers[first + (self.rng.random(len(nodes)) * count).astype(np.int64)]
        able = self.reach(nodes, peers)
        return nodes[able], peers[able]

    def reach(self, nodes: Ints, peers: Ints) -> Flags:
        """Whether each of these pairs can talk now."""
        able: Flags = self.up[nodes] & self.up[peers] & (self.side[nodes] == self.side[peers])
        return able

    def reconcile(self, askers: Ints, asked: Ints) -> tuple[Ints, Ints]:
        """Each asker, named once, and whom it asks then hold the same; (keys, nodes) of news.

        Those that talk to several at once have afterwards what all of them had.
        """
        np.add.at(self.sent, askers, 2)
        np.add.at(self.sent, asked, 2)
        both = np.maximum(self.held[:, askers], self.held[:, asked])
        order = np.argsort(asked, kind="stable")
        whom = asked[order]
        cuts = np.flatnonzero(np.diff(whom, prepend=-1))
        most = np.maximum.reduceat(both[:, order], cuts, axis=1) if len(cuts) else both
        keys, nodes = [], []
        for who, theirs in ((askers, both), (whom[cuts], most)):
            key, at = np.nonzero(theirs > self.held[:, who])
            keys.append(key)
            nodes.append(who[at])
            self.held[:, who] = np.maximum(self.held[:, who], theirs)
        return np.concatenate(keys), np.concatenate(nodes)


class Bucketed:
    """What arrives when: (message, nodes) by tick."""

    def __init__(self) -> None:
        self.due: defaultdict[int, list[tuple[int, Ints]]] = defaultdict(list)

    def put(self, message: int, arrivals: dict[int, Ints]) -> list[int]:
        """The ticks at which nothing was due before."""
        fresh = [tick for tick in arrivals if tick not in self.due]
        for tick, nodes in arrivals.items():
            self.due[tick].append((message, nodes))
        return fresh

    def take(self, tick: int) -> list[tuple[int, Ints]]:
        """By message, each node once."""
        of: defaultdict[int, list[Ints]] = defaultdict(list)
        for message, nodes in self.due.pop(tick, []):
            of[message].append(nodes)
        return [
            (message, np.unique(np.concatenate(parts))) for message, parts in sorted(of.items())
        ]
