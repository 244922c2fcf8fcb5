"""Which model a name means, where several are called by it. Pure.

Anybody may call a model what they like, so a name that others use must not stop working because one
more member has taken it. Nor must it come to mean another model: what a node has used under a name
it goes on using.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

_EQUAL = 1e-9


@dataclass(frozen=True, slots=True)
class Claim:
    """A model, and the DIDs of those whose live manifests call it by the name in question."""

    model: str
    publishers: frozenset[str]


@dataclass(frozen=True, slots=True)
class Usage:
    """What a node has used under a name: the model, one publisher (a DID) of it, when last."""

    model: str
    publisher: str
    used_ms: int


@dataclass(frozen=True, slots=True)
class Standing:
    """What decides between publishers.

    Attributes:
        own: DID of this node.
        trusted: DIDs of publishers whom the operator trusts.
        word: what the word of a DID weighs, from 0 to 1.
    """

    own: str
    trusted: Collection[str]
    word: Callable[[str], float]


def meant(
    claims: Iterable[Claim], standing: Standing, *, used: Usage | None, first: str | None
) -> tuple[str, ...]:
    """The model that a name means; several, in order of id, where nothing decides.

    Of those that are left, each of these in turn leaves those of which it is true, if there are
    any: this node publishes it; a trusted publisher does; it is what this node has used; whoever
    published that publishes it; the words of its publishers weigh most together; it is what this
    node knew first by that name. A word weighs nothing of who is no member, so that strangers
    outvote nobody, and new keys of members only as many as the grid admits.

    Args:
        claims: one for each model.
        standing: of publishers.
        used: what was used under this name, as long as that counts.
        first: the model that was known by it before any other.
    """
    left = sorted(claims, key=lambda claim: claim.model)
    rules: tuple[Callable[[Claim], bool], ...] = (
        lambda claim: standing.own in claim.publishers,
        lambda claim: not claim.publishers.isdisjoint(standing.trusted),
        lambda claim: used is not None and claim.model == used.model,
        lambda claim: used is not None and used.publisher in claim.publishers,
    )
    for holds in rules:
        left = [claim for claim in left if holds(claim)] or left
    most = max((_weight(claim, standing) for claim in left), default=0.0)
    left = [claim for claim in left if _weight(claim, standing) >= most - _EQUAL]
    left = [claim for claim in left if claim.model == first] or left
    return tuple(claim.model for claim in left)


def after_use(before: Usage | None, now: Usage, *, kept_ms: int) -> Usage:
    """What counts as used from now on.

    Another model of another publisher takes the place of what was used only once that has not been
    used for `kept_ms`: whoever comes while a publisher is away is not taken for it for good.
    """
    if before is None or now.publisher == before.publisher or now.model == before.model:
        return now
    return now if now.used_ms - before.used_ms > kept_ms else before


def _weight(claim: Claim, standing: Standing) -> float:
    return sum(standing.word(did) for did in claim.publishers)
