"""The branches of the metagraph: which part of it a record belongs to, and who replicates what.

A branch is a root of the shipped taxonomy. What a record belongs to follows from its bytes and that
taxonomy alone, so that every node says the same of it.
"""

import functools
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import Final

from aigrid.metagraph.capabilities import ancestors, default_taxonomy, known
from aigrid.protocol.evidence import AuditBody, EvaluationBody
from aigrid.protocol.kinds import NO_BRANCH, AvailabilityBody, Body, DemandBody, ModelBody, NodeBody
from aigrid.protocol.messages import EVERYBODY, RECORDS_TOPIC

EVERYBODYS: Final[frozenset[str]] = frozenset()
BRANCHES: Final = default_taxonomy().roots
_ALL: Final = frozenset(BRANCHES)
# In the store. A node's own affair, but kept on its disk: the order of these never changes.
_BITS: Final = {name: 1 << bit for bit, name in enumerate((EVERYBODY, NO_BRANCH, *BRANCHES))}


@functools.cache
def roots(capability: str) -> frozenset[str]:
    """The branches of a shipped capability; a branch is its own."""
    return frozenset({capability, *ancestors(capability)}) & _ALL


def branches_of(body: Body) -> frozenset[str]:
    """The branches of what a record says; none of them: it is everybody's.

    Everybody's are withdrawals, memberships and capabilities, and whatever names a capability or a
    branch that the shipped taxonomy does not have. A node that takes part in no branch belongs to
    `NO_BRANCH`, which nobody asks for.
    """
    match body:
        case ModelBody():
            named: Iterable[str] = body.capabilities
        case EvaluationBody():
            named = (body.capability,)
        case AuditBody():
            named = {finding.capability for finding in body.findings}
        case AvailabilityBody() | DemandBody():
            named = body.branches
        case NodeBody(branches=(only,)) if only == NO_BRANCH:
            return frozenset({NO_BRANCH})
        case NodeBody():
            named = body.branches
        case _:
            return EVERYBODYS
    if not all(map(known, named)):
        return EVERYBODYS
    return frozenset[str]().union(*map(roots, named))


def joined(parts: Iterable[frozenset[str]]) -> frozenset[str]:
    """To whom several things belong together: to everybody, where one of them does."""
    found = list(parts)
    return frozenset[str]().union(*found) if all(found) else EVERYBODYS


def mask(branches: AbstractSet[str]) -> int:
    """What `branches_of` said, as a number that is not 0; bit 0 stands for everybody's."""
    return sum(_BITS[name] for name in branches) or _BITS[EVERYBODY]


def scope_mask(branch: str | None) -> int:
    """Which records a reconciliation of `branch` compares: those whose mask shares a bit with it.

    None stands for all there are; what is no branch has none.
    """
    return sum(_BITS.values()) if branch is None else _BITS.get(branch, 0)


def topics_of(branches: AbstractSet[str]) -> tuple[str, ...]:
    """Where a record of these branches is gossiped."""
    if not branches:
        return (RECORDS_TOPIC,)
    return tuple(_topic(name) for name in BRANCHES if name in branches)


def _topic(branch: str) -> str:
    return f"{RECORDS_TOPIC}/{branch}"


TOPICS: Final = frozenset({RECORDS_TOPIC, *map(_topic, BRANCHES)})
