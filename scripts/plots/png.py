"""Drawings as a PNG picture, by Pillow: black on white, the same bytes for the same drawings."""

from collections.abc import Sequence
from io import BytesIO

from PIL import Image, ImageDraw, ImageFont
from scripts.plots.drawing import Band, Box, Dot, Drawing, Line, Point, Shape, Text

SCALE = 2  # pixels of the picture for one of the drawing
_SMOOTH = 2  # drawn so much larger, then shrunk
_TITLE_HEIGHT, _MARGIN = 24, 10
_PAPER, _WRITING = "white", "#222222"
_INKS = {"data": "#2563eb", "axis": "#cccccc"}
_FAINT = "#d6e1fb"
_WIDTHS = {"data": 2.0, "axis": 1.0}
_ANCHORS = {"start": "ls", "middle": "ms", "end": "rs"}


def png(drawings: Sequence[Drawing], columns: int = 1) -> bytes:
    """Each below its title, in rows of so many."""
    size = SCALE * _SMOOTH
    rows = [drawings[first : first + columns] for first in range(0, len(drawings), columns)]
    wide = max([sum(one.width + _MARGIN for one in row) for row in rows], default=0) + _MARGIN
    high = sum(max(one.height for one in row) + _TITLE_HEIGHT + _MARGIN for row in rows) + _MARGIN
    picture = Image.new("RGB", (wide * size, high * size), _PAPER)
    top = _MARGIN
    for row in rows:
        left = _MARGIN
        for one in row:
            _draw(_Pen(picture, left, top + _TITLE_HEIGHT), one)
            left += one.width + _MARGIN
        top += max(one.height for one in row) + _TITLE_HEIGHT + _MARGIN
    shrunk = picture.resize((wide * SCALE, high * SCALE), Image.Resampling.BOX)
    written = BytesIO()
    shrunk.save(written, "PNG", optimize=True)
    return written.getvalue()


class _Pen:
    """Draws at an offset, in the units of a drawing."""

    def __init__(self, picture: Image.Image, left: float, top: float) -> None:
        self._draw = ImageDraw.Draw(picture)
        self._left, self._top = left, top

    def place(self, points: Sequence[Point]) -> list[Point]:
        size = SCALE * _SMOOTH
        return [((self._left + x) * size, (self._top + y) * size) for x, y in points]

    def line(self, points: Sequence[Point], ink: str) -> None:
        width = round(_WIDTHS[ink] * SCALE * _SMOOTH)
        self._draw.line(self.place(points), fill=_INKS[ink], width=width, joint="curve")

    def polygon(self, points: Sequence[Point], colour: str) -> None:
        self._draw.polygon(self.place(points), fill=colour)

    def circle(self, at: Point, radius: float) -> None:
        (centre,) = self.place([at])
        self._draw.circle(centre, radius * SCALE * _SMOOTH, fill=_INKS["data"])

    def text(self, at: Point, said: str, anchor: str, points: float) -> None:
        font = ImageFont.load_default(points * SCALE * _SMOOTH)
        (place,) = self.place([at])
        self._draw.text(place, said, fill=_WRITING, font=font, anchor=_ANCHORS[anchor])


def _draw(pen: _Pen, drawing: Drawing) -> None:
    pen.text((0, -8), drawing.title, "start", 13)
    for shape in drawing.shapes:
        _shape(pen, shape)


def _shape(pen: _Pen, shape: Shape) -> None:
    match shape:
        case Line(points, ink):
            pen.line(points, ink)
        case Band(points):
            pen.polygon(points, _FAINT)
        case Box(x, y, width, height):
            corners = [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
            pen.polygon(corners, _INKS["data"])
        case Dot(x, y, radius):
            pen.circle((x, y), radius)
        case Text(x, y, said, anchor):
            pen.text((x, y), said, anchor, 11)
