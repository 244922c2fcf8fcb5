"""What this node sees of a model that is wanted: who waits, who serves, who could. No decisions.

Of others it knows what their records say, and whether they answer. A node that was never met counts
as alive, or everybody would rank only those it is connected to. Their operators' lists, budgets and
free memory are not known: whoever looks able is taken to be.
"""

import functools
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Protocol

import trio

from aigrid.metagraph.branches import branches_of
from aigrid.metagraph.graph import Metagraph
from aigrid.metagraph.index import Candidate
from aigrid.metagraph.selection import Observation, rank
from aigrid.node.discovery.grid import NowMs
from aigrid.node.mesh.placement.decisions import Host, Replica, Scene
from aigrid.protocol.identity import peer_id_of_did
from aigrid.protocol.kinds import DemandBody, MembershipBody, ModelBody, NodeBody
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.record import Record

_peer_id = functools.lru_cache(maxsize=16384)(peer_id_of_did)
_FORGIVEN: Final = 4  # times that a replica may load; then its node's word counts again


class Met(Protocol):
    """See `Peers`."""

    def observation(self, peer_id: str) -> Observation: ...

    def alive_members(self) -> frozenset[str]: ...


class Sight:
    """Reads records, and what was observed of peers.

    `own_waiting()` says how many requests wait here, by model; `seeds(model)` which other nodes
    (DIDs) give its files away; `running()` how many requests run on this node.
    """

    def __init__(
        self,
        graph: Metagraph,
        peers: Met,
        *,
        own_waiting: Callable[[], Mapping[str, int]],
        seeds: Callable[[str], tuple[str, ...]],
        running: Callable[[], int],
        offered: Callable[[str], bool] = lambda _: True,
        now_ms: NowMs,
        rng: random.Random,
    ) -> None:
        self._graph = graph
        self._peers = peers
        self._own_waiting = own_waiting
        self._seeds = seeds
        self._running = running
        self._offered = offered
        self._now_ms = now_ms
        self._rng = rng
        self._coming: dict[tuple[str, str], float] = {}
        self._named: dict[str, set[str]] = {}
        self._able: dict[str, tuple[float, tuple[Host, ...]]] = {}

    def seen(self, did: str) -> bool:
        """Whether a node may be alive: it was never met, or answers."""
        return self._observation(_peer_id(did)).alive

    def alone(self) -> bool:
        """Whether no other member is there."""
        return not self._peers.alive_members()

    def demands(self, ours: Callable[[str], bool] = lambda _: True) -> dict[str, dict[str, int]]:
        """Model id -> DID of a member that is alive -> its requests that wait, ours included.

        Of those of which a manifest is known the most wanted alone, and first those that are `ours`
        to host: members that want many others must not crowd these out.
        """
        now_ms, own = self._now_ms(), self._graph.own_did
        found: dict[str, dict[str, int]] = {}
        self._named = {}
        for record in self._graph.index.demands(now_ms):
            body, did = record.body, record.issuer
            if did == own or not isinstance(body, DemandBody):
                continue
            if self._graph.membership_of(did, now_ms) is None or not self.seen(did):
                continue
            for one in body.wanted:
                found.setdefault(one.model, {})[did] = one.waiting
                self._named.setdefault(one.model, set()).add(one.manifest)
        for model, count in self._own_waiting().items():
            if count > 0:
                found.setdefault(model, {})[own] = count
        known = [model for model in found if self._graph.manifests_of(model, now_ms)]
        most = LIMITS.placement_waiting_max

        def place(model: str) -> tuple[bool, bool, int, int, str]:
            who = found[model]
            waiting = sum(min(count, most) for count in who.values())
            return not ours(model), own not in who, -len(who), -waiting, model

        known.sort(key=place)
        return {model: found[model] for model in known[: LIMITS.placement_models_max]}

    def manifests(self, model: str) -> tuple[Record, ...]:
        """What is said of a model by anybody who counts here."""
        return self._graph.manifests_of(model, self._now_ms())

    def named(self, model: str) -> frozenset[str]:
        """Content ids of the manifests that others named in their Demands, when last asked."""
        return frozenset(self._named.get(model, ()))

    def scene(self, model: str, waiting: Mapping[str, int], manifest: Record | None) -> Scene:
        """All that a decision on a model needs; without a manifest nobody could host it."""
        able = () if manifest is None else self._able_now(model, manifest)
        return Scene(model, waiting, self.replicas(model), able)

    def replicas(self, model: str) -> tuple[Replica, ...]:
        """Of live nodes, ours included. One that never arrives is none after a while."""
        found = []
        for one in self._offers(model):
            if one.state == "warm" or (one.state == "loading" and self._still_comes(one)):
                busy = self._observation(one.node).running >= one.slots
                found.append(Replica(one.signer, one.state == "warm", one.slots, busy))
            if one.state == "warm":
                self._coming.pop((model, one.signer), None)
        return tuple(found)

    def _still_comes(self, offer: Candidate) -> bool:
        """Whether a replica that is said to load has not been loading for too long.

        The time runs on if that is taken back and said again: or saying so now and then would keep
        everybody else from acting.
        """
        now, key = trio.current_time(), (offer.model, offer.signer)
        since = self._coming.get(key, now)
        if now - since > _FORGIVEN * LIMITS.placement_coming_seconds:
            since = now
        self._coming[key] = since
        while len(self._coming) > LIMITS.placement_remembered_max:
            del self._coming[next(iter(self._coming))]
        return now - since <= LIMITS.placement_coming_seconds

    def holders(self, model: str) -> frozenset[str]:
        """DIDs of those that have the files of a model, or need none, and are alive."""
        offering = {one.signer for one in self._offers(model) if one.slots}
        return frozenset(offering | {did for did in self._seeds(model) if self.seen(did)})

    def room(self, model: str, capability: str = "") -> int:
        """How many requests might be taken now by those who offer a model, or a capability.

        What is not loaded yet has room for those who wait with the first; what is, for one behind
        each that runs, so that no slot waits for the next. Of a queue only half is counted on: it
        is not for this node alone, and who finds it full rests for a while.
        """
        now_ms, index = self._now_ms(), self._graph.index
        if model:
            offers = index.offers_of_model(model, now_ms)
        else:
            offers = index.offers_of_capability(capability, now_ms, limit=LIMITS.summon_offers_max)
        seen = {one.node: self._observation(one.node) for one in offers}
        offers = tuple(one for one in offers if self._counts(one))
        kept = rank(offers, seen, rng=self._rng, own_peer_id=self._own_peer_id, now_ms=now_ms).kept
        room = 0
        for candidate in (one.candidate for one in kept):
            if candidate.model in seen[candidate.node].stalled:
                continue  # what it says of its room is not believed for now
            warm = candidate.state == "warm"
            half = LIMITS.model_queue_max // 2
            more = min(candidate.slots, half) if warm else half
            room += max(0, candidate.slots + more - seen[candidate.node].running)
        return room

    def serves(self, model: str) -> bool:
        """Whether this node itself has nothing against serving a model."""
        return self._offered(model)

    def offered(self, model: str) -> bool:
        """Whether anybody who is alive offers a model."""
        return bool(self._offers(model))

    def by_authority(self, did: str) -> bool:
        """Whether a member is the grid's authority itself."""
        membership = self._graph.membership_of(did, self._now_ms())
        body = None if membership is None else membership.body
        return isinstance(body, MembershipBody) and body.role == "authority"

    @property
    def _own_peer_id(self) -> str:
        return _peer_id(self._graph.own_did)

    def _observation(self, peer_id: str) -> Observation:
        if peer_id == self._own_peer_id:
            return Observation(running=self._running())
        return self._peers.observation(peer_id)

    def _offers(self, model: str) -> list[Candidate]:
        offers = self._graph.index.offers_of_model(model, self._now_ms())
        return [one for one in offers if self._counts(one)]

    def _counts(self, offer: Candidate) -> bool:
        """Of our own we know sooner than our record says it that it is none any more."""
        if offer.node == self._own_peer_id:
            return self._offered(offer.model)
        return self._observation(offer.node).alive

    def _able_now(self, model: str, manifest: Record) -> tuple[Host, ...]:
        """Who could host it: looked up anew after a while, for that takes all members' records."""
        now = trio.current_time()
        since, found = self._able.get(manifest.content_id, (float("-inf"), ()))
        if now - since >= LIMITS.placement_look_seconds:
            since, found = now, tuple(self._look_up(model, manifest))
            self._able[manifest.content_id] = since, found
            while len(self._able) > LIMITS.placement_models_max:
                del self._able[next(iter(self._able))]
        return found

    def _look_up(self, model: str, manifest: Record) -> Iterator[Host]:
        now_ms = self._now_ms()
        body, holders = manifest.body, self.holders(model)
        if not isinstance(body, ModelBody):
            return
        branches = branches_of(body)
        for did in self._graph.members(now_ms):
            node = self._graph.index.node(did, now_ms)
            said = None if node is None else node.body
            if isinstance(said, NodeBody) and _could(said, body, branches) and self.seen(did):
                yield Host(did, held=did in holders)


def _could(node: NodeBody, model: ModelBody, branches: frozenset[str]) -> bool:
    """Whether a node's own record says nothing against its hosting a model."""
    if not any(model.model.format in engine.formats for engine in node.engines):
        return False
    memory = [device.memory_bytes for device in node.devices]
    if all(memory) and max(memory, default=model.memory_bytes) < model.memory_bytes:
        return False
    theirs = branches_of(node)
    return not branches or not theirs or bool(branches & theirs)
