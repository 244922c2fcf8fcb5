"""The index that routing uses: who offers what now, how good it is said to be. Dictionaries only.

It is fed with the newest record of each key, in any order: an offer waits for its manifest, a
manifest for its offers, and the result is the same. Expiry is looked at when a question is asked,
so nothing stale is answered even before `remove` is called.
"""

import functools
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar

from msgspec import UNSET

from aigrid.metagraph.candidate import Candidate, OfferKey, Pool
from aigrid.metagraph.capabilities import Taxonomy, default_taxonomy
from aigrid.metagraph.concepts import LiveConcepts, is_published
from aigrid.metagraph.evidence import Audits, Claims
from aigrid.protocol.kinds import (
    AvailabilityBody,
    CapabilityBody,
    Kind,
    ModelBody,
    Offer,
    node_peer_id,
)
from aigrid.protocol.model import MODEL_URN
from aigrid.protocol.record import Record, RecordKey

_peer_id = functools.lru_cache(maxsize=16384)(node_peer_id)

_K = TypeVar("_K")
_V = TypeVar("_V")
_INDEXED = frozenset(
    {
        Kind.MODEL,
        Kind.AVAILABILITY,
        Kind.NODE,
        Kind.CAPABILITY,
        Kind.DEMAND,
        Kind.EVALUATION,
        Kind.AUDIT,
    }
)
__all__ = ["Candidate", "Index", "ModelSummary", "Seeder"]


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """A model that is described by at least one live manifest, and its offers, if any."""

    model: str
    names: tuple[str, ...]
    capabilities: tuple[str, ...]
    context_tokens: int
    manifests: tuple[Record, ...]
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class Seeder:
    """A node that gives away the files of a model, under the manifest it obtained it by.

    `signer` is its DID, `node` its PeerId, `manifest` a content id.
    """

    signer: str
    node: str
    manifest: str


@dataclass(frozen=True, slots=True)
class _Entry:
    """A record as long as it is believed."""

    record: Record
    until_ms: int


class Index:
    """What is offered by whom. Knows nothing of members: it is fed only with what is believed.

    Attributes:
        concepts: the capabilities that are known.
        claims: evaluations of models.
        audits: of nodes.
    """

    def __init__(self, taxonomy: Taxonomy | None = None) -> None:
        self.concepts = LiveConcepts(taxonomy if taxonomy is not None else default_taxonomy())
        self._current: dict[RecordKey, _Entry] = {}
        self._manifests: dict[str, _Entry] = {}
        self._manifests_of_name: dict[str, dict[str, _Entry]] = {}
        self._manifests_of_model: dict[str, dict[str, _Entry]] = {}
        self._offers: dict[str, dict[OfferKey, Offer]] = {}  # by manifest, met or not
        self._seeders: dict[str, dict[str, Seeder]] = {}  # model -> DID -> what it said last
        self._candidates: dict[OfferKey, Candidate] = {}
        self._of_model: dict[str, Pool] = {}
        self._of_capability: dict[str, Pool] = {}
        self._demands: dict[RecordKey, _Entry] = {}
        self._refilable: dict[OfferKey, tuple[str, ...]] = {}  # where those that may move stand
        self.claims = Claims()
        self.audits = Audits()
        self._moved = False  # they may, since a capability somebody published came or went

    def add(self, record: Record, *, until_ms: int | None = None) -> None:
        """Believe `record` instead of whatever had its key, until it or `until_ms` expires.

        A withdrawal takes the key out.
        """
        self._drop(record.key)
        if record.withdrawn or record.kind not in _INDEXED:
            return
        until_ms = record.valid_until_ms if until_ms is None else until_ms
        entry = _Entry(record, min(record.valid_until_ms, until_ms))
        self._current[record.key] = entry
        if record.kind is Kind.DEMAND:
            self._demands[record.key] = entry
        self.claims.add(record, entry.until_ms)
        self.audits.add(record, entry.until_ms)
        if isinstance(record.body, CapabilityBody):
            self.concepts.put(record.body, entry.until_ms, record.content_id)
            self._moved = True
        if isinstance(record.body, ModelBody):
            self._add_manifest(entry, record.body)
        elif isinstance(record.body, AvailabilityBody):
            for offer in record.body.offers:
                key = (record.subject, offer.model)
                self._offers.setdefault(offer.manifest, {})[key] = offer
                self._show(key, offer)
            node = _peer_id(record.subject) if record.body.seeds else ""
            for seed in record.body.seeds:
                seeder = Seeder(record.issuer, node, seed.manifest)
                self._seeders.setdefault(seed.model, {})[record.subject] = seeder

    def remove(self, record: Record) -> None:
        """Stop believing `record`; nothing happens if it was replaced meanwhile."""
        entry = self._current.get(record.key)
        if entry is not None and entry.record.content_id == record.content_id:
            self._drop(record.key)

    def offers_of_model(
        self, model_id: str, now_ms: int, *, limit: int | None = None
    ) -> tuple[Candidate, ...]:
        """Who offers this model; warm ones first, at most `limit`."""
        return _live(self._of_model.get(model_id), now_ms, limit)

    def offers_of_capability(
        self, name: str, now_ms: int, *, limit: int | None = None
    ) -> tuple[Candidate, ...]:
        """Who offers this capability or a narrower one; warm ones first, at most `limit`."""
        if self._moved:
            self._refile()
        return _live(self._of_capability.get(name), now_ms, limit)

    def demands(self, now_ms: int) -> tuple[Record, ...]:
        """Every Demand there is, strangers' included."""
        return tuple(e.record for e in self._demands.values() if e.until_ms > now_ms)

    def seeders_of(self, model_id: str, now_ms: int) -> tuple[Seeder, ...]:
        """Who gives away the files of this model, in order of DID."""
        found = self._seeders.get(model_id, {})
        return tuple(
            found[did]
            for did in sorted(found)
            if self.record((did, Kind.AVAILABILITY.value, did), now_ms) is not None
        )

    def candidates(self, now_ms: int) -> tuple[Candidate, ...]:
        """Every offer there is."""
        return tuple(c for c in self._candidates.values() if c.valid_until_ms > now_ms)

    def resolve(self, name_or_id: str, now_ms: int) -> tuple[str, ...]:
        """The model ids meant by a model id or a short name, among live manifests.

        Several ids of one name are all returned, in order of id; none if nothing is known.
        """
        model_id = name_or_id.removeprefix(MODEL_URN)
        if _any_live(self._manifests_of_model.get(model_id), now_ms):
            return (model_id,)
        named = self._manifests_of_name.get(name_or_id, {}).values()
        return tuple(
            sorted({_model_of(entry.record) for entry in named if entry.until_ms > now_ms})
        )

    def manifest(self, content_id: str, now_ms: int) -> Record | None:
        """The live manifest with this content id."""
        return _live_record(self._manifests.get(content_id), now_ms)

    def manifests_of(self, model_id: str, now_ms: int) -> tuple[Record, ...]:
        """The live manifests of a model, in order of content id."""
        entries = self._manifests_of_model.get(model_id, {}).values()
        return tuple(
            sorted(
                (entry.record for entry in entries if entry.until_ms > now_ms),
                key=lambda record: record.content_id,
            )
        )

    def node(self, did: str, now_ms: int) -> Record | None:
        """The live NodeRecord of a node."""
        return self.record((did, Kind.NODE.value, did), now_ms)

    def record(self, key: RecordKey, now_ms: int) -> Record | None:
        """The live record of a key, of any kind that is indexed."""
        return _live_record(self._current.get(key), now_ms)

    def models(self, now_ms: int) -> tuple[ModelSummary, ...]:
        """Every model with a live manifest, in order of id."""
        summaries = (self._summary(model, now_ms) for model in sorted(self._manifests_of_model))
        return tuple(summary for summary in summaries if summary is not None)

    def _summary(self, model: str, now_ms: int) -> ModelSummary | None:
        manifests = self.manifests_of(model, now_ms)
        if not manifests:
            return None
        bodies = [record.body for record in manifests if isinstance(record.body, ModelBody)]
        return ModelSummary(
            model=model,
            names=tuple(sorted({body.name for body in bodies})),
            capabilities=tuple(sorted({name for body in bodies for name in body.capabilities})),
            context_tokens=max(body.context_tokens for body in bodies),
            manifests=manifests,
            candidates=self.offers_of_model(model, now_ms),
        )

    def _add_manifest(self, entry: _Entry, body: ModelBody) -> None:
        content_id = entry.record.content_id
        self._manifests[content_id] = entry
        self._manifests_of_name.setdefault(body.name, {})[content_id] = entry
        self._manifests_of_model.setdefault(_model_of(entry.record), {})[content_id] = entry
        for key, offer in self._offers.get(content_id, {}).items():
            self._show(key, offer)

    def _drop(self, key: RecordKey) -> None:
        entry = self._current.pop(key, None)
        self._demands.pop(key, None)
        if entry is None:
            return
        record = entry.record
        self.claims.remove(record)
        self.audits.remove(record)
        if isinstance(record.body, CapabilityBody):
            self.concepts.drop(record.subject)
            self._moved = True
        elif isinstance(record.body, ModelBody):
            del self._manifests[record.content_id]
            _discard(self._manifests_of_name, record.body.name, record.content_id)
            _discard(self._manifests_of_model, _model_of(record), record.content_id)
            for offer_key, offer in self._offers.get(record.content_id, {}).items():
                if offer.model == _model_of(record):
                    self._hide(offer_key)
        elif isinstance(record.body, AvailabilityBody):
            for offer in record.body.offers:
                offer_key = (record.subject, offer.model)
                self._hide(offer_key)
                _discard(self._offers, offer.manifest, offer_key)
            for seed in record.body.seeds:
                _discard(self._seeders, seed.model, record.subject)

    def _show(self, key: OfferKey, offer: Offer) -> None:
        """Make a candidate of an offer if its manifest is here and is of the model it names."""
        manifest = self._manifests.get(offer.manifest)
        if manifest is None or _model_of(manifest.record) != offer.model:
            return
        node = self._current[(key[0], Kind.AVAILABILITY.value, key[0])]
        body = manifest.record.body
        if not isinstance(body, ModelBody) or not _may_offer(body, node.record.issuer):
            return
        candidate = Candidate(
            model=offer.model,
            name=body.name,
            capabilities=body.capabilities,
            manifest=offer.manifest,
            record=node.record.content_id,
            node=_peer_id(node.record.subject),
            signer=node.record.issuer,
            state=offer.state,
            slots=offer.slots,
            latency_ms=offer.latency_ms,
            valid_until_ms=min(node.until_ms, manifest.until_ms),
            context_tokens=body.context_tokens,
            takes=offer.takes,
            precision=body.model.precision,
        )
        self._candidates[key] = candidate
        self._of_model.setdefault(offer.model, Pool()).put(key, candidate)
        self._file(key, candidate)

    def _file(self, key: OfferKey, candidate: Candidate) -> None:
        """Put a candidate under what it declares, and under all that is broader."""
        filed = self.concepts.satisfied(candidate.capabilities)
        for name, until_ms in filed.items():
            known = candidate
            if until_ms < candidate.valid_until_ms:
                known = replace(candidate, valid_until_ms=until_ms)
            self._of_capability.setdefault(name, Pool()).put(key, known)
        if any(map(is_published, candidate.capabilities)):
            self._refilable[key] = tuple(filed)

    def _refile(self) -> None:
        """Start over where published capabilities were declared: once for any number of changes."""
        self._moved = False
        for key, names in list(self._refilable.items()):
            candidate = self._candidates[key]
            for name in names:
                _take_out(self._of_capability, name, key, candidate)
            self._file(key, candidate)

    def _hide(self, key: OfferKey) -> None:
        candidate = self._candidates.pop(key, None)
        if candidate is None:
            return
        _take_out(self._of_model, candidate.model, key, candidate)
        names = self._refilable.pop(key, None) or self.concepts.satisfied(candidate.capabilities)
        for name in names:
            _take_out(self._of_capability, name, key, candidate)


def _may_offer(body: ModelBody, node: str) -> bool:
    """A model behind a server is offered by the node in front of it, and by nobody else."""
    upstream = body.model.upstream
    return upstream is UNSET or upstream.publisher == node


def _model_of(manifest: Record) -> str:
    return manifest.subject.removeprefix(MODEL_URN)


def _live(pool: Pool | None, now_ms: int, limit: int | None) -> tuple[Candidate, ...]:
    return () if pool is None else tuple(islice(pool.live(now_ms), limit))


def _live_record(entry: _Entry | None, now_ms: int) -> Record | None:
    return entry.record if entry is not None and entry.until_ms > now_ms else None


def _any_live(entries: dict[str, _Entry] | None, now_ms: int) -> bool:
    return entries is not None and any(entry.until_ms > now_ms for entry in entries.values())


def _discard(table: dict[str, dict[_K, _V]], outer: str, inner: _K) -> None:
    within = table.get(outer)
    if within is not None:
        within.pop(inner, None)
        if not within:
            del table[outer]


def _take_out(table: dict[str, Pool], name: str, key: OfferKey, candidate: Candidate) -> None:
    pool = table.get(name)
    if pool is not None:
        pool.discard(key, candidate)
        if not pool:
            del table[name]
