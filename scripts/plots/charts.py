"""From numbers to drawings: curves, bars, and series with their spread. Pure."""

import math
from collections.abc import Callable, Sequence

from scripts.plots.axes import Axis, short, top
from scripts.plots.drawing import Band, Box, Dot, Drawing, Line, Shape, Text

WIDTH, HEIGHT = 460, 240
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 26, 44
BARS_MAX = 200
SERIES_WIDTH, SERIES_HEIGHT = 220, 48
_TICK_GAP, _LABEL_GAP = 15, 35
_PLAIN_EDGE = 6


def curve(
    title: str, points: Sequence[tuple[float, float]], x_label: str, *, log: bool = False
) -> Drawing:
    """Of (x, share) pairs in ascending order of x; on a logarithmic scale x has to be above 0."""
    if not points:
        return nothing(title)
    xs = [x for x, _ in points]
    across = Axis(min(xs), max(xs), LEFT, WIDTH - RIGHT, log=log)
    up = Axis(0.0, 1.0, HEIGHT - BOTTOM, TOP)
    line = Line(tuple((across.at(x), up.at(share)) for x, share in points))
    frame = [*_upright(up, lambda share: f"{share:.0%}"), *_across(across), _below(x_label)]
    lone = [Dot(*at) for at in line.points] if len(points) == 1 else []
    return Drawing(title, WIDTH, HEIGHT, (*frame, line, *lone, _above("share")))


def bars(title: str, values: Sequence[float], unit: str, what: str = "node") -> Drawing:
    """In descending order; of many only some, evenly."""
    if not values:
        return nothing(title)
    ordered = sorted(values, reverse=True)
    shown = ordered[:: math.ceil(len(ordered) / BARS_MAX)]
    up = Axis(0.0, top(shown), HEIGHT - BOTTOM, TOP)
    wide = (WIDTH - RIGHT - LEFT) / len(shown)
    gap = min(2.0, wide / 5)
    drawn = [
        Box(LEFT + n * wide, up.at(value), wide - gap, up.start - up.at(value))
        for n, value in enumerate(shown)
        if value > 0
    ]
    plural = f"{len(ordered)} {what}s" if len(ordered) != 1 else f"1 {what}"
    some = f" ({len(shown)} shown)" if len(shown) < len(ordered) else ""
    label = f"{plural}, in descending order{some}"
    below = Text((LEFT + WIDTH - RIGHT) / 2, up.start + _TICK_GAP + 3, label, "middle")
    return Drawing(title, WIDTH, HEIGHT, (*_upright(up), *drawn, _above(unit), below))


def series(
    title: str, middles: Sequence[float], lows: Sequence[float], highs: Sequence[float]
) -> Drawing:
    """Small: one figure over several runs, oldest first, with the spread of each as a band."""
    if not middles:
        return nothing(title)
    floor, ceiling = min(*lows, *middles, math.inf), max(*highs, *middles, -math.inf)
    up = Axis(floor, ceiling, SERIES_HEIGHT - _PLAIN_EDGE, _PLAIN_EDGE)
    if floor == ceiling:
        up = Axis(floor - 1, ceiling + 1, up.start, up.end)
    across = Axis(0, max(1, len(middles) - 1), _PLAIN_EDGE, SERIES_WIDTH - 60)

    def placed(values: Sequence[float]) -> tuple[tuple[float, float], ...]:
        return tuple((across.at(n), up.at(value)) for n, value in enumerate(values))

    last = placed(middles)[-1]
    marks = [
        Text(SERIES_WIDTH - 52, up.at(value) + 4, short(value))
        for value in ([floor, ceiling] if floor != ceiling else [floor])
    ]
    shapes: list[Shape] = [Line(placed(middles)), Dot(*last), *marks]
    if len(middles) > 1:
        shapes.insert(0, Band((*placed(highs), *reversed(placed(lows)))))
    return Drawing(title, SERIES_WIDTH, SERIES_HEIGHT, tuple(shapes))


def nothing(title: str) -> Drawing:
    said = Text(WIDTH / 2, HEIGHT / 2, "nothing was counted", "middle")
    return Drawing(title, WIDTH, HEIGHT, (said,))


def _upright(axis: Axis, said: Callable[[float], str] = short) -> list[Shape]:
    """Rules across the plot, and their numbers at the left."""
    found: list[Shape] = []
    for mark in axis.ticks():
        y = axis.at(mark)
        found.append(Line(((LEFT, y), (WIDTH - RIGHT, y)), "axis"))
        found.append(Text(LEFT - 6, y + 4, said(mark), "end"))
    return found


def _across(axis: Axis) -> list[Shape]:
    """Short strokes below the plot, and their numbers."""
    found: list[Shape] = []
    floor = HEIGHT - BOTTOM
    for mark in axis.ticks():
        x = axis.at(mark)
        found.append(Line(((x, floor), (x, floor + 4)), "axis"))
        found.append(Text(x, floor + _TICK_GAP + 2, short(mark), "middle"))
    return found


def _above(label: str) -> Text:
    return Text(4, TOP - 13, label)


def _below(label: str) -> Text:
    return Text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - BOTTOM + _LABEL_GAP, label, "middle")
