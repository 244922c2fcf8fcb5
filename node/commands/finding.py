"""`find`: who offers a capability, under which filters, and why in this order."""

import re
from typing import Any

import msgspec

from aigrid.metagraph.concepts import LiveConcepts
from aigrid.metagraph.filters import Filters, Found, check_language
from aigrid.metagraph.graph import Metagraph
from aigrid.metagraph.index import Candidate
from aigrid.metagraph.selection import Dropped, nearest_miss, what_would_admit
from aigrid.metagraph.typed_query import Wanted
from aigrid.node.app import Node
from aigrid.protocol.errors import NoCandidateError, UsageError
from aigrid.protocol.kinds import CAPABILITY_NAME, LABEL_LANGUAGE
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.timestamp import format_ms


class Find(Filters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Filters; whether to say why of every offer, and to ask others though some are known here."""

    explain: bool = False
    ask: bool = False


async def find(node: Node, params: Find) -> dict[str, Any]:
    """The candidates, best first; what was dropped, too, where an explanation is asked for.

    `more` is how many others fit, where there are too many to rank them all.

    Raises:
        UsageError: for a filter that cannot be meant, and a capability that is not known here.
        NoCandidateError: without `explain`, where there are offers and the filters leave none.
    """
    params.check()
    await node.typed_queries.look_for(Wanted("capability", params.capability), widely=params.ask)
    name = capability_named(node.graph, params.capability, node.now_ms())
    params = msgspec.structs.replace(params, capability=name)
    found = await node.router.find(params)
    if params.explain:
        return _explained(found)
    if found.removed and not (found.kept or found.more):
        raise NoCandidateError(_nothing_left(found))
    return {
        "candidates": [_candidate(kept.candidate) for kept in found.kept],
        **({"more": found.more} if found.more else {}),
    }


def capability_named(graph: Metagraph, said: str, now_ms: int) -> str:
    """A known capability: as it is named, or by the last part of one that this node published.

    Raises:
        UsageError: there is none, and what may have been meant.
    """
    concepts = graph.index.concepts
    own = f"{graph.own_did}#{said}"
    if not concepts.known(said, now_ms) and concepts.known(own, now_ms):
        return own
    check_capability(concepts, said, now_ms)
    return said


def check_capability(concepts: LiveConcepts, name: str, now_ms: int) -> None:
    """Raises UsageError unless a model may be published under this capability here."""
    if not concepts.known(name, now_ms):
        raise UsageError(unknown_capability(concepts, name, now_ms))


def check_new_capability(name: str, languages: tuple[str, ...]) -> None:
    """Raises UsageError for a name, or the language of a label, that no CapabilityRecord takes.

    What else it does not take is said when it is built.
    """
    if not re.fullmatch(CAPABILITY_NAME, name):
        raise UsageError(
            f"{name[:64]!r} is no capability's name: use small letters, digits and single hyphens, "
            "such as `legal-summarization`"
        )
    for language in languages:
        if not re.fullmatch(LABEL_LANGUAGE, language):
            raise UsageError(
                f"{language[:64]!r} is no language of a label: give a language, or one with a "
                "country, such as `en` or `pt-br`"
            )


def check_languages(tags: tuple[str, ...]) -> tuple[str, ...]:
    """The tags, each once. Raises UsageError for what a manifest cannot state."""
    for tag in tags:
        check_language(tag)
    if len(tags) > LIMITS.languages_max:
        raise UsageError(f"a manifest states at most {LIMITS.languages_max} languages; name fewer")
    return tuple(dict.fromkeys(tags))


def unknown_capability(concepts: LiveConcepts, name: str, now_ms: int) -> str:
    """A sentence that says what to write instead."""
    similar = concepts.similar(name, now_ms)
    meant = " or ".join(f"`{near}`" for near in similar)
    groups = ", ".join(f"`{broad}`" for broad in concepts.broadest())
    advice = f"did you mean {meant}?" if similar else f"look under {groups}"
    return f"{name[:128]!r} is not a capability known here: {advice}"


def _explained(found: Found) -> dict[str, Any]:
    return {
        "candidates": [
            {**_candidate(kept.candidate), "reasons": list(kept.explanation)} for kept in found.kept
        ],
        "dropped": [_dropped(one) for one in found.dropped],
        "removed": dict(found.removed),
        "more": found.more,
    }


def _dropped(one: Dropped) -> dict[str, Any]:
    return {
        **_candidate(one.candidate),
        "reason": one.reason.value,
        "reasons": list(one.explanation),
    }


def _nothing_left(found: Found) -> str:
    counts = [f"{name} removed {count}" for name, count in found.removed.items()]
    unable = sum(one.reason.value not in found.removed for one in found.dropped)
    offers = sum(found.removed.values()) + unable
    counts += [f"{unable} cannot serve now"] if unable else []
    miss = nearest_miss(found.dropped)
    near = "" if miss is None else f"{what_would_admit(miss)}; "
    return (
        f"of {offers} offers the filters leave none: {', '.join(counts)}; {near}"
        "`--explain` shows what each of them states"
    )


def _candidate(candidate: Candidate) -> dict[str, Any]:
    return {
        "model": candidate.model,
        "name": candidate.name,
        "record": candidate.record,
        "node": candidate.node,
        "signer": candidate.signer,
        "state": candidate.state,
        "valid_until": format_ms(candidate.valid_until_ms),
    }
