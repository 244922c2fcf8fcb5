"""One page that needs nothing else: its style is in it, and it asks nobody for anything."""

from collections.abc import Sequence
from html import escape

from scripts.plots import svg
from scripts.plots.drawing import Drawing

STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem }
h1 { margin-bottom: 0 } .plots { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1.5rem 0 }
figure { margin: 0 } figcaption { font-weight: 600 } code { background: #8882; padding: .1em .3em }
code, pre, small, li { overflow-wrap: anywhere } pre { white-space: pre-wrap }
table { border-collapse: collapse } td, th { text-align: left; padding: .15rem .8rem .15rem 0 }
td.number { text-align: right; white-space: nowrap } tr.first td { border-top: 1px solid #8884 }
.well { color: #15803d } .ill { color: #b91c1c }
.wide { overflow-x: auto } .wide svg { max-width: none }
@media (prefers-color-scheme: dark) {
  body { background: #111; color: #ddd } .well { color: #4ade80 } .ill { color: #f87171 }
}
"""


def document(title: str, parts: Sequence[str]) -> str:
    """HTML; `parts` are markup, the title is text."""
    head = (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width"><link rel=icon href="data:,">'
        f"<title>{escape(title)}</title><style>{STYLE}{svg.STYLE}</style>"
    )
    return "\n".join([head, f"<h1>{escape(title)}</h1>", *parts, "</html>\n"])


def figure(drawing: Drawing) -> str:
    return f"<figure><figcaption>{escape(drawing.title)}</figcaption>{svg.svg(drawing)}</figure>"
