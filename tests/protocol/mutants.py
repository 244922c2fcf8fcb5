"""Documents that differ from a given one in one thing."""

import copy
from collections.abc import Callable
from typing import Any

from tests.protocol.test_hostile_records import places, replaced

from aigrid.protocol.canonical import canonical
from aigrid.protocol.errors import Code, VerificationError
from aigrid.protocol.record import verify_form_and_signature


def respelled(text: str, place: int) -> str:
    """With another character of the same sort at `place`, so that its form often stays right."""
    old = text[place]
    for sort in ("0123456789", "abcdefghijk", "ABCDEFGHJK"):
        if old in sort:
            return text[:place] + sort[(sort.index(old) + 1) % len(sort)] + text[place + 1 :]
    return text[:place] + ("a" if old != "a" else "b") + text[place + 1 :]


def others(value: Any, swapped: tuple[str, str]) -> list[Any]:
    """Values that differ from `value` in one thing; also with the one DID in place of the other."""
    if isinstance(value, bool):
        return [not value, str(value).lower(), int(value)]
    if isinstance(value, int | float):
        return [value + 1, -value - 1, str(value)]
    if isinstance(value, str):
        at = {0, len(value) // 2, max(len(value) - 2, 0), len(value) - 1} if value else set()
        changed = [respelled(value, place) for place in sorted(at)]
        return [*changed, value + " ", value.replace(*swapped), [value], None]
    if isinstance(value, list):
        return [[*value, value[-1] if value else "x"], value[::-1], {}, value[:-1]]
    return [{**value, "unknown": 1}, {}, []]


def changed_documents(document: Any, swapped: tuple[str, str]) -> list[Any]:
    """With one field changed in some way, added or removed."""
    found = [{**document, "unknown": 1}]
    for path in places(document):
        value = document
        for name in path:
            value = value[name]
        found += [replaced(document, path, other) for other in others(value, swapped)]
        removed = copy.deepcopy(document)
        inner: Any = removed
        for name in path[:-1]:
            inner = inner[name]
        del inner[path[-1]]
        found.append(removed)
    return found


def mutants(document: Any, swapped: tuple[str, str]) -> set[bytes]:
    """Canonical bytes of the changed documents."""
    found = changed_documents(document, swapped)
    return {canonical(changed) for changed in found} - {canonical(document)}


def with_additions(
    document: Any, allowed: Callable[[tuple[Any, ...]], bool] = lambda _path: True
) -> list[Any]:
    """With one unknown member added, in each object of it in turn."""
    paths = [(), *(path for path in places(document) if allowed(path))]
    found = []
    for path in paths:
        changed = copy.deepcopy(document)
        inner: Any = changed
        for name in path:
            inner = inner[name]
        if isinstance(inner, dict):
            inner["unknown"] = True
            found.append(changed)
    return found


def refusal_of(raw: bytes) -> Code | None:
    """Why a record is refused, its time apart."""
    try:
        verify_form_and_signature(raw)
    except VerificationError as error:
        return error.code
    return None
