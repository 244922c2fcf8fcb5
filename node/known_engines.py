"""What the engines that are installed here have said that they can do."""

from collections.abc import Callable, Sequence

import structlog
import trio

from aigrid.engines.base import Probe
from aigrid.engines.registry import EngineTable
from aigrid.node.workers.spawning import WorkerSpawner
from aigrid.protocol.errors import AigridError
from aigrid.protocol.limits import LIMITS

log = structlog.get_logger()


class KnownEngines:
    """Asks them while the other services start.

    Attributes:
        table: of those that have answered so far.
        asked: set once all have, or those that have not shall keep nobody waiting.
    """

    def __init__(
        self, spawner: WorkerSpawner, prefer: Sequence[str], *, changed: Callable[[], None]
    ) -> None:
        """`prefer`: see `EngineTable`; `changed` is called when the table has changed."""
        self.table = EngineTable((), prefer)
        self.asked = trio.Event()
        self._spawner = spawner
        self._prefer = prefer
        self._changed = changed
        self._said: dict[str, Probe] = {}

    async def run(self) -> None:
        """Ask each once. A node that cannot ask now still routes; it goes on trying.

        For plug-ins it waits a little: one that hangs keeps nobody from starting.
        """
        while True:
            try:
                own = await self._spawner.probe()
                break
            except AigridError as error:
                log.warning("engines_not_probed", code=error.code.value, reason=error.message)
                self.asked.set()
                await trio.sleep(LIMITS.worker_start_seconds)
        self._learn(*own)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._wait_a_little)
            await self._spawner.probe_plugins(self._learn)
            self.asked.set()

    def runs_code(self, format_: str) -> bool:
        """See `EngineTable.runs_code`."""
        return self.table.runs_code(format_)

    def takes(self, format_: str) -> tuple[str, ...]:
        """See `EngineTable.takes`."""
        return self.table.takes(format_)

    async def _wait_a_little(self) -> None:
        with trio.move_on_after(LIMITS.plugin_wait_seconds):
            await self.asked.wait()
        self.asked.set()

    def _learn(self, *probes: Probe) -> None:
        for probe in probes:
            if probe.problem:
                log.info("engine_unusable", engine=probe.engine, reason=probe.problem)
            self._said[probe.engine] = probe
        said = (probe for _, probe in sorted(self._said.items()))
        self.table = EngineTable(said, self._prefer)
        self._changed()
