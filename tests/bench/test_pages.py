"""The pages of the simulation and of the benchmarks, in a real browser: what a person sees."""

import json

import pytest
from scripts.bench.runner.figures import read
from scripts.bench.runner.page import page as bench_page
from scripts.bench.runner.report import report as bench_report
from scripts.bench.runner.running import Ran
from scripts.simulation.options import Options
from scripts.simulation.reporting.page import page as simulation_page
from scripts.simulation.reporting.report import report as simulation_report
from scripts.simulation.run import simulate
from tests.bench.fakes import ABOUT
from tests.browser import CHROMIUM, browser

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")

# Each text of a plot as [plot, text, box], and the plots' own boxes.
TEXTS = """[...document.querySelectorAll('svg')].map(svg => {
  const box = e => { const b = e.getBoundingClientRect(); return [b.left, b.top, b.right, b.bottom] };
  return {name: svg.getAttribute('aria-label'), box: box(svg),
          texts: [...svg.querySelectorAll('text')].map(t => [t.textContent, box(t)]),
          data: [...svg.querySelectorAll('.data,.filled')].map(e => getComputedStyle(e)).map(
            s => s.fill === 'none' ? s.stroke : s.fill)} })"""
COLOURS = """[...document.querySelectorAll('p,td,th,h1,text,figcaption,span,li')].map(e => {
  const s = getComputedStyle(e); return e.tagName === 'text' ? s.fill : s.color })"""
PAPER = "getComputedStyle(document.body).backgroundColor"
LEGIBLE, VISIBLE = 4.5, 3.0  # contrast of text, and of what is drawn, as WCAG 2 asks for (AA)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("chromium")) as one:
        yield one


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    options = Options(nodes=4, seed=3, duration_seconds=10.0, models=1, holders=2, title="A run")
    outcome = simulate(options, folder)
    assert outcome.violations == []
    found = simulation_report(outcome, "none")
    made = {"simulation": simulation_page(found), "bench": bench_page(runs())}
    for name, text in made.items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return {name: folder / f"{name}.html" for name in made}


def runs():
    """A long name, many digits, and runs before."""
    return [
        bench_report([Ran("b", "ran", "", told(n)), Ran("c", "failed", "why " * 60)], ABOUT)
        for n in (1.0, 1234567.8, 3.0)
    ]


def told(value):
    figure = {
        "name": "a figure whose name is not short at all, with a load of 64 clients",
        "unit": "CPU us a token",
        "values": [value, value * 2],
        "beside": "the server behind it",
        "others": [0.7, 0.7],
        "aim": {"bound": 0.35, "at_least": True, "of_value": False},
    }
    return tuple(read([json.dumps(figure), json.dumps(figure | {"name": "b", "others": []})])[0])


def luminance(colour):
    """Of `rgb(r, g, b)`: https://www.w3.org/TR/WCAG21/#dfn-relative-luminance"""
    parts = [float(part) / 255 for part in colour.strip("rgba()").split(",")[:3]]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def overlap(one, other):
    return all(
        one[side] < other[side + 2] - 1 and other[side] < one[side + 2] - 1 for side in (0, 1)
    )


def inside(inner, outer):
    return (
        outer[0] - 1 <= inner[0]
        and outer[1] - 1 <= inner[1]
        and inner[2] <= outer[2] + 1
        and inner[3] <= outer[3] + 1
    )


@pytest.mark.parametrize("width", [1100, 500])
@pytest.mark.parametrize("name", ["simulation", "bench"])
def test_a_page_needs_nothing_and_its_plots_are_whole(chromium, pages, name, width):
    seen = chromium.visit(pages[name], width=width)
    assert seen.errors == []
    assert [url for url in seen.asked_for if not url.startswith("data:")] == [pages[name].as_uri()]
    plots = seen.evaluate(TEXTS)
    assert len(plots) == {"simulation": 5, "bench": 2}[name]
    for plot in plots:
        assert plot["data"], plot["name"]
        assert plot["box"][2] - plot["box"][0] > 60, plot["name"]
        for number, (said, box) in enumerate(plot["texts"]):
            assert inside(box, plot["box"]), (plot["name"], said)
            for other, beside in plot["texts"][:number]:
                assert not overlap(box, beside), (plot["name"], said, other)
    assert seen.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("name", ["simulation", "bench"])
def test_a_page_is_legible(chromium, pages, name, dark):
    seen = chromium.visit(pages[name], dark=dark)
    paper = seen.evaluate(PAPER)
    paper = "rgb(255, 255, 255)" if paper == "rgba(0, 0, 0, 0)" and not dark else paper
    assert (luminance(paper) < 0.1) is dark
    for colour in set(seen.evaluate(COLOURS)):
        assert contrast(colour, paper) >= LEGIBLE, colour
    drawn = {colour for plot in seen.evaluate(TEXTS) for colour in plot["data"]}
    assert min(contrast(colour, paper) for colour in drawn) >= VISIBLE
