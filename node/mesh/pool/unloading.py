"""How workers go: unloaded when idle, evicted, crashed, or because somebody said so."""

from collections.abc import Callable, Iterable

import structlog
import trio

from aigrid.node.mesh.pool.entry import Entry, Replica, end
from aigrid.node.mesh.pool.health import COUNTED
from aigrid.node.mesh.pool.room import Room
from aigrid.protocol.errors import AigridError

log = structlog.get_logger(__name__)


class Unloading:
    """Ends workers of `entries`, and gives their memory back."""

    def __init__(
        self, entries: dict[str, Entry], room: Room, on_change: Callable[[], None]
    ) -> None:
        self._entries = entries
        self._room = room
        self._on_change = on_change
        self._poked = trio.Event()

    def poke(self) -> None:
        """Somebody may be due earlier than was thought."""
        self._poked.set()

    def changed(self) -> None:
        """What may be offered has changed."""
        self._on_change()
        self._poked.set()

    async def run(self) -> None:
        """Unload what has been idle too long. Sleeps until something can be due."""
        while True:
            self._poked = trio.Event()
            now = trio.current_time()
            due = [
                one
                for entry in self._entries.values()
                for one in entry.loaded
                if entry.expires_at(one) <= now
            ]
            for one in due:
                idle = round(now - one.idle_since, 1)
                log.info("model_unloaded", model=one.model, idle_seconds=idle)
                self.drop(one)
            await self.kill(due)
            with trio.move_on_at(self._next(trio.current_time())) as waiting:
                await self._poked.wait()
            if waiting.cancelled_caught:
                self._on_change()  # a quarantine may have ended

    def _next(self, now: float) -> float:
        entries = self._entries.values()
        expiries = [entry.expires_at(one) for entry in entries for one in entry.loaded]
        ends = [entry.health.quarantined_until(now) for entry in entries]
        return min(expiries + ends, default=float("inf"))

    async def unload(self, entry: Entry) -> None:
        """Unload a model once its last lease has ended.

        What is loading is broken off; nothing of it is left when this returns.
        """
        replicas = list(entry.replicas)
        for one in replicas:
            self.drop(one)
        loading = [one for one in replicas if not one.settled.is_set()]
        for one in loading:
            one.scope.cancel()
        for one in loading:
            await one.settled.wait()
        await self.kill([one for one in replicas if one not in loading and not one.leases])

    def drop(self, replica: Replica) -> None:
        """Take a worker out of use: no new leases; who waits for the last one looks again."""
        replica.closing = True
        entry = replica.entry
        if replica in entry.replicas:
            entry.replicas.remove(replica)
            entry.closing.append(replica)
            self._on_change()
        if not entry.replicas:
            # They were for what is unloaded now.
            entry.wish_seconds, entry.others_wish_seconds = None, 0.0
            entry.dismiss()

    def forget(self, replica: Replica) -> None:
        """Give back what a worker had reserved, once it is gone or never came."""
        self._room.give_back(replica)
        entry = replica.entry
        if replica in entry.closing:
            entry.closing.remove(replica)
        if replica in entry.replicas:
            entry.replicas.remove(replica)
            self._on_change()
        self.prune(entry)

    def prune(self, entry: Entry) -> None:
        """Forget a model whose files are gone, once nothing of it runs or is waited for."""
        if entry.off_disk and not (entry.replicas or entry.closing or entry.waiters):
            self._entries.pop(entry.model, None)

    def bury(self, replica: Replica) -> None:
        """A worker has died. Called by whoever notices first."""
        if replica.buried:
            return
        replica.buried = True
        failure = replica.worker.failure if replica.worker is not None else None
        if failure is not None:
            self.blame(replica, failure)
        self.drop(replica)
        self.forget(replica)

    def blame(self, replica: Replica, failure: AigridError) -> None:
        """A worker died or could not be loaded: whose fault it was decides what follows."""
        if failure.code not in COUNTED:
            return
        now = trio.current_time()
        suspects = replica.suspects(now)
        if replica.entry.health.crashed(now, failure, suspects):
            log.error("model_quarantined", model=replica.model, reason=failure.message)
            self._on_change()
        self.poke()

    async def kill(self, replicas: Iterable[Replica]) -> None:
        async with trio.open_nursery() as nursery:
            for one in replicas:
                self.drop(one)
                if one.worker is not None:
                    nursery.start_soon(end, one.worker)
