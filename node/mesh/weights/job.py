"""One fetch under way, for all who wait for it."""

from copy import copy

import trio

from aigrid.node.mesh.shelf.copying import Progress
from aigrid.protocol.errors import AigridError
from aigrid.protocol.record import Record


class Job:
    """A fetch: one for all who wait for the model. Whoever leaves does not end it."""

    def __init__(self, model: str, manifest: Record) -> None:
        self.model = model
        self.manifest = manifest
        self.scope = trio.CancelScope()
        self.text = "waiting for other downloads"
        self.error: AigridError | None = None
        self.done = False
        self._changed = trio.Event()

    def say(self, text: str) -> None:
        if text != self.text:
            self.text = text
            self._tell()

    def finish(self, error: AigridError | None) -> None:
        self.done, self.error = True, error
        self._tell()

    async def follow(self, progress: Progress) -> None:
        """Tell `progress` what is said, until it is over. Raises why it failed."""
        said = ""
        while not self.done:
            if self.text != said:
                said = self.text
                await progress(said)
            else:
                await self._changed.wait()
        if self.error is not None:
            raise copy(self.error)

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
