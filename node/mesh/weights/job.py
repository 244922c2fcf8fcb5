"""One fetch under way, for all who wait for it."""

from copy import copy
from typing import Any

import trio

from aigrid.node.mesh.shelf.copying import Progress
from aigrid.node.mesh.weights.ledger import Askers
from aigrid.node.mesh.weights.transferred import Transferred
from aigrid.protocol.errors import AigridError
from aigrid.protocol.limits import MIB
from aigrid.protocol.record import Record


class Job:
    """A fetch: one for all who wait for the model. Whoever leaves does not end it.

    `askers`: who asked for it first; see `ledger.Askers`.
    """

    def __init__(self, model: str, manifest: Record, size: int, askers: Askers) -> None:
        self.model = model
        self.manifest = manifest
        self.askers = None if askers is None else tuple(sorted(askers))
        self.scope = trio.CancelScope()
        self.text = "waiting for other downloads"
        self.moved = Transferred(size)
        self.error: AigridError | None = None
        self.done = False
        self._changed = trio.Event()

    def say(self, text: str) -> None:
        if text != self.text:
            self.text = text
            self._tell()

    def tell_moved(self) -> None:
        """It has come further."""
        nodes = len(self.moved.given)
        where = f" from {nodes} {'node' if nodes == 1 else 'nodes'}" if nodes else ""
        self.say(
            f"fetching: {self.moved.percent} % of {-(-self.moved.all_bytes // MIB)} MiB{where}"
        )

    def view(self) -> dict[str, Any]:
        """For `status`: sizes in bytes, `holders` by DID -> good bytes that each has sent."""
        moved = self.moved
        return {
            "text": self.text,
            "bytes": moved.here_bytes,
            "all_bytes": moved.all_bytes,
            "percent": moved.percent,
            "holders": dict(moved.given),
            "asked_by": "operator" if self.askers is None else "placement",
        }

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
