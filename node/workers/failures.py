"""What `status` remembers of workers that ended without being asked to."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aigrid.protocol.errors import Code
from aigrid.protocol.limits import LIMITS


@dataclass(frozen=True, slots=True)
class WorkerFailure:
    """A worker that is gone. `model` is a model id, or "" for one that only looked around.

    `at_seconds` is monotonic time; `message` says what happened and nothing of any request.
    `requests`: ids of those that it ran then, as far as it did.
    """

    engine: str
    model: str
    code: Code
    message: str
    at_seconds: float
    requests: tuple[str, ...] = ()


class WorkerFailures(deque[WorkerFailure]):
    """The newest ones, oldest first.

    Attributes:
        total: how many there were since the node started.
    """

    def __init__(self) -> None:
        super().__init__(maxlen=LIMITS.worker_failures_max)
        self.total = 0

    def append(self, failure: WorkerFailure) -> None:
        super().append(failure)
        self.total += 1


def told(failures: Sequence[WorkerFailure], now_seconds: float) -> list[dict[str, Any]]:
    """As `status` shows them, the newest first."""
    return [
        {
            "engine": failure.engine,
            "model": failure.model,
            "code": failure.code.value,
            "message": failure.message,
            "requests": list(failure.requests),
            "seconds_ago": round(now_seconds - failure.at_seconds, 1),
        }
        for failure in reversed(failures)
    ]
