"""How good a model is, and how far a node is to be trusted, by what others signed. Pure.

An evaluation is a claim, and weighs what its issuer's word weighs here, times the items it rests
on. What is known in the end is drawn towards an assumption, the more so the less there is:

    quality = (prior * n0 + sum of w * v) / (n0 + sum of w)

Owners of a model, who issued a manifest of it, together weigh so little that what they say moves
its quality by at most `owner_discount`, whatever others say.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from aigrid.protocol.evidence import AuditBody, EvaluationBody
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.record import Record

_Wanted = tuple[tuple[str, str], ...]
_COMPARED_MAX: Final = 64  # sets of candidates of which it is remembered
_NOBODY: Final[frozenset[str]] = frozenset()


class Claim(msgspec.Struct, frozen=True):
    """One evaluation: which record says so, by whom, and until when it is believed.

    `measure` is the metric and the dataset: values of one measure can be compared.
    """

    record: str
    issuer: str
    capability: str
    parameters: Mapping[str, str]
    value: float
    items: int
    until_ms: int
    measure: tuple[str, str] = ("", "")


class Quality(msgspec.Struct, frozen=True):
    """What is expected of a model.

    Attributes:
        value: in [0, 1].
        weight: evaluated items that it rests on, each counted by whose word it is.
        sources: content ids of the records that count.
    """

    value: float
    weight: float = 0.0
    sources: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """For people."""
        records = len(self.sources)
        by = f"by {records} evaluation{'' if records == 1 else 's'}" if records else "as assumed"
        return f"quality {self.value:.2f} {by}"


UNKNOWN: Final = Quality(LIMITS.quality_prior)


class Claims:
    """Evaluations, by model. Fed with what is believed, in any order.

    Attributes:
        changes: how often something came or went.
    """

    def __init__(self) -> None:
        self._of_model: dict[str, dict[str, Claim]] = {}
        self.changes = 0

    def add(self, record: Record, until_ms: int) -> None:
        """Believe an EvaluationRecord until then."""
        body = record.body
        if isinstance(body, EvaluationBody):
            claim = Claim(
                record.content_id,
                record.issuer,
                body.capability,
                body.parameters,
                float(body.value),
                body.items,
                until_ms,
                (body.metric, body.dataset),
            )
            self.put(body.model, claim)

    def put(self, model: str, claim: Claim) -> None:
        """Believe what a record claims of a model."""
        self.changes += 1
        self._of_model.setdefault(model, {})[claim.record] = claim

    def remove(self, record: Record) -> None:
        body = record.body
        if isinstance(body, EvaluationBody) and body.model in self._of_model:
            self.changes += 1
            self._of_model[body.model].pop(record.content_id, None)
            if not self._of_model[body.model]:
                del self._of_model[body.model]

    def __len__(self) -> int:
        return sum(map(len, self._of_model.values()))

    def of(self, model: str) -> Collection[Claim]:
        return self._of_model.get(model, {}).values()


class Audits:
    """AuditRecords, by the DID of the node that they are of. Fed with what is believed.

    Attributes:
        changes: how often something came or went.
    """

    def __init__(self) -> None:
        self._of_node: dict[str, dict[str, tuple[Record, int]]] = {}
        self.changes = 0

    def add(self, record: Record, until_ms: int) -> None:
        """Believe an AuditRecord until then."""
        if isinstance(record.body, AuditBody):
            self.changes += 1
            self._of_node.setdefault(record.body.id, {})[record.content_id] = record, until_ms

    def remove(self, record: Record) -> None:
        body = record.body
        if isinstance(body, AuditBody) and body.id in self._of_node:
            self.changes += 1
            self._of_node[body.id].pop(record.content_id, None)
            if not self._of_node[body.id]:
                del self._of_node[body.id]

    def __len__(self) -> int:
        return sum(map(len, self._of_node.values()))

    def of(self, node: str, now_ms: int) -> tuple[Record, ...]:
        """Those of the node with this DID, in order of issuer."""
        found = self._of_node.get(node)
        if found is None:
            return ()
        live = (record for record, until_ms in found.values() if until_ms > now_ms)
        return tuple(sorted(live, key=lambda record: record.issuer))


@dataclass(frozen=True, slots=True)
class Evidence:
    """What selection knows of quality, as of one moment; what was asked before is remembered.

    Attributes:
        claims: every evaluation that is believed.
        now_ms: wall time.
        audits: every AuditRecord that is believed.
        trust: what the word of a DID weighs, from 0 to 1.
        owners: the DIDs that issued a manifest of a model.
        above: what is broader than a capability, each with the time until which that is so.
        reputations: of a node, by DID: from 0 to 1.
        faulted: whether audits found a node wrong, by DID; for explanations alone.
    """

    claims: Claims = field(default_factory=Claims)
    now_ms: int = 0
    audits: Audits = field(default_factory=Audits)
    trust: Callable[[str], float] = lambda _: 0.0
    owners: Callable[[str], frozenset[str]] = lambda _: _NOBODY
    above: Callable[[str], Mapping[str, int]] = lambda _: {}
    reputations: Callable[[str], float] = lambda _: 1.0
    faulted: Callable[[str], bool] = lambda _: False
    _qualities: dict[tuple[str, str, _Wanted], Quality] = field(default_factory=dict)
    _compared: dict[tuple[frozenset[str], str, _Wanted], Mapping[str, Quality]] = field(
        default_factory=dict
    )

    def quality(
        self, model: str, capability: str, parameters: Mapping[str, str] | None = None
    ) -> Quality:
        """What is expected of a model.

        Args:
            model: the model id.
            capability: evaluations of it, or of what is narrower, count; "" for any.
            parameters: selecting ones: evaluations that were narrowed to another value of one do
                not count.
        """
        wanted = tuple(sorted((parameters or {}).items()))
        found = self._qualities.get((model, capability, wanted))
        if found is not None or not self.claims.of(model):
            return found or UNKNOWN
        claims = self._of(model, capability, wanted)
        found = weighed(claims, self.trust, self.owners(model)) if claims else UNKNOWN
        self._qualities[model, capability, wanted] = found
        return found

    def qualities(
        self,
        models: Collection[str],
        capability: str,
        parameters: Mapping[str, str] | None = None,
    ) -> Mapping[str, Quality]:
        """What is expected of each of some models, to compare them with each other.

        As `quality`, but of what an issuer says of a model only what it measured most of the
        others by too: a hard dataset that one of them was put to says nothing against it.
        """
        wanted = tuple(sorted((parameters or {}).items()))
        key = frozenset(models), capability, wanted
        found = self._compared.get(key)
        if found is None:
            if len(self._compared) >= _COMPARED_MAX:
                self._compared.clear()
            found = self._compared[key] = self._compare(key[0], capability, wanted)
        return found

    def _compare(
        self, models: Collection[str], capability: str, wanted: _Wanted
    ) -> Mapping[str, Quality]:
        said = {model: self._of(model, capability, wanted) for model in models}
        measured = Counter(
            by for claims in said.values() for by in {(one.issuer, one.measure) for one in claims}
        )
        found: dict[str, Quality] = {}
        for model, claims in said.items():
            most: dict[str, int] = {}
            for one in claims:
                models_too = measured[one.issuer, one.measure]
                most[one.issuer] = max(models_too, most.get(one.issuer, 0))
            kept = [one for one in claims if measured[one.issuer, one.measure] == most[one.issuer]]
            if len(kept) == len(claims):
                found[model] = self.quality(model, capability, dict(wanted))
            else:
                found[model] = weighed(kept, self.trust, self.owners(model))
        return found

    def _of(self, model: str, capability: str, wanted: _Wanted) -> list[Claim]:
        return [
            claim
            for claim in self.claims.of(model)
            if claim.until_ms > self.now_ms
            and self._is_of(claim.capability, capability)
            and all(claim.parameters.get(name, value) == value for name, value in wanted)
        ]

    def reputation(self, node: str) -> float:
        """Of the node with this DID, from 0 to 1."""
        return min(1.0, max(0.0, self.reputations(node)))

    def heard(self, node: str, capability: str) -> Mapping[str, tuple[float, float]]:
        """What others tell of requests to a node: by model those served and those failed.

        Each counts as much as the word of who says so, and no more than `heard_requests_max`.
        """
        found: dict[str, tuple[float, float]] = {}
        for record in self.audits.of(node, self.now_ms):
            word = min(1.0, max(0.0, self.trust(record.issuer)))
            body = record.body
            if not word or not isinstance(body, AuditBody):
                continue
            for one in body.findings:
                if self._is_of(one.capability, capability):
                    said = max(1, one.served + one.failed)
                    share = word * min(1.0, LIMITS.heard_requests_max / said)
                    served, failed = found.get(one.model, (0.0, 0.0))
                    found[one.model] = served + share * one.served, failed + share * one.failed
        return found

    def _is_of(self, evaluated: str, asked: str) -> bool:
        return asked in {"", evaluated} or self.above(evaluated).get(asked, 0) > self.now_ms


NO_EVIDENCE: Final = Evidence()


def weighed(
    claims: Iterable[Claim], trust: Callable[[str], float], owners: frozenset[str]
) -> Quality:
    """What claims about one model come to.

    Of each issuer at most `evaluated_items_max` items count, of however many datasets. Whose word
    weighs 1 is believed as an owner, too: oneself, and the grid's authority.
    """
    by_issuer: dict[str, list[Claim]] = {}
    for claim in sorted(claims, key=lambda claim: claim.record):
        by_issuer.setdefault(claim.issuer, []).append(claim)
    prior = float(LIMITS.quality_prior_items)
    mass, total, owned_mass, owned_total = prior, prior * LIMITS.quality_prior, 0.0, 0.0
    sources: list[str] = []
    for issuer in sorted(by_issuer):
        word = min(1.0, max(0.0, trust(issuer)))
        said = by_issuer[issuer]
        if not word:
            continue
        items = sum(claim.items for claim in said)
        value = sum(claim.value * (claim.items / items) for claim in said)
        weight = word * min(items, LIMITS.evaluated_items_max)
        if issuer in owners and word < 1:
            owned_mass, owned_total = owned_mass + weight, owned_total + weight * value
        else:
            mass, total = mass + weight, total + weight * value
        sources += [claim.record for claim in said]
    if owned_mass:
        # At most this share of all that counts: so nothing they say moves the mean by more.
        most = mass * LIMITS.owner_discount / (1 - LIMITS.owner_discount)
        part = min(1.0, most / owned_mass)
        mass, total = mass + part * owned_mass, total + part * owned_total
    return Quality(total / mass, mass - prior, tuple(sources))
