"""AMD's cards, read from what the kernel's driver (amdgpu, amdkfd) says in /sys.

Source: the kernel's documentation, "drm/amdgpu: Memory Usage Information", and the topology that
amdkfd publishes, in whose order ROCm numbers the cards.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aigrid.engines.devices.cards import Card

_VENDOR: Final = "0x1002"
_LAST: Final = 1 << 30
_CARDS_MAX: Final = 256


@dataclass(frozen=True, slots=True)
class _Node:
    """A card in the topology; `apu`: it is part of a processor."""

    number: int
    apu: bool


def cards(system: Path = Path("/sys")) -> tuple[Card, ...]:
    """Every card, in ROCm's order, then those that ROCm does not know."""
    nodes = _nodes(system / "class/kfd/kfd/topology/nodes")
    found: list[tuple[int, str, Card]] = []
    for place in _listed(system / "class/drm"):
        device = place / "device"
        # Connectors are beside their cards: card0-DP-1.
        if not re.fullmatch(r"card\d+", place.name) or _text(device / "vendor") != _VENDOR:
            continue
        node = nodes.get(_minor(device))
        order = node.number if node is not None else _LAST
        found.append((order, _bus(device), _card(device, apu=node is not None and node.apu)))
    return tuple(card for _, _, card in sorted(found, key=lambda entry: entry[:2]))


def _card(device: Path, *, apu: bool) -> Card:
    total, used = (_number(device / f"mem_info_vram_{what}") for what in ("total", "used"))
    if apu:  # its own memory is carved out of the machine's; the rest is mapped as needed
        total += _number(device / "mem_info_gtt_total")
        used += _number(device / "mem_info_gtt_used")
    uuid = _text(device / "unique_id")
    name = _text(device / "product_name") or f"AMD {_text(device / 'device')}"
    return Card(f"GPU-{uuid}" if uuid else "", name, total, max(0, total - used), apu)


def _nodes(topology: Path) -> dict[str, _Node]:
    """The render node of each card -> its place in the topology."""
    found = {}
    for place in _listed(topology):
        said = dict(re.findall(r"^(\w+) (\d+)$", _text(place / "properties"), re.MULTILINE))
        if place.name.isdecimal() and int(said.get("simd_count", 0)):
            apu = int(said.get("cpu_cores_count", 0)) > 0
            found[said.get("drm_render_minor", "")] = _Node(int(place.name), apu)
    return found


def _minor(device: Path) -> str:
    names = (place.name for place in _listed(device / "drm"))
    return next((name.removeprefix("renderD") for name in names if name.startswith("renderD")), "-")


def _bus(device: Path) -> str:
    """Its address on the bus, such as 0000:03:00.0."""
    try:
        return device.resolve().name
    except (OSError, RuntimeError):
        return ""


def _listed(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())[:_CARDS_MAX]
    except OSError:
        return []


def _number(path: Path) -> int:
    said = _text(path)
    return int(said) if said.isascii() and said.isdecimal() and len(said) < 20 else 0


def _text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(64 * 1024).strip()
    except OSError:
        return ""
