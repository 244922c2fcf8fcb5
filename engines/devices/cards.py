"""Cards as their drivers know them, and which of them a runtime sees under which number."""

from collections.abc import Sequence
from dataclasses import dataclass

from aigrid.engines.base import Device

NAME_MAX_CHARS = 96


@dataclass(frozen=True, slots=True)
class Card:
    """One card, in the order of the bus.

    Attributes:
        uuid: such as "GPU-5d6c...", or "".
        memory_total_bytes, memory_free_bytes: 0 where the driver does not tell.
        unified: its memory is the machine's.
        parts: what it was divided into (MIG); then only a part can be used.
    """

    uuid: str
    name: str
    memory_total_bytes: int = 0
    memory_free_bytes: int = 0
    unified: bool = False
    parts: tuple["Card", ...] = ()


def visible(cards: Sequence[Card], chosen: str | None) -> tuple[Card, ...]:
    """The cards that a variable such as CUDA_VISIBLE_DEVICES leaves, in its order.

    `None`: it is not set. As the runtimes read it: numbers, or the beginnings of UUIDs; what
    follows a word that means no card is not read; a card that is named twice means none at all.
    Source: CUDA C++ Programming Guide, "CUDA Environment Variables"; ROCm, "GPU isolation".
    """
    if chosen is None:
        return tuple(map(_usable, cards))
    found: list[Card] = []
    for word in chosen.split(","):
        card = _named(cards, word.strip())
        if card is None:
            break
        if any(card is other for other in found):
            return ()
        found.append(card)
    return tuple(found)


def as_devices(kind: str, cards: Sequence[Card], host: Device) -> tuple[Device, ...]:
    """Visible cards as devices. What shares the machine's memory cannot have more than is free."""
    found = []
    for index, card in enumerate(cards):
        total, free = card.memory_total_bytes, card.memory_free_bytes
        if card.unified:
            known = total > 0
            total = min(total, host.memory_total_bytes) if known else host.memory_total_bytes
            free = min(free, host.memory_free_bytes) if known else host.memory_free_bytes
        name = "".join(c for c in card.name if c.isprintable())[:NAME_MAX_CHARS]
        found.append(Device(kind, name or kind, total, free, index, card.unified))
    return tuple(found)


def _named(cards: Sequence[Card], word: str) -> Card | None:
    if word.isascii() and word.isdecimal():
        known = len(word) < 9 and int(word) < len(cards)
        return _usable(cards[int(word)]) if known else None
    if not word.startswith(("GPU-", "MIG-")):
        return None
    # By its own UUID, too, a divided card stands for its first part.
    named = [(card.uuid, _usable(card)) for card in cards]
    named += [(part.uuid, part) for card in cards for part in card.parts]
    matching = [card for uuid, card in named if uuid.startswith(word)]
    first = matching[0] if matching else None
    return first if all(card is first for card in matching) else None


def _usable(card: Card) -> Card:
    return card.parts[0] if card.parts else card
