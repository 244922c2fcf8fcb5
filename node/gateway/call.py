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
        choices: how many answers, each charged by itself.
        preferences: whom to ask.
        stream: whether the client reads the answer piece by piece.
        keep_alive: how long the model should stay loaded, as it was sent; None where nothing was.
    """

    models: tuple[str, ...]
    request: TextRequest
    choices: int = 1
    preferences: Preferences = ANY
    stream: bool = False
    keep_alive: str | float | None = None
