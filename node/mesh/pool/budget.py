"""How much memory of which device models may take: decisions over what is reserved.

A *purse* is memory that is counted together: "cpu" for the machine's own, and one for each
accelerator that has its own, by its place ("cuda:0"). What shares the machine's memory, or was not
found here, is paid for from "cpu". A *charge* says what a model takes: purse -> bytes.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from aigrid.engines.base import Device, Estimate
from aigrid.protocol.errors import AigridError, Code, EngineError, LocalError
from aigrid.protocol.limits import MIB, Limits

HOST: Final = "cpu"
Charge = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Budget:
    """What models may take.

    Attributes:
        purses: purse -> bytes; "cpu" is always there.
        shared: places that are paid for from "cpu".
    """

    purses: Charge = field(default_factory=lambda: {HOST: 0})
    shared: frozenset[str] = frozenset()

    def charge(self, estimate: Estimate) -> dict[str, int]:
        """What a model takes of which purse."""
        purse = estimate.device if estimate.device in self.purses else HOST
        charged = {purse: estimate.memory_bytes}
        if estimate.device != HOST:
            charged[HOST] = charged.get(HOST, 0) + estimate.host_bytes
        return {name: taken for name, taken in charged.items() if taken > 0}

    def room(self) -> dict[str, int]:
        """For engines: place -> what a model may ever take there."""
        return {**dict.fromkeys(self.shared, self.purses[HOST]), **self.purses}


@dataclass(frozen=True, slots=True)
class Holding:
    """What one worker has reserved; `idle_since` is None while it may not be unloaded.

    `extra`: its model has another worker, so it goes before those that are their model's only one.
    """

    charge: Charge
    idle_since: float | None
    extra: bool = False


def budget(devices: Iterable[Device], configured: Charge, *, share: float) -> Budget:
    """What is configured, and for every other purse a share of what is free of it now."""
    purses, shared = {HOST: 0}, set()
    for device in devices:
        counted_alone = device.memory_total_bytes > 0 and not device.unified
        if device.place == HOST or counted_alone or device.place in configured:
            purses[device.place] = int(device.memory_free_bytes * share)
        else:
            shared.add(device.place)
    return Budget({**purses, **configured}, frozenset(shared - configured.keys()))


def taken(charges: Iterable[Charge]) -> dict[str, int]:
    """What is reserved of each purse, in all."""
    total: dict[str, int] = {}
    for charge in charges:
        for purse, size in charge.items():
            total[purse] = total.get(purse, 0) + size
    return total


def larger(one: Charge, other: Charge) -> dict[str, int]:
    """The larger of two charges, purse by purse."""
    purses = one.keys() | other.keys()
    return {purse: max(one.get(purse, 0), other.get(purse, 0)) for purse in purses}


def check_fits(needed: Charge, purses: Charge) -> None:
    """Raises EngineError (`out_of_memory`) for more than there would ever be."""
    for purse, size in needed.items():
        if size > purses.get(purse, 0):
            raise _never(purse, size, purses.get(purse, 0))


def check_fits_beside(needed: Charge, pinned: Charge, purses: Charge) -> None:
    """Raises EngineError (`out_of_memory`) for more than what is pinned leaves."""
    for purse, size in needed.items():
        left = max(0, purses.get(purse, 0) - pinned.get(purse, 0))
        if size > left:
            where = "" if purse == HOST else f" of {purse}"
            raise EngineError(
                f"the model needs {size // MIB} MiB{where}, "
                f"models that are pinned here leave {left // MIB}",
                Code.OUT_OF_MEMORY,
            )


def check_fits_anywhere(memory_bytes: int, purses: Charge) -> None:
    """The same where no more is known of a model than its size."""
    purse = max(purses, key=lambda one: purses[one])
    check_fits({purse: memory_bytes}, purses)


def beside(wanted: Mapping[str, Charge], purses: Charge) -> dict[str, tuple[str, ...]]:
    """Of models that are to stay loaded, first come first served, those for which there is no room.

    Args:
        wanted: model -> what it takes, in order.
        purses: what there is.

    Returns:
        Model -> those before it that have what it lacks; none where it would not fit alone either.
    """
    kept: dict[str, Charge] = {}
    refused: dict[str, tuple[str, ...]] = {}
    for model, charge in wanted.items():
        total = taken((*kept.values(), charge))
        short = {p for p, size in charge.items() if total[p] > purses.get(p, 0)}
        if not short:
            kept[model] = charge
            continue
        alone = all(charge[p] <= purses.get(p, 0) for p in charge)
        refused[model] = tuple(m for m, has in kept.items() if alone and short & has.keys())
    return refused


def make_room(
    needed: Charge, holdings: Sequence[Holding], purses: Charge, limits: Limits
) -> list[int]:
    """Which holdings to unload, by number, so that `needed` fits: none that is not needed for that.

    Extra workers go first, and then what was idle longest.

    Raises:
        EngineError: `out_of_memory` where it could never fit.
        LocalError: `busy` where what it needs is in use.
    """
    check_fits(needed, purses)
    reserved = taken(holding.charge for holding in holdings)
    short = {
        purse: lacking
        for purse, size in needed.items()
        if (lacking := size + reserved.get(purse, 0) - purses[purse]) > 0
    }
    idle = [n for n, holding in enumerate(holdings) if holding.idle_since is not None]
    idle.sort(key=lambda n: (not holdings[n].extra, holdings[n].idle_since or 0.0, n))
    victims: list[int] = []
    for number in idle:
        if _missing(short, [holdings[n].charge for n in victims]):
            victims.append(number)
    if _missing(short, [holdings[n].charge for n in victims]):
        raise LocalError(
            "the memory that the model needs is in use",
            Code.BUSY,
            retry_after_seconds=limits.retry_after_seconds,
        )
    for number in reversed(victims.copy()):  # those that free nothing of use stay
        others = [n for n in victims if n != number]
        if not _missing(short, [holdings[n].charge for n in others]):
            victims = others
    return victims


def _missing(short: Charge, freed: Collection[Charge]) -> frozenset[str]:
    """The purses that are still short once so much was freed."""
    back = taken(freed)
    return frozenset(purse for purse, lacking in short.items() if back.get(purse, 0) < lacking)


def _never(purse: str, needed: int, has: int) -> AigridError:
    where = "" if purse == HOST else f" of {purse}"
    return EngineError(
        f"the model needs {needed // MIB} MiB{where}, this node has {has // MIB}",
        Code.OUT_OF_MEMORY,
    )
