"""Which task is done by what, and how a typed request goes through it."""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

import msgspec

from aigrid.engines.base import Cancelled, CancelToken, ModelSource
from aigrid.engines.tasks.audio import SoundClassification, VoiceActivity
from aigrid.engines.tasks.base import Runner, Setup, Task, TaskCall, invalid, unsupported
from aigrid.engines.tasks.content import FileType
from aigrid.engines.tasks.entities import TokenClassification
from aigrid.engines.tasks.image import ImageClassification, ImageEmbedding
from aigrid.engines.tasks.tabular import Anomalies, TableClassification, TableRegression
from aigrid.engines.tasks.text import (
    Embedding,
    Ranking,
    Similarity,
    TextClassification,
    ZeroShot,
)
from aigrid.engines.tasks.written import Rewriting
from aigrid.protocol.errors import Code, EngineError
from aigrid.protocol.inference import Finish, TaskChunk, TaskRequest
from aigrid.protocol.limits import LIMITS
from aigrid.protocol.task import ALSO_DOES

_encoder = msgspec.json.Encoder()
TASKS: Final[Mapping[str, Callable[[Setup], Task]]] = {
    "feature-extraction": Embedding,
    "sentence-similarity": Similarity,
    "text-ranking": Ranking,
    "text-classification": TextClassification,
    "zero-shot-classification": ZeroShot,
    "token-classification": TokenClassification,
    "tabular-classification": TableClassification,
    "tabular-regression": TableRegression,
    "anomaly-detection": Anomalies,
    "image-classification": ImageClassification,
    "image-feature-extraction": ImageEmbedding,
    "audio-classification": SoundClassification,
    "voice-activity-detection": VoiceActivity,
    "file-type-detection": FileType,
}


WRITTEN: Final[Mapping[str, Callable[[Setup], Task]]] = {
    "translation": Rewriting,
    "summarization": Rewriting,
}
"""Tasks for engines whose runner is a `Writer`, too."""

_ALL: Final = {**TASKS, **WRITTEN}


class Tasks:
    """The tasks of one loaded model."""

    def __init__(self, source: ModelSource, runner: Runner) -> None:
        """Raises EngineError: `unsupported_model` where mapping, task and model do not fit."""
        if source.mapping is None or source.task not in _ALL:
            raise unsupported(f"there is no mapping for the task {source.task!r}")
        names = (source.task, *ALSO_DOES.get(source.task, ()))
        setup = Setup(source.task, source.mapping, source.files, runner)
        self._own = source.task
        self._tasks = {name: _ALL[name](setup) for name in names}

    def run(self, request: TaskRequest, cancel: CancelToken) -> Iterator[TaskChunk | Finish]:
        """The answer and `Finish`.

        Raises:
            EngineError: `invalid_request`, and whatever the model's runner raises.
        """
        published = "#" in request.task  # somebody's own name for what this model does
        task = self._tasks.get(self._own if published else request.task)
        if task is None:
            raise invalid(f"this model does {', '.join(self._tasks)}, not {request.task!r}")
        if unknown := sorted(request.parameters.keys() - task.parameters):
            known = ", ".join(sorted(task.parameters)) or "none"
            raise EngineError(
                f"the model has no parameter `{unknown[0]}` for this, but {known}",
                Code.UNSUPPORTED_PARAMETER,
            )
        call = TaskCall(request, cancel)
        try:
            output = _encoder.encode(task(call))
        except Cancelled:
            yield Finish("cancelled")
            return
        if len(output) > LIMITS.task_json_max_bytes:
            raise invalid(f"the answer has {len(output)} bytes of JSON; send less at once")
        yield TaskChunk(output)
        yield Finish("length" if call.cut else "stop", prompt_tokens=call.tokens)
