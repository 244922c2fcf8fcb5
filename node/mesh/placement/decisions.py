"""Who hosts a wanted model: each node decides by itself, and all come to the same. Pure.

Nodes rank themselves by rendezvous hashing, see `rendezvous`: the score of a node for a
model is the SHA-256 of both names, the highest comes first. All weigh the same, for what would make
one heavier is its own claim. Who has the files comes before who would have to fetch them. Of the
ranked as many act as replicas are wanted; the others stay put, and have their turn one after the
other should those in front not act: whether their operators let them is not known here.

Where two nodes do not see the same, each node that one of them does not see lets at most one more
act, and what one sees of another's acting stops the rest.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from aigrid.node.mesh.rendezvous import score
from aigrid.protocol.limits import LIMITS, Limits

NOBODY: Final = -1


@dataclass(frozen=True, slots=True)
class Replica:
    """A node that serves a model now, or soon.

    Attributes:
        node: its DID.
        warm: whether the model is loaded there; else it is on its way.
        slots: requests at once.
        full: whether all of them seem to be taken.
    """

    node: str
    warm: bool = True
    slots: int = 1
    full: bool = True


@dataclass(frozen=True, slots=True)
class Host:
    """A node that could host a model, as far as its records say. `held`: it has the files."""

    node: str
    held: bool = False


@dataclass(frozen=True, slots=True)
class Scene:
    """What one node knows of a model that is wanted.

    Attributes:
        model: model id.
        waiting: DID of a member -> its requests that wait.
        replicas: of live nodes.
        able: live nodes that could host it, those with a replica included or not.
        waited_seconds: for how long requests have waited though the replicas were the same.
    """

    model: str
    waiting: Mapping[str, int]
    replicas: Sequence[Replica] = ()
    able: Sequence[Host] = ()
    waited_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows for one node.

    Attributes:
        rank: its place among those that could host and do not, from 0; `NOBODY`: not among them.
        ranked: how many those are.
        wanted, live: replicas; those on their way are live.
        turn_seconds: when it is to act, counted from when more replicas were wanted than there
            are; infinite where it is not.
    """

    rank: int
    ranked: int
    wanted: int
    live: int
    turn_seconds: float = math.inf

    def __str__(self) -> str:
        place = "no candidate" if self.rank == NOBODY else f"rank {self.rank + 1} of {self.ranked}"
        replicas = "replica" if self.wanted == 1 else "replicas"
        return f"{place}, {self.wanted} {replicas} wanted, {self.live} live"


def ranking(model: str, hosts: Iterable[Host]) -> tuple[str, ...]:
    """DIDs, best first: who holds the files, then by score."""
    held = {host.node: host.held for host in hosts}
    by_score = sorted(held, key=lambda node: score(node, model), reverse=True)
    return tuple(sorted(by_score, key=lambda node: not held[node]))


def wanted_replicas(scene: Scene, limits: Limits = LIMITS) -> int:
    """How many replicas there should be, at least; without requests that wait, none.

    The first one, then as many more as the queue fills, but never more than twice those that are
    warm: who is warm has to be used before more are wanted. That one has slots free is its own
    word: where requests wait all the same, those who ask it know better. What one member says
    counts for no more than `replicas_per_asker`.
    """
    counted = [min(count, limits.placement_waiting_max) for count in scene.waiting.values()]
    waiting = sum(count for count in counted if count > 0)
    if not waiting:
        return 0
    warm = [replica for replica in scene.replicas if replica.warm]
    if not warm:
        return 1
    believed = scene.waited_seconds < limits.placement_believed_seconds
    if believed and not all(replica.full for replica in warm):
        return len(warm)
    slots = sorted(max(1, replica.slots) for replica in warm)[(len(warm) - 1) // 2]
    more = min(math.ceil(waiting / (slots * limits.replica_queue)), len(warm))
    askers = sum(count > 0 for count in counted)
    most = min(limits.replicas_max, limits.replicas_per_asker * askers)
    return max(len(warm), min(len(warm) + more, most))


def turn_seconds(rank: int, needed: int, limits: Limits = LIMITS) -> float:
    """When a rank acts if nothing has happened before: twice as many may in each step of time."""
    if needed <= 0 or rank < 0:
        return math.inf
    return limits.placement_step_seconds * math.log2(1 + max(0, rank - needed + 1))


def verdict(scene: Scene, own: str, limits: Limits = LIMITS) -> Verdict:
    """What the node `own` is to do; it acts once its turn has come, unless the scene changes."""
    has = {replica.node for replica in scene.replicas}
    wanted, live = wanted_replicas(scene, limits), len(has)
    ranked = ranking(scene.model, (host for host in scene.able if host.node not in has))
    rank = ranked.index(own) if own in ranked else NOBODY
    turn = turn_seconds(rank, wanted - live, limits)
    return Verdict(rank, len(ranked), wanted, live, turn)


def to_retire(model: str, replicas: Collection[str], wanted: int) -> tuple[str, ...]:
    """Those of the replicas that go once they are idle, in the order of going: the last ranked.

    One stays in any case: it goes by its pool's keep-alive.
    """
    ranked = ranking(model, [Host(node) for node in replicas])
    return tuple(reversed(ranked[max(1, wanted) :]))


def too_few(seeds: int, seeds_min: int) -> int:
    """How many more nodes are to fetch the files of a model; none where nobody has them."""
    return max(0, seeds_min - seeds) if seeds else 0
