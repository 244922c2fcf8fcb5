"""What a plot is made of. Lengths are pixels of a page; y grows downwards."""

from dataclasses import dataclass
from typing import Literal

Ink = Literal["data", "axis"]
Anchor = Literal["start", "middle", "end"]
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Line:
    """Through these points."""

    points: tuple[Point, ...]
    ink: Ink = "data"


@dataclass(frozen=True, slots=True)
class Band:
    """A filled polygon, faint: where values lay."""

    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Box:
    """A filled rectangle from its upper left corner."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Dot:
    x: float
    y: float
    radius: float = 2.5


@dataclass(frozen=True, slots=True)
class Text:
    """`y` is its base line."""

    x: float
    y: float
    said: str
    anchor: Anchor = "start"


Shape = Line | Band | Box | Dot | Text


@dataclass(frozen=True, slots=True)
class Drawing:
    """`title` stands above it; an SVG has it as its accessible name, for a page has a caption."""

    title: str
    width: int
    height: int
    shapes: tuple[Shape, ...]
