"""Why a choice came out as it did: each candidate's place and score, or why it was dropped."""

from collections.abc import Iterable, Mapping

import msgspec

from aigrid.metagraph.index import Candidate
from aigrid.metagraph.selection.constraints import Reason
from aigrid.metagraph.selection.ranking import Dropped, Ranking


class Explained(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of one candidate. JSON-able.

    Attributes:
        record: content id of the AvailabilityRecord that offers it; `manifest` of the manifest.
        node: PeerId of its node.
        model, name: the model id, and what the manifest calls it.
        why: what is known of it, in words.
        place: in the order of asking, from 1; None where it is not asked.
        reason: why it is not asked, "" where it is; see `Reason`.
        missed: what to ask for instead so that each constraint it fails would hold.
        parts, total: of its score by the strategy's weights.
        explored: it was drawn to be tried, and not because it is the best.
        evidence: content ids of the EvaluationRecords that its quality rests on.
    """

    record: str
    manifest: str
    node: str
    model: str
    name: str
    why: tuple[str, ...]
    place: int | None = None
    reason: str = ""
    missed: tuple[str, ...] = ()
    parts: Mapping[str, float] | None = None
    total: float | None = None
    explored: bool = False
    evidence: tuple[str, ...] = ()


def explain(ranking: Ranking) -> tuple[Explained, ...]:
    """Every candidate once: those that may be asked in that order, then the dropped."""
    asked = []
    for place, kept in enumerate(ranking.kept, 1):
        known = kept.weighed
        asked.append(
            Explained(
                *_named(kept.candidate),
                kept.explanation,
                place=place,
                parts=None if known is None else known.parts._asdict(),
                total=None if known is None else known.total,
                explored=kept.explored,
                evidence=() if known is None else known.quality.sources,
            )
        )
    return (*asked, *map(_dropped, ranking.dropped))


def nearest_miss(dropped: Iterable[Dropped]) -> Dropped | None:
    """Of those dropped for constraints the one that fails the fewest, and of these by the least.

    One that does not answer, or could not be asked now for another reason, is none while there is
    one that could. None where no candidate was dropped for constraints.
    """
    return min((one for one in dropped if one.missed), key=_distance, default=None)


def what_would_admit(miss: Dropped) -> str:
    """What a nearest miss lacks, and what to ask for so that it would do; for a person."""
    said = "; ".join(one.text for one in miss.missed)
    admits = " and ".join(one.admits for one in miss.missed)
    who = f"{miss.candidate.name!r} at {miss.candidate.node}"
    if miss.besides is Reason.DEAD:
        who += ", which does not answer"
    return f"nearest is {who} ({said}): {admits}"


def _distance(miss: Dropped) -> tuple[int, int, list[float], str]:
    """A bound that would have to be greater by some counts less than what is no matter of more."""
    beyond = sorted((check.beyond for check in miss.missed), reverse=True)
    unable = 0 if miss.besides is None else 2 if miss.besides is Reason.DEAD else 1
    return unable, len(miss.missed), beyond, miss.candidate.node


def _named(candidate: Candidate) -> tuple[str, str, str, str, str]:
    return (
        candidate.record,
        candidate.manifest,
        candidate.node,
        candidate.model,
        candidate.name,
    )


def _dropped(one: Dropped) -> Explained:
    return Explained(
        *_named(one.candidate),
        one.explanation,
        reason=one.reason.value,
        missed=tuple(check.admits for check in one.missed),
    )
