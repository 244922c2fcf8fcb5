"""What every answer tells beside what was asked for: the `aigrid` object. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import msgspec

from aigrid.node.mesh.routing.answer import Answer, Segment
from aigrid.node.observing.course import Course
from aigrid.node.outcome.asking import Failure
from aigrid.protocol.errors import AigridError


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


class OutcomeError(AigridError):
    """Why there is no outcome, though answers were given for it, which are paid for.

    Attributes:
        segments: of these answers.
        failures: candidates that gave none, where the error says so.
        param, progress: of what it is made of, where that has them.
    """

    def __init__(
        self, error: AigridError, segments: Sequence[Segment], *, prefix: str = ""
    ) -> None:
        message = prefix + error.message.removeprefix(prefix)
        super().__init__(message, error.code, retry_after_seconds=error.retry_after_seconds)
        self.segments = tuple(segments)
        self.failures: tuple[Failure, ...] = getattr(error, "failures", ())
        self.param: str | None = getattr(error, "param", None)
        self.progress: dict[str, Any] | None = getattr(error, "progress", None)


def aigrid_object(told: Told) -> dict[str, Any]:
    """Of an answer that has ended: who made it, and what it cost."""
    return {
        **broken_object(told.segments),
        "node": told.answer.node,
        "model": told.answer.model,
        "attempts": told.attempts,
        "overhead_ms": told.overhead_ms,
    }


def unmet_object(error: AigridError, segments: Sequence[Segment]) -> dict[str, Any]:
    """Of an error: what was answered all the same, and who gave no answer; empty where neither."""
    failures = error.failures if isinstance(error, OutcomeError) else ()
    if not segments and not failures:
        return {}
    return {**broken_object(segments), **failures_object(failures)}


def failures_object(failures: Sequence[Failure]) -> dict[str, Any]:
    """Who was asked and gave no answer, and why; empty where there is nobody."""
    told = [
        {"node": one.target.node, "model": one.target.model, "code": one.error.code.value}
        for one in failures
    ]
    return {"failures": told} if told else {}


def broken_object(segments: Sequence[Segment]) -> dict[str, Any]:
    """Of an answer that broke off: which nodes had made how much of it."""
    return {"segments": [msgspec.to_builtins(segment) for segment in segments]}
