"""How far the loading of each model has come, for whoever waits for it."""

from collections.abc import AsyncIterator, Mapping

import trio


class LoadProgress:
    """A board: the pool writes, anybody reads. Only the last word on a model is kept.

    Attributes:
        cold_starts: models that were loaded since the node started, further workers not counted.
    """

    def __init__(self) -> None:
        self._said: dict[str, str] = {}
        self._changed = trio.Event()
        self.cold_starts = 0

    @property
    def said(self) -> Mapping[str, str]:
        """Model id -> a few words, of models that are loading now."""
        return self._said

    def tell(self, model: str, text: str) -> None:
        self._said[model] = text
        self._changed.set()
        self._changed = trio.Event()

    def over(self, model: str) -> None:
        """It is loaded, or never will be."""
        self._said.pop(model, None)

    async def follow(self, model: str) -> AsyncIterator[str]:
        """What is said of a model from now on; without end."""
        last = ""
        while True:
            changed = self._changed
            text = self._said.get(model, "")
            if text and text != last:
                last = text
                yield text
            await changed.wait()
