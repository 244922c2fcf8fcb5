"""Drawings as a PNG picture, by Pillow: black on white, the same bytes for the same drawings."""

from collections.abc import Sequence
from io import BytesIO

from PIL import Image, ImageDraw, ImageFont
from scripts.plots.drawing import Band, Box, Dot, Drawing, Line, Point, Shape, Text

SCALE = 2  # pixels of the picture for one of the drawing
_SMOOTH = 2  # drawn so much larger, then shrunk
_TITLE_SIZE, _TITLE_LINE, _TITLE_LINES_MAX = 13, 16, 3
_TEXT_SIZE, _MARGIN = 11, 10
_PAPER, _WRITING = "white", "#222222"
_INKS = {"data": "#2563eb", "axis": "#cccccc"}
_FAINT = "#d6e1fb"
_WIDTHS = {"data": 2.0, "axis": 1.0}
_ANCHORS = {"start": "ls", "middle": "ms", "end": "rs"}


def png(drawings: Sequence[Drawing], columns: int = 1) -> bytes:
    """Each below its title, which is broken where it is wider, in rows of so many."""
    size = SCALE * _SMOOTH
    rows = [drawings[first : first + columns] for first in range(0, len(drawings), columns)]
    wide = max([sum(one.width + _MARGIN for one in row) for row in rows], default=0) + _MARGIN
    heads = [max(len(broken(one.title, one.width)) for one in row) * _TITLE_LINE for row in rows]
    bodies = [max(one.height for one in row) + _MARGIN for row in rows]
    high = sum(heads) + sum(bodies) + 2 * _MARGIN
    picture = Image.new("RGB", (wide * size, high * size), _PAPER)
    top = _MARGIN
    for row, head, body in zip(rows, heads, bodies, strict=True):
        left = _MARGIN
        for one in row:
            _draw(_Pen(picture, left, top + head), one)
            left += one.width + _MARGIN
        top += head + body
    shrunk = picture.resize((wide * SCALE, high * SCALE), Image.Resampling.BOX)
    written = BytesIO()
    shrunk.save(written, "PNG", optimize=True)
    return written.getvalue()


def broken(title: str, width: float) -> list[str]:
    """In lines that are no wider than that; what the last one has no room for is left out."""
    font = ImageFont.load_default(_TITLE_SIZE)
    found = [""]
    for word in title.split():
        longer = f"{found[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            found[-1] = longer
        else:
            found.append(word)
    found = [line for line in found if line] or [""]
    if len(found) > _TITLE_LINES_MAX:
        found = [*found[: _TITLE_LINES_MAX - 1], found[_TITLE_LINES_MAX - 1] + "..."]
    return [_cut(line, width, font) for line in found]


def _cut(line: str, width: float, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    while len(line) > 1 and font.getlength(line) > width:
        line = line.removesuffix("...")[:-1] + "..." if len(line) > 4 else line[:-1]
    return line


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
    lines = broken(drawing.title, drawing.width)
    for number, line in enumerate(lines):
        pen.text((0, -4 - _TITLE_LINE * (len(lines) - number - 1)), line, "start", _TITLE_SIZE)
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
            pen.text((x, y), said, anchor, _TEXT_SIZE)
