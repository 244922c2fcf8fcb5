"""A few nodes of a great crowd as they really are: verify, merge, reconcile, index, select, place.

Each has a real `Metagraph` over a store in memory. What the arrays say that it hears it takes in as
signed records; what they say that it reconciles is compared in the real conversation. Then its
store has to hold just what its column of the arrays says.
"""

import hashlib
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from aigrid.metagraph.graph import Metagraph
from aigrid.metagraph.index import Index
from aigrid.metagraph.selection import rank
from aigrid.metagraph.store import Store
from aigrid.node.mesh.placement.decisions import Host, Replica, Scene, Verdict, verdict
from aigrid.protocol.identity import Identity
from aigrid.protocol.kinds import AvailabilityBody, CapabilityBody, Kind, ModelBody, Offer
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.membership import issue_membership
from aigrid.protocol.model import MODEL_URN, ModelDescription, model_id
from aigrid.protocol.reconcile import Reconciler
from aigrid.protocol.reconcile_items import Items, item
from aigrid.protocol.record import Record, build

START_MS = 1_800_000_000_000
DAY_MS = 86_400_000
CAPABILITY = "text-generation"
TRIES = 3
_MODEL = ModelDescription(format="echo", task=CAPABILITY, files=(), options={"tag": "crowd"})
MODEL = model_id(_MODEL)
ASKED = "did:key:asker"


def identity_of(seed: int, node: int) -> Identity:
    return Identity(random.Random(f"{seed}/crowd/{node}").randbytes(32))


@dataclass
class Said:
    """Everything that is ever said: of each key the versions, from 1 on, in order of rank."""

    authority: Identity
    identities: Mapping[int, Identity]
    holders: Sequence[int]

    def __post_init__(self) -> None:
        self.manifest = build(
            Kind.MODEL,
            ModelBody(
                id=MODEL_URN + MODEL, name="parrot", capabilities=(CAPABILITY,), model=_MODEL
            ),
            self.identities[self.holders[0]],
            valid_from_ms=START_MS,
            valid_until_ms=START_MS + 30 * DAY_MS,
        )
        self.memberships = [
            issue_membership(self.authority, one.did, now_ms=START_MS, valid_ms=30 * DAY_MS)
            for one in self.identities.values()
        ]
        self.versions: dict[int, list[Record]] = {}
        self.key_of: dict[str, tuple[int, int]] = {}
        self.node_of = {one.peer_id: node for node, one in self.identities.items()}

    def say(self, key: int, node: int, now_ms: int, rng: random.Random) -> Record:
        """The next version of a key by a node: its offer where it is a holder, else a skill."""
        one, number = self.identities[node], len(self.versions.get(key, ()))
        if node in self.holders:
            offer = Offer(
                model=MODEL,
                manifest=self.manifest.content_id,
                state="warm" if rng.random() < 0.7 else "on_disk",
                slots=rng.randint(1, 4),
            )
            kind: Kind = Kind.AVAILABILITY
            body: AvailabilityBody | CapabilityBody = AvailabilityBody(id=one.did, offers=(offer,))
        else:
            kind = Kind.CAPABILITY
            body = CapabilityBody(
                id=f"{one.did}#skill-{key}",
                broader=(CAPABILITY,),
                labels={"en": f"skill {number}"},
            )
        record = build(kind, body, one, valid_from_ms=now_ms, valid_until_ms=now_ms + _ttl_ms(kind))
        self.versions.setdefault(key, []).append(record)
        self.key_of[record.content_id] = (key, number + 1)
        return record

    def held(self, column: Iterable[int]) -> list[Record]:
        """The records that a column of versions stands for."""
        return [self.versions[key][version - 1] for key, version in enumerate(column) if version]


def _ttl_ms(kind: Kind) -> int:
    return LIMITS.availability_ttl_seconds * 1000 if kind is Kind.AVAILABILITY else DAY_MS


class Sampled:
    """One node. What it hears must be news just when the arrays say so."""

    def __init__(self, node: int, identity: Identity, said: Said, seed: int) -> None:
        self.node, self.identity = node, identity
        self.served: dict[int, int] = {}
        self.bytes = 0
        self._said = said
        self._rng = random.Random(f"{seed}/sample/{node}")
        self._graph = Metagraph(
            Store(),
            Index(),
            grid=said.authority.did,
            own_did=identity.did,
            open_to_strangers=False,
            now_ms=START_MS,
        )
        self._common = [record.raw for record in (*said.memberships, said.manifest)]
        self._graph.ingest_batch(self._common, now_ms=START_MS, received_from=None)

    def hear(self, records: Sequence[Record], now_ms: int) -> int:
        """How many were news."""
        raws = [record.raw for record in records]
        changed, _ = self._graph.ingest_batch(raws, now_ms=now_ms, received_from="crowd")
        return len(changed)

    def reconcile(self, theirs: Sequence[Record], now_ms: int) -> set[str]:
        """Compare with a peer that holds `theirs`, in the real conversation; what was fetched.

        Raises:
            AigridError: what either side refuses.
        """
        common = self._said.memberships
        peer = Items(
            item(record.valid_from_ms // (60_000 if record in common else 1000), _digest(record))
            for record in (*common, self._said.manifest, *theirs)
        )
        asker = Reconciler(self._graph.items(now_ms))
        needed: list[bytes] = []
        message: bytes | None = asker.initiate()
        while message is not None:
            reply = Reconciler(peer).reconcile(message).reply or b""
            step = asker.reconcile(reply)
            self.bytes += len(message) + len(reply)
            needed += step.need_ids
            message = step.reply
        by_digest = {_digest(record): record for record in theirs}
        fetched = [by_digest[one] for one in needed if one in by_digest]
        self.hear(fetched, now_ms)
        return {record.content_id for record in fetched}

    def column(self, keys: int) -> list[int]:
        """The version of each key that its store holds."""
        found = [0] * keys
        for record in self._graph.store.live(0):
            if record.content_id in self._said.key_of:
                key, version = self._said.key_of[record.content_id]
                found[key] = version
        return found

    def offering(self, now_ms: int) -> set[int]:
        """The nodes that its index names for the model."""
        candidates = self._graph.index.offers_of_model(MODEL, now_ms)
        return {self._said.node_of[one.node] for one in candidates}

    def ask(self, up: Mapping[int, bool], now_ms: int) -> int | None:
        """Who would answer a request, of the first few that selection names; None for nobody."""
        candidates = self._graph.index.offers_of_model(MODEL, now_ms)
        ranking = rank(candidates, {}, rng=self._rng, now_ms=now_ms)
        for kept in ranking.kept[:TRIES]:
            node = self._said.node_of[kept.candidate.node]
            if up[node]:
                return node
        return None

    def place(self, able: Sequence[int], waiting: int, now_ms: int) -> dict[int, Verdict]:
        """What each of `able` is to do about the model, from what this node knows."""
        names = self._said.identities
        offers = self._graph.index.offers_of_model(MODEL, now_ms)
        warm = tuple(Replica(one.signer, slots=one.slots) for one in offers if one.state == "warm")
        hosts = tuple(Host(names[node].did, held=node in self._said.holders) for node in able)
        scene = Scene(MODEL, {ASKED: waiting}, warm, hosts, waited_seconds=60.0)
        return {node: verdict(scene, names[node].did) for node in able}


def _digest(record: Record) -> bytes:
    return hashlib.sha256(record.raw).digest()
