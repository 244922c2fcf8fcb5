"""Whether two answers say the same. Pure.

What counts as the same follows from the shape of an answer, as the capabilities' output schemas
have them (SPEC 13.1), for two models never give the same scores:

- labels with scores: the same label first;
- entities: the same spans with the same names;
- anomalies: the same places flagged;
- boxes: each finds one of the same label that covers it by half (intersection over union, as in
  the PASCAL VOC challenge, Everingham et al. 2010), and none is left;
- text: the same words, whatever their case and width (Unicode NFKC) and the space between them;
- numbers: within a thousandth; vectors of 16 or more: a cosine of 0.99 or more;
- anything else: the same JSON.
"""

import math
import unicodedata
from collections.abc import Sequence
from operator import mul
from typing import Any, Final

_RELATIVE: Final = 1e-3
_ABSOLUTE: Final = 1e-6
_COSINE: Final = 0.99
_LONG: Final = 16  # fewer numbers are no vector: rows of scores, forecasts
_OVERLAP: Final = 0.5
_SIDES: Final = ("xmin", "ymin", "xmax", "ymax")


def groups(answers: Sequence[Any]) -> tuple[tuple[int, ...], ...]:
    """For each answer the places of those that say the same, itself included.

    Likeness of numbers is not transitive, so these are no classes: two of them may overlap.
    """
    return tuple(
        tuple(n for n, other in enumerate(answers) if n == m or same(one, other))
        for m, one in enumerate(answers)
    )


def most_agreed(answers: Sequence[Any]) -> tuple[int, tuple[int, ...]]:
    """Where the answer stands with which most agree, the first of equals, and who they are.

    Raises ValueError for no answers.
    """
    found = groups(answers)
    best = max(range(len(found)), key=lambda n: (len(found[n]), -n))
    return best, found[best]


def same(one: Any, other: Any) -> bool:
    """Whether two decoded answers of one capability agree."""
    one, other = _text_of(one), _text_of(other)
    if isinstance(one, str) and isinstance(other, str):
        return _plain(one) == _plain(other)
    if _is_number(one) and _is_number(other):
        return _close(one, other)
    if isinstance(one, list) and isinstance(other, list):
        return _same_lists(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        if "answer" in one and "answer" in other:  # of a question, with a score
            return same(one["answer"], other["answer"])
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    return isinstance(one, bool) is isinstance(other, bool) and bool(one == other)


def _same_lists(one: list[Any], other: list[Any]) -> bool:
    both = (*one, *other)
    if _have(both, "box", "label"):
        return _same_boxes(one, other)
    if _have(both, "label", "score"):
        return bool(one) == bool(other) and (not one or _first(one) == _first(other))
    if _have(both, "entity", "start", "end"):
        return _spans(one) == _spans(other)
    if _have(both, "index", "anomaly"):
        return _flagged(one) == _flagged(other)
    if len(one) != len(other):
        return False
    if len(one) > 1 and all(map(_is_number, both)):
        return _alike(one, other)
    return all(map(same, one, other))


def _have(answers: Sequence[Any], *names: str) -> bool:
    return bool(answers) and all(
        isinstance(one, dict) and all(name in one for name in names) for one in answers
    )


def _first(labels: list[dict[str, Any]]) -> Any:
    """The label with the greatest score; where scores are equal the first by name."""
    return min(labels, key=lambda one: (-_number(one["score"]), str(one["label"])))["label"]


def _spans(entities: list[dict[str, Any]]) -> set[tuple[str, str, str]]:
    return {(str(one["entity"]), str(one["start"]), str(one["end"])) for one in entities}


def _flagged(rows: list[dict[str, Any]]) -> set[str]:
    return {str(one["index"]) for one in rows if one["anomaly"] is True}


def _same_boxes(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> bool:
    left = list(other)
    for box in one:
        found = max(left, key=lambda o: _overlap(box, o), default=None)
        if found is None or _overlap(box, found) < _OVERLAP:
            return False
        left.remove(found)
    return not left


def _overlap(one: dict[str, Any], other: dict[str, Any]) -> float:
    if one["label"] != other["label"]:
        return 0.0
    a, b = _corners(one["box"]), _corners(other["box"])
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0.0, width) * max(0.0, height)
    whole = _area(a) + _area(b) - shared
    return shared / whole if whole > 0 else float(a == b)


def _corners(box: Any) -> tuple[float, ...]:
    return tuple(_number(box.get(side)) if isinstance(box, dict) else 0.0 for side in _SIDES)


def _area(corners: tuple[float, ...]) -> float:
    return max(0.0, corners[2] - corners[0]) * max(0.0, corners[3] - corners[1])


def _alike(one: list[float], other: list[float]) -> bool:
    """Two rows of numbers: each within its bound, or the angle between them small."""
    if all(_close(a, b) for a, b in zip(one, other, strict=True)):
        return True
    lengths = math.hypot(*one) * math.hypot(*other)
    if not 0 < lengths < math.inf:
        return False
    return len(one) >= _LONG and sum(map(mul, one, other)) / lengths >= _COSINE


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE)


def _text_of(answer: Any) -> Any:
    """The text of an answer that is an object around one."""
    if isinstance(answer, dict) and answer.keys() == {"text"}:
        return answer["text"]
    return answer


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: Any) -> float:
    return float(value) if _is_number(value) else 0.0
