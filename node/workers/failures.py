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
    """

    engine: str
    model: str
    code: Code
    message: str
    at_seconds: float


def no_failures() -> deque[WorkerFailure]:
    """Room for the newest ones."""
    return deque(maxlen=LIMITS.worker_failures_max)


def told(failures: Sequence[WorkerFailure], now_seconds: float) -> list[dict[str, Any]]:
    """As `status` shows them, the newest first."""
    return [
        {
            "engine": failure.engine,
            "model": failure.model,
            "code": failure.code.value,
            "message": failure.message,
            "seconds_ago": round(now_seconds - failure.at_seconds, 1),
        }
        for failure in reversed(failures)
    ]
