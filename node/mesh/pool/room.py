"""The memory that workers have, and who would go to make room for another."""

from collections.abc import Callable, Iterable, Mapping

import trio

from aigrid.engines.base import Device, Estimate
from aigrid.engines.devices import memory
from aigrid.node.mesh.pool.budget import (
    HOST,
    Budget,
    Charge,
    Holding,
    budget,
    check_fits,
    check_fits_beside,
    larger,
    make_room,
    taken,
)
from aigrid.node.mesh.pool.entry import Entry, Replica
from aigrid.protocol.limits import Limits

Free = Callable[[Replica], float | None]
"""Since when a worker may be unloaded, or None where it may not."""


class Room:
    """Purses of the budget, and what each worker has of them.

    Attributes:
        changed: set, and replaced, whenever some may have become free.
    """

    def __init__(self, configured: Mapping[str, int], limits: Limits) -> None:
        self._configured = configured
        self._limits = limits
        self._devices: dict[str, Device] = {}
        self._charges: dict[Replica, Charge] = {}
        self.budget = Budget()
        self.changed = trio.Event()

    def equip(self, devices: Iterable[Device]) -> None:
        """Take devices that engines can use here into the budget; one that is in it stays."""
        if HOST not in self._devices:
            self._devices[HOST] = Device(HOST, "", *memory())
        for device in devices:
            self._devices.setdefault(device.place, device)
        share = self._limits.memory_share
        self.budget = budget(self._devices.values(), self._configured, share=share)

    def reserved(self) -> dict[str, int]:
        """Purse -> bytes that workers have of it."""
        return taken(self._charges.values())

    def of(self, replicas: Iterable[Replica]) -> dict[str, int]:
        """Purse -> bytes that these workers have of it."""
        return taken(self._charges[one] for one in replicas if one in self._charges)

    def charge(self, replica: Replica, charge: Charge) -> None:
        self._charges[replica] = charge

    def settle(self, replica: Replica, real: Estimate) -> None:
        """Charge what it took in the end, where that is more. Raises EngineError as `make_room`."""
        charge = larger(self._charges[replica], self.budget.charge(real))
        check_fits(charge, self.budget.purses)
        self._charges[replica] = charge

    def give_back(self, replica: Replica) -> None:
        if self._charges.pop(replica, None) is not None:
            self.tell()

    def tell(self) -> None:
        """Whoever waits for room looks again."""
        self.changed.set()
        self.changed = trio.Event()

    def left(self) -> dict[str, int]:
        """Place -> what is free, for engines that choose a device for a further worker.

        Of the machine's memory all is named: a model is not made smaller for want of it.
        """
        reserved = self.reserved()
        free = {
            purse: max(0, size - reserved.get(purse, 0))
            for purse, size in self.budget.purses.items()
        }
        return {**self.budget.room(), **free, HOST: self.budget.purses[HOST]}

    def check_beside_pinned(self, needed: Charge, entry: Entry) -> None:
        """Raises EngineError (`out_of_memory`) where other models that are pinned leave too little.

        Whoever waited for that would wait for nothing.
        """
        kept = taken(
            charge
            for one, charge in self._charges.items()
            if one.entry is not entry and one.entry.pinned and one.entry.first(one)
        )
        check_fits_beside(needed, kept, self.budget.purses)

    def victims(self, needed: Charge, free: Free) -> list[Replica]:
        """Who has to go so that `needed` fits. Raises as `make_room`."""
        replicas = list(self._charges)
        holdings = [
            Holding(self._charges[one], free(one), extra=not one.entry.first(one))
            for one in replicas
        ]
        numbers = make_room(needed, holdings, self.budget.purses, self._limits)
        return [replicas[number] for number in numbers]


def unused(replica: Replica) -> float | None:
    """`Free` for a model that has no worker yet: whatever is idle."""
    return replica.idle_since if replica.entry.may_go(replica) else None


def long_unused(now: float, limits: Limits) -> Free:
    """`Free` for a further worker of a model: extra ones, and what was not used for a while."""

    def free(replica: Replica) -> float | None:
        since = unused(replica)
        if since is None or not replica.entry.first(replica):
            return since
        return since if since + limits.model_extra_idle_seconds <= now else None

    return free


def stoppable(now: float, limits: Limits) -> Free:
    """Who may be asked to take no more leases, so that a model that waits gets its turn."""

    def free(replica: Replica) -> float | None:
        since = unused(replica)
        if since is not None:
            return since
        entry = replica.entry
        stays = replica.worker is None or replica.closing or replica.resident
        if stays or (entry.pinned and entry.first(replica)):
            return None
        return now if replica.loaded_at + limits.model_stay_seconds <= now else None

    return free
