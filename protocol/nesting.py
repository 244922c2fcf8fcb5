"""How deep JSON is nested, told without recursion. Pure."""

from typing import Any


def is_nested_deeper(value: Any, depth_max: int) -> bool:
    """Whether a decoded value has more than `depth_max` objects and arrays within each other.

    What a decoder could just take is too deep for whoever takes it on from further down its stack.
    """
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(depth_max):
        level = [
            child
            for item in level
            for child in (item.values() if isinstance(item, dict) else item)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True
