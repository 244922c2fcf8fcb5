"""What was found out about bytes, remembered by their digest."""

from collections import OrderedDict
from typing import Generic, TypeVar

T = TypeVar("T")


class Memo(Generic[T]):
    """A bounded table by digest; what was put in first is forgotten first."""

    __slots__ = ("_items", "_items_max")

    def __init__(self, items_max: int) -> None:
        self._items: OrderedDict[bytes, T] = OrderedDict()
        self._items_max = items_max

    def get(self, digest: bytes) -> T | None:
        return self._items.get(digest)

    def put(self, digest: bytes, item: T) -> None:
        self._items[digest] = item
        if len(self._items) > self._items_max:
            self._items.popitem(last=False)

    def clear(self) -> None:
        self._items.clear()
