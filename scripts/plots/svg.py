"""A drawing as SVG, in the colours of the page around it."""

from html import escape

from scripts.plots.drawing import Band, Box, Dot, Drawing, Line, Point, Shape, Text

STYLE = """
svg text { font: 11px system-ui, sans-serif; fill: currentColor }
svg .axis { stroke: currentColor; stroke-opacity: .25; fill: none }
svg .data { stroke: var(--plot); fill: none; stroke-width: 2; stroke-linejoin: round }
svg .filled { fill: var(--plot) } svg .band { fill: var(--plot); fill-opacity: .18 }
svg { max-width: 100%; height: auto }
:root { --plot: #2563eb } @media (prefers-color-scheme: dark) { :root { --plot: #7aa2ff } }
"""


def svg(drawing: Drawing) -> str:
    """One element; its style is `STYLE`."""
    name = escape(drawing.title, quote=True)
    box = f'viewBox="0 0 {drawing.width} {drawing.height}" width="{drawing.width}"'
    parts = "".join(map(_shape, drawing.shapes))
    return f'<svg role="img" aria-label="{name}" {box} height="{drawing.height}">{parts}</svg>'


def _shape(shape: Shape) -> str:
    match shape:
        case Line(points, ink):
            return f'<polyline class="{ink}" points="{_points(points)}"/>'
        case Band(points):
            return f'<polygon class="band" points="{_points(points)}"/>'
        case Box(x, y, width, height):
            size = f'width="{width:.2f}" height="{height:.2f}"'
            return f'<rect class="filled" x="{x:.2f}" y="{y:.2f}" {size}/>'
        case Dot(x, y, radius):
            return f'<circle class="filled" cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}"/>'
        case Text(x, y, said, anchor):
            return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(said)}</text>'


def _points(points: tuple[Point, ...]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
