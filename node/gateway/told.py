"""What every answer tells beside what was asked for: the `aigrid` object. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import msgspec

from aigrid.node.mesh.routing.answer import Answer, Segment
from aigrid.node.observing.course import Course


@dataclass(frozen=True, slots=True)
class Told:
    """An answer that has ended.

    Attributes:
        answer: who began it.
        segments: who made how much of it; of several choices, all of them.
        attempts: how often a node was asked, for all choices.
        overhead_ms: see `Course`; as it was when the answer ended.
    """

    answer: Answer
    segments: Sequence[Segment]
    attempts: int
    overhead_ms: float

    @classmethod
    def of(cls, answer: Answer, segments: Sequence[Segment], course: Course) -> Self:
        """As it stands now."""
        return cls(answer, segments, course.attempts, course.overhead_ms)


def aigrid_object(told: Told) -> dict[str, Any]:
    """Of an answer that has ended: who made it, and what it cost."""
    return {
        **broken_object(told.segments),
        "node": told.answer.node,
        "model": told.answer.model,
        "attempts": told.attempts,
        "overhead_ms": told.overhead_ms,
    }


def broken_object(segments: Sequence[Segment]) -> dict[str, Any]:
    """Of an answer that broke off: which nodes had made how much of it."""
    return {"segments": [msgspec.to_builtins(segment) for segment in segments]}
