"""Plots: what stands where, and that a picture shows it; the same drawing is the same bytes."""

import subprocess
import sys
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image, ImageFont
from scripts.plots.axes import Axis, decades, round_numbers, short, top
from scripts.plots.charts import BARS_MAX, bars, curve, series
from scripts.plots.document import document, figure
from scripts.plots.drawing import Band, Box, Dot, Drawing, Line, Text
from scripts.plots.png import SCALE, broken, png
from scripts.plots.svg import svg
from scripts.simulate import how_far
from scripts.simulation.options import Options

ROOT = Path(__file__).resolve().parents[2]
BLUE = (0x25, 0x63, 0xEB)
CDF = [(0.01, 0.25), (0.1, 0.5), (1.0, 1.0)]


def of(kind, drawing):
    return [shape for shape in drawing.shapes if isinstance(shape, kind)]


def said(drawing):
    return [text.said for text in of(Text, drawing)]


def data(drawing):
    return next(line for line in of(Line, drawing) if line.ink == "data").points


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.5, 1]), (0, 93, [0, 50]), (17, 45, [20, 30, 40]), (3, 3, [3])],
)
def test_marks_are_round_and_within_the_axis(low, high, expected):
    assert round_numbers(low, high, about=2 if high in {1, 93} else 4) == pytest.approx(expected)


def test_marks_of_a_logarithmic_axis_are_powers_of_ten_or_more_where_these_are_few():
    assert decades(0.004, 30) == pytest.approx([0.01, 0.1, 1, 10])
    assert decades(0.15, 0.9) == pytest.approx([0.2, 0.5])
    assert decades(3, 3.5) == [3]


@pytest.mark.parametrize("values", [[0.0], [], [7], [0.003, 0.0011], [999, 1], [1e9, 3]])
def test_bars_end_below_a_round_number_that_is_not_far_above(values):
    highest = max([*values, 0])
    assert highest <= top(values)
    assert top(values) <= 2 * highest or not highest


def test_numbers_are_short():
    assert [short(each) for each in (0, 0.0123, 950, 1234, 2.5e6, 3e9)] == [
        *("0", "0.0123", "950", "1.23 k", "2.5 M", "3 G"),
    ]


def test_a_decade_is_as_wide_as_the_next_one():
    points = data(curve("c", CDF, "s", log=True))
    first, second = (right[0] - left[0] for left, right in pairwise(points))
    assert first == pytest.approx(second)
    assert points[0][1] > points[1][1] > points[2][1]  # more is higher, and y grows downwards


def test_one_point_is_seen():
    assert of(Dot, curve("c", [(3.0, 0.5)], "s"))


def test_axes_have_units():
    drawn = curve("c", CDF, "virtual seconds", log=True)
    assert {"share", "100%", "virtual seconds", "0.1"} <= set(said(drawn))
    assert {"bytes", "2 nodes, in descending order"} <= set(said(bars("b", [1e6, 2e6], "bytes")))


def test_bars_are_as_high_as_their_values_in_descending_order():
    boxes = of(Box, bars("b", [1, 4, 2, 0], "x"))
    assert [box.height / boxes[0].height for box in boxes] == pytest.approx([1, 0.5, 0.25])
    assert all(left.x + left.width < right.x for left, right in pairwise(boxes))


def test_of_many_bars_some_are_shown_and_it_says_so():
    drawn = bars("b", range(1, 10 * BARS_MAX + 2), "x")
    assert len(of(Box, drawn)) <= BARS_MAX
    assert any("shown" in text for text in said(drawn))


def test_a_series_shows_its_spread():
    drawn = series("s", [1.0, 2.0], [0.5, 1.5], [1.5, 3.0])
    (band,) = of(Band, drawn)
    ys = [y for _, y in band.points]
    assert min(ys) < min(y for _, y in data(drawn))
    assert {"0.5", "3"} <= set(said(drawn))


def test_what_was_not_counted_is_said():
    for drawn in (curve("c", [], "s"), bars("b", [], "x"), series("s", [], [], [])):
        assert "nothing was counted" in said(drawn)


def test_the_same_drawing_is_the_same_picture_with_its_shapes_in_it():
    drawn = Drawing("A title", 100, 50, (Box(10, 10, 50, 30), Text(70, 40, "x")))
    assert png([drawn]) == png([drawn])
    picture = Image.open(BytesIO(png([drawn]))).convert("RGB")
    blue = [
        (x // SCALE, y // SCALE)
        for x in range(picture.width)
        for y in range(picture.height)
        if picture.getpixel((x, y)) == BLUE
    ]
    xs, ys = zip(*blue, strict=True)
    assert (max(xs) - min(xs) + 1, max(ys) - min(ys) + 1) == pytest.approx((50, 30), abs=1)
    titled = Drawing("Another title", 100, 50, drawn.shapes)
    assert png([titled]) != png([drawn])


def test_several_drawings_stand_beside_each_other():
    one = Drawing("t", 100, 50, (Dot(5, 5),))
    alone, row, column = (
        Image.open(BytesIO(png(drawings, columns))).size
        for drawings, columns in (([one], 1), ([one, one], 2), ([one, one], 1))
    )
    assert row[0] > alone[0]
    assert row[1] == alone[1]
    assert column[1] > alone[1]
    assert column[0] == alone[0]


def test_titles_are_broken_before_they_reach_the_next_drawing():
    font = ImageFont.load_default(13)
    title = "gateway: slow stream, 64 clients: CPU / the server behind it " * 3
    for said in (title, "x" * 300, "short", ""):
        found = broken(said, 220)
        assert 1 <= len(found) <= 3
        assert all(font.getlength(line) <= 220 for line in found)
    assert broken("short one", 220) == ["short one"]
    assert broken(title, 220)[-1].endswith("...")


def test_a_page_escapes_what_it_is_told():
    evil = "<script>alert(1)</script>"
    made = document(evil, [figure(Drawing(evil + '"', 9, 9, (Text(0, 0, evil),)))])
    assert "<script" not in made
    assert svg(Drawing('"', 1, 1, ())).count('"') % 2 == 0


def test_an_axis_of_one_value_does_not_divide_by_zero():
    assert Axis(3, 3, 0, 100).at(3) == 0


def test_the_progress_is_in_virtual_seconds_where_their_number_is_known():
    options = Options(duration_seconds=40.0)
    assert how_far("faults and load", 0.25, options) == "10 of 40 virtual s"
    assert how_far("joining", 0.25, options) == "25%"


def test_out_holds_the_plots_as_pictures_alike_in_each_run(tmp_path):
    for folder in ("one", "two"):
        words = ("--nodes", "4", "--duration-seconds", "4", "--out", str(tmp_path / folder))
        command = [sys.executable, "scripts/simulate.py", *words]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300)
    names = {path.name for path in (tmp_path / "one").glob("*.png")}
    assert names == {f"{n}.png" for n in ("propagation", "success", "load", "messages", "bytes")}
    for name in names:
        first, second = ((tmp_path / each / name).read_bytes() for each in ("one", "two"))
        assert first == second, name
        assert BLUE in Image.open(BytesIO(first)).convert("RGB").get_flattened_data(), name
