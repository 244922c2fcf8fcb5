"""Requests as every dialect hands them to the core."""

from dataclasses import dataclass

from aigrid.metagraph.preferences import ANY, Preferences
from aigrid.metagraph.selection import ANYTHING, Criteria
from aigrid.protocol.inference import TaskRequest, TensorRequest, TextRequest, asked_for


@dataclass(frozen=True, slots=True)
class TextCall:
    """What a client asked for.

    Attributes:
        models: names or ids, the first that can be served in that order.
        request: what to generate.
        others: further prompts, which are answered beside it.
        choices: how many answers to each prompt, each charged by itself, its prompt included.
        preferences: whom to ask.
        capability: what is asked for where no model is named.
        criteria: what whoever answers must be, and what counts among those that are.
        stream: whether the client reads the answer piece by piece.
        keep_alive: how long the model should stay loaded, as it was sent; None where nothing was.
    """

    models: tuple[str, ...]
    request: TextRequest
    others: tuple[TextRequest, ...] = ()
    choices: int = 1
    preferences: Preferences = ANY
    capability: str = ""
    criteria: Criteria = ANYTHING
    stream: bool = False
    keep_alive: str | float | None = None

    @property
    def count(self) -> int:
        """How many answers there are in all: those to `request` first, then to each other."""
        return self.choices * (1 + len(self.others))


@dataclass(frozen=True, slots=True)
class TaskCall:
    """What a client asked for that has one answer: a typed task, or tensors.

    Attributes:
        models: as above; empty for whatever model does the task.
        request: what to do.
        kind: capability that a model of tensors is known by.
        preferences, criteria, keep_alive: as above.
    """

    models: tuple[str, ...]
    request: TaskRequest | TensorRequest
    kind: str = ""
    preferences: Preferences = ANY
    criteria: Criteria = ANYTHING
    keep_alive: str | float | None = None

    @property
    def capability(self) -> str:
        """What the model does."""
        return asked_for(self.request) or self.kind
