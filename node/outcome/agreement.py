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

Answers may be hostile: what is nested too deeply, or would take too long to compare, is like its
equal alone.
"""

import math
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from operator import mul
from typing import Any, Final

from aigrid.protocol.limits import LIMITS

_DEEPEST: Final = 32
_RELATIVE: Final = 1e-3
_ABSOLUTE: Final = 1e-6
_COSINE: Final = 0.99
_LONG: Final = 16  # fewer numbers are no vector: rows of scores, forecasts
_OVERLAP: Final = 0.5
_Corners = tuple[float, ...]  # as in `_SIDES`
_SIDES: Final = ("xmin", "ymin", "xmax", "ymax")


class Agreement:
    """Answers as they come, by place; each is compared once with each of those before it.

    Likeness of numbers is not transitive: who agrees with one need not agree with each other.
    """

    def __init__(self) -> None:
        self._answers: dict[int, Any] = {}
        self._alike: dict[int, set[int]] = {}

    def add(self, place: int, answer: Any) -> None:
        """One more has come, decoded."""
        alike = {before for before, other in self._answers.items() if same(other, answer)}
        for before in alike:
            self._alike[before].add(place)
        self._answers[place], self._alike[place] = answer, {place, *alike}

    def most(self) -> tuple[int, tuple[int, ...]]:
        """The place of the answer with which most agree, the first of equals, and all of theirs.

        Raises ValueError for no answers.
        """
        best = max(self._alike, key=lambda place: (len(self._alike[place]), -place))
        return best, tuple(sorted(self._alike[best]))


def same(one: Any, other: Any) -> bool:
    """Whether two decoded answers of one capability agree."""
    try:
        return _Comparison().same(one, other)
    except (_TooMuchError, OverflowError, RecursionError):
        return _equal(one, other)


class _TooMuchError(Exception):
    """Two answers that are not worth to be gone through."""


class _Comparison:
    """Of two answers, which takes a bounded number of steps. Raises _TooMuchError beyond it."""

    def __init__(self) -> None:
        self._left = LIMITS.compared_steps_max

    def same(self, one: Any, other: Any, depth: int = 0) -> bool:
        one, other = _text_of(one), _text_of(other)
        self._step(1 if depth <= _DEEPEST else LIMITS.compared_steps_max)
        if isinstance(one, str) and isinstance(other, str):
            self._step((len(one) + len(other)) // 4)
            return _plain(one) == _plain(other)
        if _is_number(one) and _is_number(other):
            return _close(one, other)
        if isinstance(one, list) and isinstance(other, list):
            return self._lists(one, other, depth)
        if isinstance(one, dict) and isinstance(other, dict):
            if "answer" in one and "answer" in other:  # of a question, with a score
                return self.same(one["answer"], other["answer"], depth + 1)
            return one.keys() == other.keys() and all(
                self.same(one[name], other[name], depth + 1) for name in one
            )
        return isinstance(one, bool) is isinstance(other, bool) and bool(one == other)

    def _step(self, steps: int) -> None:
        self._left -= steps
        if self._left < 0:
            raise _TooMuchError

    def _lists(self, one: list[Any], other: list[Any], depth: int) -> bool:
        both = (*one, *other)
        self._step(len(both) // 16)
        if _have(both, "box", "label"):
            return self._boxes(one, other)
        if both and isinstance(both[0], dict):
            self._step(len(both) // 4)
        told = _told(one, other, both)
        if told is not None:
            return told
        if len(one) != len(other):
            return False
        if len(one) > 1 and all(map(_is_number, both)):
            return _alike(one, other)
        return all(self.same(a, b, depth + 1) for a, b in zip(one, other, strict=True))

    def _boxes(self, one: list[dict[str, Any]], other: list[dict[str, Any]]) -> bool:
        if len(one) != len(other):
            return False
        left: defaultdict[str, list[_Corners]] = defaultdict(list)
        for box in other:
            left[repr(box["label"])].append(_corners(box["box"]))
        for box in one:
            corners, beside = _corners(box["box"]), left[repr(box["label"])]
            self._step(1 + len(beside))
            overlaps = [_overlap(corners, each) for each in beside]
            if not overlaps or max(overlaps) < _OVERLAP:
                return False
            del beside[overlaps.index(max(overlaps))]
        return True


def _equal(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except RecursionError:
        return False


def _told(one: list[Any], other: list[Any], both: Sequence[Any]) -> bool | None:
    """Of lists of objects with a meaning; None where these are none."""
    if _have(both, "label", "score"):
        return bool(one) == bool(other) and (not one or _first(one) == _first(other))
    if _have(both, "entity", "start", "end"):
        return _spans(one) == _spans(other)
    if _have(both, "index", "anomaly"):
        return _flagged(one) == _flagged(other)
    return None


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


def _overlap(a: _Corners, b: _Corners) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0.0, width) * max(0.0, height)
    whole = _area(a) + _area(b) - shared
    return shared / whole if whole > 0 else float(a == b)


def _corners(box: Any) -> _Corners:
    return tuple(_number(box.get(side)) if isinstance(box, dict) else 0.0 for side in _SIDES)


def _area(corners: _Corners) -> float:
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
