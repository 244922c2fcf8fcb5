"""The network between simulated nodes: latencies, losses, partitions, slow nodes; and counts.

What is modelled: each hop of gossip is lost with the pair's loss; whatever goes over a connection
arrives in order, and where it is lost it is sent again after 200 ms, then twice as long each time.
Bandwidth is not limited, and everything arrives at a full millisecond.
"""

import random
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Final

import trio
from scripts.simulation.network.spread import Spread

from aigrid.node.network.memory_network import MemoryNetwork

RESEND_SECONDS: Final = 0.2
RESENDS_MAX: Final = 6
TICK_SECONDS: Final = 0.001


class Conditions(MemoryNetwork):
    """A `MemoryNetwork` whose conditions change.

    Attributes:
        lossy: whether losses happen now.
        messages, bytes: sent so far, by PeerId; a message is a write on a stream, a hop of gossip,
            or a connection or stream opened, accepted or ended.
        lost: hops of gossip.
    """

    def __init__(self, rng: random.Random, latency_ms: Spread, loss: Spread) -> None:
        super().__init__(rng=rng, latency_seconds=(0.0, 0.0), tick_seconds=TICK_SECONDS)
        self._draws = rng
        self._latency_ms = latency_ms
        self._loss = loss
        self._losses: dict[frozenset[str], float] = {}
        self._due: dict[tuple[str, str], float] = {}
        self._sides: Mapping[str, int] = {}
        self._slow: dict[str, float] = {}
        self.lossy = False
        self.messages: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        self.lost = 0

    async def run(self) -> None:
        """Until cancelled; here nodes carry what they say themselves."""
        await trio.sleep_forever()

    def draw_latency_seconds(self) -> float:
        return self._latency_ms.draw(self._draws) / 1000

    def travel_seconds(
        self, source: str, target: str, size_bytes: int, *, lossy: bool = False
    ) -> float | None:
        self.messages[source] += 1
        self.bytes[source] += size_bytes
        seconds = self.latency_seconds(source, target)
        if self._slow:
            seconds *= max(self._slow.get(source, 1.0), self._slow.get(target, 1.0))
        if self.lossy and (share := self._loss_of(source, target)):
            if lossy and self._draws.random() < share:
                self.lost += 1
                return None
            again = RESEND_SECONDS
            for _ in range(0 if lossy else RESENDS_MAX):
                if self._draws.random() >= share:
                    break
                seconds, again = seconds + again, 2 * again
        if lossy:
            return seconds
        # In order, whatever was sent again and whatever changes meanwhile.
        now = trio.current_time()
        due = self._due[source, target] = max(now + seconds, self._due.get((source, target), 0.0))
        return due - now

    def _loss_of(self, a: str, b: str) -> float:
        pair = frozenset((a, b))
        if pair not in self._losses:
            self._losses[pair] = min(0.9, self._loss.draw(self._draws))
        return self._losses[pair]

    def sent(self) -> tuple[object, ...]:
        """Messages, bytes and hops lost so far, and whatever else tells one run from another."""
        return self.messages.total(), self.bytes.total(), self.lost

    def slow_down(self, peer_id: str, factor: float) -> None:
        """Everything to and from a peer takes so many times as long; 1 undoes it."""
        self._slow[peer_id] = factor
        if factor == 1:
            del self._slow[peer_id]

    def split(self, peer_ids: Collection[str]) -> None:
        """Let nothing pass between these peers and all others, whenever they start."""
        self._sides = dict.fromkeys(peer_ids, 1)

    def join_up(self) -> None:
        """Undo `split`."""
        self._sides = {}
        self._resume()

    @property
    def parted(self) -> bool:
        return bool(self._sides)

    def blocked(self, a: str, b: str) -> bool:
        if self._sides and self._sides.get(a, 0) != self._sides.get(b, 0):
            return True
        return super().blocked(a, b)
