"""NVIDIA's cards, asked of the driver through its management library (NVML)."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, TypeVar

from aigrid.engines.devices.cards import Card

T = TypeVar("T")


def cards() -> tuple[Card, ...]:
    """Every card, in the order of the bus; none where there is no driver."""
    try:
        import pynvml as nvml

        nvml.nvmlInit()
    except Exception:  # noqa: BLE001 -- boundary: a driver
        return ()
    try:
        return tuple(_cards(nvml))
    except Exception:  # noqa: BLE001 -- boundary: a driver
        return ()
    finally:
        with suppress(Exception):  # boundary: a driver
            nvml.nvmlShutdown()


def _cards(nvml: Any) -> Iterator[Card]:
    for index in range(nvml.nvmlDeviceGetCount()):
        with suppress(nvml.NVMLError):  # one that fell off the bus: no runtime sees it
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            yield _card(nvml, handle, tuple(_parts(nvml, handle)))


def _card(nvml: Any, handle: Any, parts: tuple[Card, ...] = ()) -> Card:
    uuid = _told(nvml, lambda: str(nvml.nvmlDeviceGetUUID(handle)), "")
    name = _told(nvml, lambda: str(nvml.nvmlDeviceGetName(handle)), "")
    total = free = 0
    unified = False
    try:
        said = nvml.nvmlDeviceGetMemoryInfo(handle)
        total, free = int(said.total), int(said.free)
    except nvml.NVMLError_NotSupported:
        unified = True  # a part that has no memory of its own
    except nvml.NVMLError:
        pass
    return Card(uuid, name, total, free, unified, parts)


def _parts(nvml: Any, handle: Any) -> Iterator[Card]:
    """The instances that a card was divided into, if it was."""
    divided = _told(nvml, lambda: bool(nvml.nvmlDeviceGetMigMode(handle)[0]), otherwise=False)
    most = _told(nvml, lambda: int(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)), 0)
    for index in range(most if divided else 0):
        with suppress(nvml.NVMLError):  # there are fewer than there may be
            yield _card(nvml, nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index))


def _told(nvml: Any, ask: Callable[[], T], otherwise: T) -> T:
    try:
        return ask()
    except nvml.NVMLError:
        return otherwise
