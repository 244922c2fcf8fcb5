"""What every answer tells beside what was asked for: the `aigrid` object. Pure."""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from aigrid.node.mesh.routing.answer import Answer, Segment
from aigrid.node.observing.course import Course


class Told(list[Segment]):
    """The segments of an answer that has ended, and what is known of it as a whole.

    Attributes:
        answer: who began it.
        attempts: nodes that were asked, for all choices.
        overhead_ms: see `Course`; as it was when this was made.
    """

    def __init__(self, segments: Iterable[Segment], answer: Answer, course: Course) -> None:
        super().__init__(segments)
        self.answer = answer
        self.attempts = course.attempts
        self.overhead_ms = course.overhead_ms


def aigrid_object(segments: Sequence[Segment]) -> dict[str, Any]:
    """Which nodes made how much of it; once it has ended who began it, and what it cost."""
    said: dict[str, Any] = {"segments": [msgspec.to_builtins(segment) for segment in segments]}
    if isinstance(segments, Told):
        answer = segments.answer
        said["node"], said["model"] = answer.node, answer.model
        said["attempts"], said["overhead_ms"] = segments.attempts, segments.overhead_ms
    return said
