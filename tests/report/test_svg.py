"""Charts: ticks, scales, labels that keep apart, and input that has nothing to show."""

import itertools
import math
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trilemma.report import charts, diagrams, labels, scales, svg
from trilemma.report.charts import Axis, Point, Series
from trilemma.report.labels import Box
from trilemma.report.scales import Scale
from trilemma.report.svg import Markup

SVG = "{http://www.w3.org/2000/svg}"
numbers = st.floats(-1e6, 1e6)


def parsed(markup):
    """The image as a tree; fails if it is not well-formed."""
    return ET.fromstring(markup)


def texts(markup):
    return [node.text for node in parsed(markup).iter(f"{SVG}text")]


def test_text_is_escaped_and_markup_is_not():
    made = svg.element("td", "a<b & 'c'", svg.element("b", "x"), data_label='"q"', class_="k")
    assert made == (
        '<td data-label="&quot;q&quot;" class="k">a&lt;b &amp; &#x27;c&#x27;<b>x</b></td>'
    )
    assert svg.element("img", alt="<", width=3, height=None) == '<img alt="&lt;" width="3">'
    assert isinstance(svg.join(["<", Markup("<b>")]), Markup)
    assert svg.join(["<", Markup("<b>")]) == "&lt;<b>"


@pytest.mark.parametrize(
    ("low", "high", "count", "expected"),
    [
        (0.0, 1.0, 5, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.0, 21.4, 5, [0.0, 5.0, 10.0, 15.0, 20.0]),
        (-0.3, 0.3, 3, [-0.2, 0.0, 0.2]),
        (997.0, 1003.0, 3, [998.0, 1000.0, 1002.0]),
        (0.0, 3e-7, 3, [0.0, 1e-7, 2e-7, 3e-7]),
    ],
)
def test_linear_ticks_are_round(low, high, count, expected):
    assert scales.nice_ticks(low, high, count) == expected


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.09, 11.0, [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0]),
        (0.5, 2000.0, [1.0, 10.0, 100.0, 1000.0]),
        (1.9, 5.5, [2.0, 3.0, 4.0, 5.0]),
        (2.1, 4.8, [3.0, 4.0]),
        (3.0, 3.3, [3.0, 3.1, 3.2, 3.3]),
    ],
)
def test_log_ticks_are_decades_or_finer(low, high, expected):
    assert scales.log_ticks(low, high) == expected


@given(low=numbers, span=st.floats(1e-6, 1e6), count=st.integers(2, 9))
def test_ticks_lie_inside_and_are_about_as_many_as_asked(low, span, count):
    found = scales.nice_ticks(low, low + span, count)
    slack = 1e-6 * max(abs(low), span)
    assert all(low - slack <= tick <= low + span + slack for tick in found)
    assert len(found) <= count + 1


@given(
    values=st.lists(st.floats(1e-4, 1e6), min_size=1, max_size=8),
    is_log=st.sampled_from([None, True, False]),
)
def test_scales_are_monotone_and_hold_all_values(values, is_log):
    scale = Scale.around(values, 400.0, 10.0, is_log)
    at = [scale(value) for value in sorted(values)]
    assert all(a >= b - 1e-9 for a, b in itertools.pairwise(at))
    assert all(10.0 <= position <= 400.0 for position in at)
    assert scale(scale.low) == pytest.approx(400.0)
    assert scale(scale.high) == pytest.approx(10.0)


def test_log_positions_are_those_of_the_logarithm():
    scale = Scale(1.0, 1000.0, 0.0, 300.0, is_log=True)
    assert [scale(10.0**k) for k in range(4)] == pytest.approx([0, 100, 200, 300])
    assert scale(2.0) == pytest.approx(100 * math.log10(2))


@pytest.mark.parametrize(
    ("values", "is_log"),
    [
        ([], False),
        ([math.nan, math.inf], False),
        ([3.0], False),
        ([3.0, 3.0], False),
        ([0.0], False),
        ([0.0, 100.0], False),
        ([-5.0, -5.0], False),
        ([1.0, 19.0], False),
        ([1.0, 21.0], True),
    ],
)
def test_scales_of_any_input(values, is_log):
    """A log scale only for positive values of a wide range, and always some room."""
    scale = Scale.around(values, 0.0, 100.0)
    assert scale.is_log is is_log
    assert scale.low < scale.high
    assert scale.ticks()
    finite = [value for value in values if math.isfinite(value)]
    assert all(scale.low <= value <= scale.high for value in finite)


def test_a_log_scale_asked_for_zero_is_linear():
    assert not Scale.around([0.0, 5.0], 0.0, 1.0, True).is_log
    assert Scale.around([4.0], 0.0, 1.0, True).is_log


def test_labels_keep_apart_from_each_other_and_inside():
    within, taken = Box(0, 0, 400, 300), []
    draw = np.random.default_rng(0)
    for x, y in draw.uniform((20, 20), (380, 280), (25, 2)):
        box = labels.place(x, y, (60.0, 14.0), taken, within, farthest=400)
        assert box is not None
        assert within.holds(box)
        assert not any(box.hits(other) for other in taken)
        assert (box.right - box.left, box.bottom - box.top) == pytest.approx((60, 14))
        taken.append(box)


def test_a_label_without_room_is_not_placed():
    assert labels.place(50, 50, (200, 10), [], Box(0, 0, 100, 100)) is None


def test_the_nearest_free_room_is_found_wherever_it_is():
    """All but a strip at the lower edge is taken; none of the rays from the point ends there."""
    within, taken = Box(0, 0, 100, 100), [Box(0, 0, 100, 84)]
    box = labels.anywhere(10, 10, (90, 10), taken, within)
    assert (box.left, box.top) == (0, 84)
    assert labels.anywhere(10, 10, (90, 20), taken, within) is None
    assert labels.anywhere(10, 10, (101, 5), [], within) is None
    near = labels.anywhere(50, 90, (20, 10), [], within)
    assert near.left <= 50 <= near.right and near.top <= 90 <= near.bottom


def test_the_first_place_is_at_the_right():
    box = labels.place(50, 50, (20, 10), [], Box(0, 0, 200, 100), reach=10)
    assert (box.left, box.top) == pytest.approx((60, 45))


def example(**options):
    series = [
        Series(
            "a",
            (
                Point(1.0, 8.0, 7.0, 9.0, "1", "hint of a", is_best=True),
                Point(100.0, 0.5, 0.4, 0.7, "20", "hint of a2", is_best=True),
            ),
            0,
        ),
        Series("b<", (Point(30.0, 2.0),), 1),
    ]
    return charts.chart(
        "c", "t<", series, Axis("x"), Axis("y"), floor=0.1, floor_label="f", **options
    )


def test_a_chart_says_what_it_shows():
    root = parsed(example())
    assert root.get("role") == "img"
    named = root.get("aria-labelledby").split()
    ids = {node.get("id"): node.text for node in root.iter() if node.get("id")}
    assert [ids[name] for name in named] == ["t<", "hint of a; hint of a2"]
    shown = texts(example())
    assert {"a", "b<", "1", "20", "f", "x (log scale)", "y (log scale)"} <= set(shown)


def test_points_lie_where_the_axes_say():
    """Read positions back with the ticks of the axes alone."""
    root = parsed(example())
    marks = list(root.iter(f"{SVG}circle"))
    first, last = ((float(m.get("cx")), float(m.get("cy"))) for m in marks)
    shown = [n for n in root.iter(f"{SVG}text") if n.text.replace(",", "").isdigit()]
    ticks_x = {float(n.text): float(n.get("x")) for n in shown if n.get("class") == "middle"}
    per_decade = (ticks_x[10.0] - ticks_x[1.0]) / 1.0
    assert first[0] == pytest.approx(ticks_x[1.0], abs=0.02)
    assert last[0] - first[0] == pytest.approx(2 * per_decade, abs=0.05)
    ticks_y = {float(n.text): float(n.get("y")) - 4 for n in shown if n.get("class") == "end"}
    slope = (ticks_y[1.0] - ticks_y[10.0]) / 1.0  # pixels per decade, downwards
    assert last[1] - first[1] == pytest.approx(slope * math.log10(8 / 0.5), abs=0.05)


def test_better_points_are_full_and_lie_on_the_steps():
    root = parsed(example())
    assert [m.get("class") for m in root.iter(f"{SVG}circle")] == ["fill s0", "fill s0"]
    front = next(n for n in root.iter(f"{SVG}polyline") if n.get("class") == "front hollow")
    corners = [tuple(map(float, pair.split(","))) for pair in front.get("points").split()]
    (x0, y0), (x1, y1), (x2, y2) = corners
    assert (y0, x1) == (y1, x2)
    assert x0 < x2
    assert y2 > y0  # lower is better: the second lies below


@pytest.mark.parametrize(
    "points",
    [
        [(1.0, 1.0)],
        [(2.0, 3.0)] * 5,
        [(0.0, 0.0), (0.0, 0.0)],
        [(math.nan, 1.0), (1.0, 2.0)],
        [(1e-9, 1e9), (1e9, 1e-9)],
        [(-1.0, 2.0), (5.0, -7.0)],
    ],
)
@pytest.mark.parametrize("width", [1104, 358])
def test_charts_of_degenerate_input_are_whole(points, width):
    series = [Series(f"model {i}", (Point(*p, label="4"),), i) for i, p in enumerate(points)]
    drawn = charts.chart("c", "t", series, Axis("x", True), Axis("y"), width=width)
    assert "nan" not in drawn
    assert "inf" not in drawn
    kept = sum(all(map(math.isfinite, p)) for p in points)
    shapes = [n for n in parsed(drawn).iter() if (n.get("class") or "").startswith("open")]
    assert len(shapes) == kept


def test_nothing_finite_is_no_chart():
    series = [Series("a", (Point(math.nan, 1.0),), 0)]
    assert charts.chart("c", "t", series, Axis("x"), Axis("y")) == ""
    assert charts.chart("c", "t", [], Axis("x"), Axis("y")) == ""


def test_names_of_many_series_do_not_overlap():
    """Boxes are estimated here by a wider face than the library assumes of its own."""
    draw = np.random.default_rng(3)
    series = [
        Series(f"model-{i}", (Point(*(10 ** draw.uniform(0, 2, 2)), label=f"{i}"),), i)
        for i in range(12)
    ]
    root = parsed(charts.chart("c", "t", series, Axis("x"), Axis("y")))
    boxes = []
    for node in root.iter(f"{SVG}text"):
        if "halo" not in (node.get("class") or "") or "strong" not in node.get("class"):
            continue
        x, y, width = float(node.get("x")), float(node.get("y")), 7.8 * len(node.text)
        left = x - width * (0.5 if "middle" in node.get("class") else "end" in node.get("class"))
        boxes.append(Box(left, y - 11, left + width, y + 2))
    assert len(boxes) == 12
    assert not any(a.hits(b) for a, b in itertools.combinations(boxes, 2))


CROWD = [*((1.03**i, 100 * 0.97**i) for i in range(11)), (100.0, 0.5)]
SPREAD = [(10 ** (i / 6), 100.0 / (1 + i % 5)) for i in range(12)]


@pytest.mark.parametrize("width", [358, 1104])
@pytest.mark.parametrize("where", [CROWD, SPREAD], ids=["crowd", "spread"])
def test_twelve_long_names_are_all_there_and_none_covers_the_title_of_the_axis(where, width):
    """Eleven points crowd below the title, or the names fill a narrow chart."""
    series = [
        Series(f"{i:02d}-a-model-with-a-long-name", (Point(*at),), i) for i, at in enumerate(where)
    ]
    axes = Axis("ms per image", True), Axis("distance to real data", True)
    root = parsed(charts.chart("c", "t", series, *axes, width=width, height=420))
    shown = list(root.iter(f"{SVG}text"))
    (title,) = [node for node in shown if node.text == "distance to real data (log scale)"]
    right, low = 4 + 7.0 * len(title.text), float(title.get("y")) + 3  # a bold face of 12 pixels
    names = [
        node for node in shown if "strong" in node.get("class", "") and "halo" in node.get("class")
    ]
    assert len(names) == 12
    for node in names:
        x, y, size = float(node.get("x")), float(node.get("y")), 7.8 * len(node.text)
        left = x - size * (0.5 if "middle" in node.get("class") else "end" in node.get("class"))
        assert left > right or y - 11 > low, node.text


def corners(node):
    return [tuple(map(float, pair.split(","))) for pair in node.get("points").split()]


def test_triangles_grow_with_their_shares():
    def area(*shares):
        axes = [(n, "v", s) for n, s in zip("qcs", shares, strict=True)]
        root = parsed(diagrams.triangle("t", "t", axes, 0))
        shape = next(n for n in root.iter(f"{SVG}polygon") if n.get("class") == "area s0")
        (a, b), (c, d), (e, f) = corners(shape)
        return abs((c - a) * (f - b) - (e - a) * (d - b)) / 2

    assert area(0, 0, 0) < area(0.5, 0.5, 0.5) < area(1, 0.5, 0.5) < area(1, 1, 1)
    # an inner end at a tenth of the radius: areas go as the square
    assert area(1, 1, 1) / area(0, 0, 0) == pytest.approx(100, rel=0.02)
    assert area(2, 1, 1) == area(1, 1, 1)


def test_a_triangle_leaves_out_what_is_not_known():
    axes = [("q", "1", 0.5), ("c", "–", math.nan), ("s", "2", 0.5)]
    drawn = diagrams.triangle("t", "t", axes, 3)
    assert "nan" not in drawn
    shape = next(n for n in parsed(drawn).iter(f"{SVG}polygon") if n.get("class") == "area s3")
    assert len(corners(shape)) == 2


def test_bars_are_as_long_as_their_counts():
    root = parsed(diagrams.bars("b", "t", ["x", "y<", "z"], [10, 5, 0], [8, 8, 8]))
    widths = [float(n.get("width")) for n in root.iter(f"{SVG}rect")]
    assert widths[1] == pytest.approx(widths[0] / 2, abs=0.02)
    assert widths[2] == 0
    marks = [n for n in root.iter(f"{SVG}line") if n.get("class") == "mark"]
    left = float(next(root.iter(f"{SVG}rect")).get("x"))
    assert float(marks[0].get("x1")) - left == pytest.approx(0.8 * widths[0], abs=0.02)
    shown = texts(diagrams.bars("b", "t", ["x", "y<", "z"], [10, 5, 0], []))
    assert {"x", "y<", "z", "10", "5", "0"} == set(shown)
    assert "x: 10; y<: 5; z: 0" in [n.text for n in root.iter(f"{SVG}desc")]


def test_a_thousand_classes_are_thin_bars():
    counts = list(range(1000))
    root = parsed(diagrams.bars("b", "t", [str(i) for i in counts], counts, [500.0] * 1000))
    bars = list(root.iter(f"{SVG}rect"))
    assert len(bars) == 1000
    assert not list(root.iter(f"{SVG}text"))
    heights = [float(bar.get("height")) for bar in bars]
    assert heights[500] == pytest.approx(heights[999] * 500 / 999, abs=0.02)


def test_bars_of_nothing_but_zeros():
    assert "nan" not in diagrams.bars("b", "t", ["x"], [0], [0])


def test_dots_lie_inside_the_frame():
    points = [(0.0, 0.0), (1.0, -1.0), (9.0, 0.0), (math.nan, 0.0)]
    root = parsed(diagrams.scatter("s", "t", points, (-1.0, 1.0)))
    path = next(root.iter(f"{SVG}path")).get("d")
    dots = [tuple(map(float, d.removesuffix("h0").split())) for d in path.split("M")[1:]]
    (frame,) = root.iter(f"{SVG}rect")
    x, y, w, h = (float(frame.get(key)) for key in ("x", "y", "width", "height"))
    assert len(dots) == 2
    assert dots[0] == pytest.approx((x + w / 2, y + h / 2), abs=0.06)
    assert dots[1] == pytest.approx((x + w, y + h), abs=0.06)


def test_markers_tell_seven_times_six_series_apart():
    drawn = {svg.marker(i, 0, 0, 5, True) for i in range(42)}
    assert len(drawn) == 42


@pytest.mark.parametrize(
    ("value", "text"), [(0.05, "0.05"), (20.0, "20"), (1000.0, "1,000"), (2.5e5, "250,000")]
)
def test_tick_text(value, text):
    assert scales.tick_text(value) == text
