"""A request for text as every dialect hands it to the core."""

from dataclasses import dataclass

from aigrid.metagraph.preferences import ANY, Preferences
from aigrid.protocol.inference import TextRequest


@dataclass(frozen=True, slots=True)
class TextCall:
    """What a client asked for.

    Attributes:
        models: names or ids, the first that can be served in that order.
        request: what to generate.
        others: further prompts, which are answered beside it.
        choices: how many answers to each, each charged by itself.
        preferences: whom to ask.
        stream: whether the client reads the answer piece by piece.
        keep_alive: how long the model should stay loaded, as it was sent; None where nothing was.
    """

    models: tuple[str, ...]
    request: TextRequest
    others: tuple[TextRequest, ...] = ()
    choices: int = 1
    preferences: Preferences = ANY
    stream: bool = False
    keep_alive: str | float | None = None

    @property
    def count(self) -> int:
        """How many answers there are in all: those to `request` first, then to each other."""
        return self.choices * (1 + len(self.others))
