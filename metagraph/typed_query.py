"""What belongs to the answer of a typed query: "who has this?", answered by signed records.

One rule for both sides. Whoever is asked gathers, for each offer, the records from which a node
that knows nothing but the grid's authority can verify and index it; whoever asked takes of an
answer only what it would itself have gathered from it.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from operator import itemgetter
from typing import Literal

from aigrid.metagraph.concepts import is_published
from aigrid.metagraph.index import Candidate, Index, Seeder
from aigrid.protocol.kinds import Kind
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.record import Record

Source = Candidate | Seeder
MembershipOf = Callable[[str], Record | None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A capability (name or IRI) or a model (id or name) that somebody should offer."""

    by: Literal["capability", "model"]
    name: str


def offers(wanted: Wanted, index: Index, now_ms: int) -> tuple[Candidate, ...]:
    """The live offers of it that `index` knows: of each node one before the second of any.

    Soonest first among these, so that one node with many offers leaves room for others' in an
    answer. At most `find_offers_max`.
    """
    most = LIMITS.find_offers_max
    if wanted.by == "capability":
        found = index.offers_of_capability(wanted.name, now_ms, limit=most)
    else:
        models = index.resolve(wanted.name, now_ms)
        of_each = (index.offers_of_model(model, now_ms, limit=most) for model in models)
        found = tuple(islice(chain.from_iterable(of_each), most))
    seen: Counter[str] = Counter()
    ranked: list[tuple[int, Candidate]] = []
    for candidate in found:
        ranked.append((seen[candidate.node], candidate))
        seen[candidate.node] += 1
    return tuple(candidate for _, candidate in sorted(ranked, key=itemgetter(0)))


def givers(wanted: Wanted, index: Index, now_ms: int) -> tuple[Seeder, ...]:
    """Who gives away the files of a model, as far as `index` knows; at most `find_offers_max`.

    They need not offer it. Nobody gives a capability.
    """
    models = index.resolve(wanted.name, now_ms) if wanted.by == "model" else ()
    found = chain.from_iterable(index.seeders_of(model, now_ms) for model in models)
    return tuple(islice(found, LIMITS.find_offers_max))


def gather(
    wanted: Wanted,
    sources: Iterable[Source],
    index: Index,
    membership_of: MembershipOf,
    *,
    now_ms: int,
    limit: int,
) -> list[Record]:
    """The records behind offers and givers, memberships first.

    At most `limit`, and `find_max_bytes` in all; no more than the first `find_records_max` sources
    are looked at. Each is there with all that it takes, or not at all. `membership_of` gets a DID.
    """
    chosen: dict[str, Record] = {}
    room_bytes = LIMITS.find_max_bytes
    for source in islice(sources, LIMITS.find_records_max):
        grounds = {record.content_id: record for record in _grounds(wanted, source, index, now_ms)}
        for issuer in sorted({record.issuer for record in grounds.values()}):
            membership = membership_of(issuer)
            if membership is not None:
                grounds[membership.content_id] = membership
        new = {name: record for name, record in grounds.items() if name not in chosen}
        size = sum(len(record.raw) for record in new.values())
        if len(chosen) + len(new) <= limit and size <= room_bytes:
            chosen |= new
            room_bytes -= size
    return sorted(chosen.values(), key=lambda record: record.kind is not Kind.MEMBERSHIP)


def related(wanted: Wanted, answer: Iterable[Record], *, now_ms: int) -> list[Record]:
    """Of an answer what belongs to it: what `gather` finds where nothing else is known."""
    index, memberships, count = Index(), dict[str, Record](), 0
    for record in answer:
        count += 1
        if record.kind is Kind.MEMBERSHIP:
            memberships[record.subject] = record
        else:
            index.add(record)
    found: Iterable[Source] = chain(offers(wanted, index, now_ms), givers(wanted, index, now_ms))
    return gather(wanted, found, index, memberships.get, now_ms=now_ms, limit=count)


def _grounds(wanted: Wanted, source: Source, index: Index, now_ms: int) -> Iterator[Record]:
    """What an offer stands on, or somebody who gives files away; memberships apart."""
    did = source.signer
    records = [
        index.record((did, Kind.AVAILABILITY.value, did), now_ms),
        index.node(did, now_ms),
        index.manifest(source.manifest, now_ms),
    ]
    if wanted.by == "capability" and isinstance(source, Candidate):
        records += (
            index.record((name.partition("#")[0], Kind.CAPABILITY.value, name), now_ms)
            for name in _concepts(wanted.name, source, index)
        )
    return (record for record in records if record is not None)


def _concepts(name: str, candidate: Candidate, index: Index) -> list[str]:
    """The published capabilities that say why this candidate has the capability `name`."""
    above = index.concepts.ancestors
    declared = [one for one in candidate.capabilities if one == name or name in above(one)]
    return sorted({at for one in declared for at in (one, *above(one)) if is_published(at)})
