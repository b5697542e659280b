"""Charts as text: SVG from numbers, without scripts, fonts or plotting libraries.

Every function maps plain numbers to a piece of SVG and depends on nothing else, so the same numbers
always give the same bytes. Colours are classes (``s0`` to ``s6``, ``ink``, ``grid``, ...) that the
page's style sheet defines for light and dark; series also differ by the shape of their markers.
Values that are not finite are left out. A chart is an image with a title and a description in
words, for readers who do not see it.

Whatever is text is escaped, unless it is ``Markup`` already, that is, made by ``element``.
"""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Self

__all__ = [
    "NUM_COLOURS",
    "Axis",
    "Box",
    "Markup",
    "Point",
    "Scale",
    "Series",
    "bars",
    "chart",
    "element",
    "join",
    "log_ticks",
    "marker",
    "nice_ticks",
    "place",
    "scatter",
    "text_width",
    "tick_text",
    "triangle",
]

NUM_COLOURS = 7
NUM_SHAPES = 5
WIDE = 20.0
"""Values whose largest is this many times the smallest are drawn on a log scale."""
VOID = ("br", "col", "hr", "img", "link", "meta", "wbr")
MOST_ROWS = 24
"""Classes that get a named bar each; more of them become thin bars without names."""


class Markup(str):
    """Text that is HTML or SVG already and must not be escaped again."""

    __slots__ = ()


def join(parts: Iterable[str]) -> Markup:
    """Put pieces in a row; those that are not ``Markup`` are escaped."""
    return Markup(
        "".join(part if isinstance(part, Markup) else html.escape(part) for part in parts)
    )


def element(name: str, /, *children: str, **attributes: str | float | None) -> Markup:
    """Write an element of HTML or SVG.

    Args:
        name: of the element.
        children: ``Markup`` is taken as it is, any other text is escaped.
        attributes: a trailing underscore falls away and inner ones become hyphens (``class_``,
            ``stroke_width``); numbers are written with two decimals; None is left out.
    """
    written = [name]
    for key, value in attributes.items():
        if value is not None:
            text = _coordinate(value) if isinstance(value, int | float) else html.escape(value)
            written.append(f'{key.rstrip("_").replace("_", "-")}="{text}"')
    head = " ".join(written)
    return Markup(f"<{head}>" if name in VOID else f"<{head}>{join(children)}</{name}>")


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from low to high, about ``count`` of them, steps of 1, 2 or 5 times 10^k.

    Args:
        low: lower end, finite.
        high: upper end, finite, above low.
        count: how many are wanted, >= 1.
    """
    rough = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(f * power for f in (1, 2, 5, 10) if f * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers for a log axis: decades, or 1, 2 and 5 times decades, or finer ones.

    Args:
        low: lower end, > 0.
        high: upper end, above low.
    """
    decades = math.log10(high / low)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1.0,) if decades > 3.2 else (1.0, 2.0, 5.0)
    found = [float(f"{f * 10.0**k:.12g}") for k in powers for f in factors]
    found = [value for value in found if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]
    return found if len(found) >= 3 else nice_ticks(low, high, 4)


def tick_text(value: float) -> str:
    """A tick in few characters: 0.05, 20, 1,000."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"


def text_width(text: str, size: float = 12.0) -> float:
    """Upper estimate of a text's width in a sans-serif face, in the units of its size."""
    narrow = sum(character in "ijl.,:;|'!()[]- " for character in text)
    return size * (0.66 * (len(text) - narrow) + 0.42 * narrow)


@dataclass(frozen=True)
class Scale:
    """A monotone map from values to positions.

    Args:
        low: value at ``start``.
        high: value at ``stop``, above low.
        start: position, pixels.
        stop: position; below ``start`` for an axis that points up.
        is_log: equal ratios, not equal differences, are equally long.
    """

    low: float
    high: float
    start: float
    stop: float
    is_log: bool = False

    @classmethod
    def around(
        cls, values: Iterable[float], start: float, stop: float, is_log: bool | None = None
    ) -> Self:
        """A scale that shows all finite values with some room around them.

        Args:
            values: may hold NaN, may be equal, may be empty.
            start: position of the lower end.
            stop: position of the upper end.
            is_log: None decides by the range; values that are not positive are never on a log
                scale.
        """
        finite = [value for value in values if math.isfinite(value)]
        if not finite:
            return cls(0.0, 1.0, start, stop)
        low, high = min(finite), max(finite)
        wanted = low > 0 and high / low >= WIDE if is_log is None else is_log
        if wanted and low > 0:
            room = max((high / low) ** 0.07, 1.25)
            return cls(low / room, high * room, start, stop, True)
        room = 0.08 * (high - low) or abs(high) / 2 or 0.5
        bottom = 0.0 if 0 <= low <= max(0.5 * high, room) else low - room
        return cls(bottom, high + room, start, stop)

    def __call__(self, value: float) -> float:
        """Position of a value, which must be positive on a log scale."""
        if self.is_log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.stop - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """Values worth a label."""
        return (
            log_ticks(self.low, self.high)
            if self.is_log
            else nice_ticks(self.low, self.high, count)
        )

    def clipped(self, value: float) -> float:
        """Position of a value, or of the nearer end for one that lies outside."""
        return self(min(max(value, self.low), self.high))


@dataclass(frozen=True)
class Box:
    """A rectangle, y downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def hits(self, other: Box) -> bool:
        """Whether two rectangles share more than an edge."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )

    def holds(self, other: Box) -> bool:
        """Whether the other lies inside."""
        return (
            self.left <= other.left
            and self.top <= other.top
            and self.right >= other.right
            and self.bottom >= other.bottom
        )


def place(
    x: float,
    y: float,
    size: tuple[float, float],
    taken: Sequence[Box],
    within: Box,
    reach: float = 10.0,
    farthest: float = 90.0,
) -> Box | None:
    """Find room for a label near a point, at its side first, farther away if need be.

    Args:
        x: of the point.
        y: of the point.
        size: width and height of the label.
        taken: where it must not lie.
        within: where it must lie.
        reach: distance of the nearest places from the point.
        farthest: distance at which the search ends.

    Returns:
        The label's box; None if there is no room.
    """
    width, height = size
    distance = reach
    while distance <= farthest:
        for angle in (0, 180, 90, 270, 35, 325, 145, 215, 60, 300, 120, 240):
            dx, dy = math.cos(math.radians(angle)), -math.sin(math.radians(angle))
            left = x + distance * dx + (dx - 1) * width / 2
            top = y + distance * dy + (dy - 1) * height / 2
            box = Box(left, top, left + width, top + height)
            if within.holds(box) and not any(box.hits(other) for other in taken):
                return box
        distance += 7.0
    return None


@dataclass(frozen=True)
class Point:
    """A measured point.

    Args:
        x: value, positive on a log axis.
        y: value.
        low: lower end of the error bar; NaN for none.
        high: upper end.
        label: a few characters beside it.
        hint: what a pointing reader is told, and a reader who does not see.
        is_best: no other point is better in both; drawn full, others hollow.
    """

    x: float
    y: float
    low: float = math.nan
    high: float = math.nan
    label: str = ""
    hint: str = ""
    is_best: bool = False


@dataclass(frozen=True)
class Series:
    """Points that belong together, joined by a line in the order of x.

    Args:
        name: written beside the last point; empty for none.
        points: at least one of them finite, or the series is not drawn.
        colour: index, any integer >= 0; it also decides the shape of the marker.
        detail: written behind the name, or small where there is no name; narrow charts leave it
            out.
    """

    name: str
    points: tuple[Point, ...]
    colour: int = 0
    detail: str = ""


@dataclass(frozen=True)
class Axis:
    """What an axis shows.

    Args:
        label: with the unit.
        is_log: None decides by the range.
    """

    label: str
    is_log: bool | None = None


def chart(
    ident: str,
    title: str,
    series: Sequence[Series],
    x_axis: Axis,
    y_axis: Axis,
    *,
    width: float = 1104,
    height: float = 460,
    floor: float = math.nan,
    floor_label: str = "",
    corner: str = "",
    higher_is_better: bool = False,
) -> Markup:
    """Draw series of points with error bars, their names at the ends of the lines.

    Args:
        ident: unique in the page; letters, digits and hyphens.
        title: what is shown.
        series: what to draw.
        x_axis: of the horizontal axis.
        y_axis: of the vertical axis.
        width: pixels.
        height: pixels.
        floor: value of a dashed horizontal line; NaN for none.
        floor_label: what stands on it.
        corner: a note in the corner of low x and good y.
        higher_is_better: whether that corner is the upper one.

    Returns:
        The SVG; empty if there is no finite point.
    """
    narrow = width < 560
    kept = [
        replace(one, points=_drawable(one.points), detail="" if narrow else one.detail)
        for one in series
    ]
    kept = [one for one in kept if one.points]
    points = [point for one in kept for point in one.points]
    if not points:
        return Markup("")
    frame = Box(54.0, 26.0, width - (16.0 if narrow else 28.0), height - 46.0)
    x = Scale.around((p.x for p in points), frame.left + 8, frame.right - 8, x_axis.is_log)
    values = [p.y for p in points] + [floor] * math.isfinite(floor)
    ends = [v for p in points for v in (p.low, p.high) if v > 0 or min(values) <= 0]
    y = Scale.around([*values, *ends], frame.bottom, frame.top, y_axis.is_log)
    parts = [_axes(frame, x, y, x_axis, y_axis, narrow)]
    taken: list[Box] = []
    if math.isfinite(floor):
        parts.append(_line(frame.left, y(floor), frame.right, y(floor), class_="floor"))
        left = frame.right - text_width(floor_label, 11) - 4
        parts.append(_text(frame.right - 4, y(floor) - 5, floor_label, "note end"))
        taken.append(Box(left, y(floor) - 17, frame.right, y(floor) + 3))
    if corner:
        at = frame.top + 14 if higher_is_better else frame.bottom - 8
        parts.append(_text(frame.left + 8, at, corner, "note"))
        taken.append(Box(frame.left, at - 12, frame.left + 16 + text_width(corner, 11), at + 4))
    for one in kept:
        parts.append(_path(one, x, y))
        taken += [Box(x(p.x) - 6, y(p.y) - 6, x(p.x) + 6, y(p.y) + 6) for p in one.points]
    parts.insert(1, _front(points, x, y))
    parts += [_markers(one, x, y) for one in kept]
    parts += _labels(kept, x, y, taken, Box(frame.left, 4, width - 4, frame.bottom - 2))
    description = "; ".join(p.hint for p in points[:40] if p.hint)
    return _svg(ident, title, description or title, width, height, parts)


def triangle(
    ident: str,
    title: str,
    axes: Sequence[tuple[str, str, float]],
    colour: int,
    others: Sequence[Sequence[float]] = (),
    ends: Sequence[str] = (),
) -> Markup:
    """Draw one model on three (or more) axes that run outwards from a centre.

    Args:
        ident: unique in the page.
        title: what is shown.
        axes: name, value in words and share in [0, 1] of the way outwards; NaN where the value is
            not known, which leaves the corner out.
        colour: of the shape.
        others: shares of the other models, drawn faintly for comparison.
        ends: words at the inner end of each axis, for a key; the values then name the outer end.
    """
    width, height, radius, x, y = 300.0, 232.0, 102.0, 150.0, 144.0
    count = len(axes)

    def corner(i: int, share: float) -> tuple[float, float]:
        angle = 2 * math.pi * i / count - math.pi / 2
        length = radius * (0.1 + 0.9 * min(1.0, max(0.0, share)))
        return x + length * math.cos(angle), y + length * math.sin(angle)

    def outline(shares: Sequence[float], class_: str) -> Markup:
        known = [corner(i, share) for i, share in enumerate(shares) if math.isfinite(share)]
        where = " ".join(f"{_coordinate(a)},{_coordinate(b)}" for a, b in known)
        return element("polygon", points=where, class_=class_)

    parts = [outline([level] * count, "grid hollow") for level in (0.0, 0.5, 1.0)]
    parts += [_line(x, y, *corner(i, 1.0), class_="grid") for i in range(count)]
    parts += [outline(shares, "other hollow") for shares in others]
    shares = [share for _, _, share in axes]
    if not ends:
        parts.append(outline(shares, f"area s{colour % NUM_COLOURS}"))
        for i, share in enumerate(shares):
            if math.isfinite(share):
                parts.append(marker(colour, *corner(i, share), 4.0, True))
    for i, (name, value, _) in enumerate(axes):
        at_x, at_y = corner(i, 1.0)
        side = 0 if abs(at_x - x) < 1 else (1 if at_x > x else -1)
        first = at_y - 24 if i == 0 else at_y + 16
        where = at_x + 20 * side
        parts.append(_text(where, first, name, "strong middle"))
        parts.append(_text(where, first + 15, value, "middle"))
        if ends:
            near_x, near_y = corner(i, 0.18)
            nudge = (10.0, -6.0) if i == 0 else (0.0, 14.0)
            class_ = "note" if i == 0 else ("note end" if side < 0 else "note")
            parts.append(_text(near_x + nudge[0], near_y + nudge[1], ends[i], class_))
    description = "; ".join(f"{name}: {value}" for name, value, _ in axes)
    return _svg(ident, title, description, width, height, parts)


def bars(
    ident: str,
    title: str,
    names: Sequence[str],
    counts: Sequence[float],
    expected: Sequence[float],
    colour: int = 0,
) -> Markup:
    """Draw counts as bars, and what was expected as a mark across each.

    Args:
        ident: unique in the page.
        title: what is shown.
        names: of the bars.
        counts: lengths, >= 0.
        expected: lengths of the marks, >= 0; may be empty.
        colour: of the bars.
    """
    width, top = 320.0, max((v for v in (*counts, *expected) if math.isfinite(v)), default=1.0)
    class_ = f"fill s{colour % NUM_COLOURS}"
    parts: list[str] = []
    if len(counts) > MOST_ROWS:
        height, pitch = 140.0, width / len(counts)
        y = Scale(0.0, max(top, 1.0), height - 4, 8.0)
        for i, count in enumerate(counts):
            parts.append(_rect(i * pitch, y(count), max(0.3, 0.9 * pitch), y(0) - y(count), class_))
        if expected:
            where = " ".join(
                f"{_coordinate(i * pitch + side)},{_coordinate(y(value))}"
                for i, value in enumerate(expected)
                for side in (0.0, pitch)
            )
            parts.append(element("polyline", points=where, class_="mark hollow"))
        return _svg(ident, title, title, width, height, parts)
    left = min(120.0, max(text_width(name) for name in names) + 10)
    pitch = 19.0
    x = Scale(0.0, max(top, 1e-12), left, width - 46)
    for i, (name, count) in enumerate(zip(names, counts, strict=True)):
        at_y = 4 + i * pitch
        fits = left < 120 or text_width(name) <= left - 10
        short = name if fits else name[: int((left - 18) / 7.9)] + "…"
        parts.append(_text(left - 6, at_y + 12, short, "end"))
        parts.append(_rect(left, at_y + 2, x(count) - left, pitch - 6, class_))
        end = max(x(count), x(expected[i]) if expected else 0.0)
        parts.append(_text(end + 5, at_y + 12, f"{count:,.0f}", "note"))
        if expected:
            parts.append(
                _line(x(expected[i]), at_y, x(expected[i]), at_y + pitch - 2, class_="mark")
            )
    parts.append(_line(left, 2, left, 4 + len(counts) * pitch, class_="axis"))
    told = "; ".join(f"{name}: {count:,.0f}" for name, count in zip(names, counts, strict=True))
    return _svg(ident, title, told, width, 8 + len(counts) * pitch, parts)


def scatter(
    ident: str,
    title: str,
    points: Iterable[tuple[float, float]],
    bounds: tuple[float, float],
    colour: int = 0,
) -> Markup:
    """Draw points of the plane as dots on a square; those outside are left out.

    Args:
        ident: unique in the page.
        title: what is shown.
        points: pairs.
        bounds: lower and upper end of both axes.
        colour: of the dots.
    """
    side, margin = 300.0, 24.0
    x = Scale(*bounds, margin, side - 6)
    y = Scale(*bounds, side - margin, 6)
    frame = Box(margin, 6, side - 6, side - margin)
    parts: list[str] = [_rect(frame.left, frame.top, side - 6 - margin, side - 6 - margin, "frame")]
    for tick in x.ticks(4):
        parts.append(_text(x(tick), side - 8, tick_text(tick), "note middle"))
        parts.append(_text(margin - 4, y(tick) + 4, tick_text(tick), "note end"))
    inside = [p for p in points if all(bounds[0] <= value <= bounds[1] for value in p)]
    dots = "".join(f"M{x(a):.1f} {y(b):.1f}h0" for a, b in inside)
    parts.append(element("path", d=dots, class_=f"dots s{colour % NUM_COLOURS}"))
    return _svg(ident, title, f"{title}: {len(inside)} points", side, side, parts)


def marker(index: int, x: float, y: float, radius: float, is_full: bool, hint: str = "") -> Markup:
    """Draw a marker whose shape and colour follow from an index.

    Args:
        index: of the series.
        x: of the centre.
        y: of the centre.
        radius: pixels.
        is_full: filled or hollow.
        hint: what a pointing reader is told.
    """
    class_ = f"{'fill' if is_full else 'open'} s{index % NUM_COLOURS}"
    about = (element("title", hint),) if hint else ()
    shape = index % NUM_SHAPES
    if shape == 0:
        return element("circle", *about, cx=x, cy=y, r=radius, class_=class_)
    turns, start, scale = {
        1: (4, math.pi / 4, 1.25),
        2: (3, -math.pi / 2, 1.35),
        3: (4, 0.0, 1.3),
        4: (3, math.pi / 2, 1.35),
    }[shape]
    angles = [start + 2 * math.pi * i / turns for i in range(turns)]
    where = " ".join(
        f"{_coordinate(x + scale * radius * math.cos(a))},"
        f"{_coordinate(y + scale * radius * math.sin(a))}"
        for a in angles
    )
    return element("polygon", *about, points=where, class_=class_)


def _drawable(points: Iterable[Point]) -> tuple[Point, ...]:
    """Points with finite values, in the order of x."""
    found = [p for p in points if math.isfinite(p.x) and math.isfinite(p.y)]
    return tuple(sorted(found, key=lambda p: p.x))


def _axes(frame: Box, x: Scale, y: Scale, x_axis: Axis, y_axis: Axis, narrow: bool) -> Markup:
    """Grid lines, tick labels, and what the axes show."""
    parts: list[str] = []
    for tick in y.ticks():
        parts.append(_line(frame.left, y(tick), frame.right, y(tick), class_="grid"))
        parts.append(_text(frame.left - 7, y(tick) + 4, tick_text(tick), "end"))
    ticks = x.ticks(4 if narrow else 8)
    room = (frame.right - frame.left) / max(1, len(ticks))
    if room < max(text_width(tick_text(tick)) for tick in ticks) + 8:
        ticks = [t for t in ticks if f"{t:e}"[0] == "1"] if x.is_log else ticks[::2]
    for tick in ticks:
        parts.append(_line(x(tick), frame.bottom, x(tick), frame.bottom + 5, class_="axis"))
        parts.append(_text(x(tick), frame.bottom + 19, tick_text(tick), "middle"))
    parts.append(_line(frame.left, frame.bottom, frame.right, frame.bottom, class_="axis"))
    for axis, scale, at_x, at_y, class_ in (
        (y_axis, y, 4.0, 14.0, "strong"),
        (x_axis, x, frame.right, frame.bottom + 39, "strong end"),
    ):
        name = f"{axis.label} (log scale)" if scale.is_log else axis.label
        fits = 1.08 * text_width(name) <= frame.right - 4
        parts.append(_text(at_x, at_y, name if fits else axis.label, class_))
    return element("g", *parts)


def _path(one: Series, x: Scale, y: Scale) -> Markup:
    """The line and the error bars of a series, under all markers."""
    class_ = f"line s{one.colour % NUM_COLOURS}"
    where = " ".join(f"{_coordinate(x(p.x))},{_coordinate(y(p.y))}" for p in one.points)
    parts = [element("polyline", points=where, class_=class_)] if len(one.points) > 1 else []
    for p in one.points:
        if math.isfinite(p.low) and math.isfinite(p.high):
            low, high = y.clipped(p.low), y.clipped(p.high)
            parts.append(_line(x(p.x), low, x(p.x), high, class_=f"error {class_}"))
    return element("g", *parts)


def _front(points: Sequence[Point], x: Scale, y: Scale) -> Markup:
    """A faint staircase through the best points: what can be had for at most so much."""
    corners = _steps(points, x, y)
    if len(corners) < 2:
        return Markup("")
    where = " ".join(f"{_coordinate(a)},{_coordinate(b)}" for a, b in corners)
    return element("polyline", points=where, class_="front hollow")


def _steps(points: Sequence[Point], x: Scale, y: Scale) -> list[tuple[float, float]]:
    """Corners of the staircase."""
    best = sorted((p for p in points if p.is_best), key=lambda p: p.x)
    corners = [(x(p.x), y(p.y)) for p in best[:1]]
    for p, q in itertools.pairwise(best):
        corners += [(x(q.x), y(p.y)), (x(q.x), y(q.y))]
    return corners


def _markers(one: Series, x: Scale, y: Scale) -> Markup:
    found = [marker(one.colour, x(p.x), y(p.y), 5.0, p.is_best, p.hint) for p in one.points]
    return element("g", *found)


def _labels(
    series: Sequence[Series], x: Scale, y: Scale, taken: list[Box], within: Box
) -> list[Markup]:
    """Names of the series, then labels of the points where there is room."""
    lines = [box for one in series for box in _along([(x(p.x), y(p.y)) for p in one.points])]
    lines += _along(_steps([p for one in series for p in one.points], x, y))
    parts: list[Markup] = []
    most = int((within.right - within.left) / 10)
    for one in sorted((one for one in series if one.name), key=lambda one: -len(one.name)):
        at = x(one.points[-1].x), y(one.points[-1].y)
        text = f"{one.name} {one.detail}".strip()
        text = text if len(text) <= most else text[: most - 1] + "…"
        room = 1.08 * text_width(text, 13), 15.0  # bold
        box = place(*at, room, [*taken, *lines], within, farthest=60.0)
        box = box or place(*at, room, taken, within, farthest=400.0)
        if box is not None:
            parts += _label(box, at, text, "strong")
            taken.append(box)
    for one in series:
        if one.detail and not one.name:
            at = x(one.points[-1].x), y(one.points[-1].y)
            room = text_width(one.detail, 12), 14.0
            box = place(*at, room, [*taken, *lines], within, farthest=60.0)
            if box is not None:
                parts += _label(box, at, one.detail, "plain")
                taken.append(box)
    for one in series:
        for point in one.points:
            at, room = (x(point.x), y(point.y)), (text_width(point.label, 11), 12.0)
            box = place(*at, room, [*taken, *lines], within, 9.0, 16.0) if point.label else None
            box = box or (place(*at, room, taken, within, 9.0, 16.0) if point.label else None)
            if box is not None:
                parts += _label(box, at, point.label, "note")
                taken.append(box)
    return parts


def _label(box: Box, at: tuple[float, float], text: str, class_: str) -> list[Markup]:
    """A text in its box, with a thin line to its point if it lies far away."""
    near_x = min(max(at[0], box.left), box.right)
    near_y = min(max(at[1], box.top), box.bottom)
    parts = []
    if math.hypot(near_x - at[0], near_y - at[1]) > 20:
        parts.append(_line(*at, near_x, near_y, class_="leader"))
    if box.left >= at[0]:
        where, side = box.left, ""
    elif box.right <= at[0]:
        where, side = box.right, "end "
    else:
        where, side = (box.left + box.right) / 2, "middle "
    parts.append(_text(where, box.bottom - 3, text, f"{class_} {side}halo"))
    return parts


def _along(corners: Sequence[tuple[float, float]]) -> list[Box]:
    """Small boxes along a line, which labels should not cover."""
    found = []
    for a, b in itertools.pairwise(corners):
        steps = max(1, int(math.dist(a, b) / 6))
        for i in range(1, steps):
            at_x, at_y = (s + (e - s) * i / steps for s, e in zip(a, b, strict=True))
            found.append(Box(at_x - 1, at_y - 1, at_x + 1, at_y + 1))
    return found


def _svg(
    ident: str, title: str, description: str, width: float, height: float, parts: Iterable[str]
) -> Markup:
    """An image with its title and description."""
    return element(
        "svg",
        element("title", title, id=f"{ident}-title"),
        element("desc", description, id=f"{ident}-desc"),
        *parts,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {_coordinate(width)} {_coordinate(height)}",
        role="img",
        aria_labelledby=f"{ident}-title {ident}-desc",
        style=f"max-width: {_coordinate(width)}px",
    )


def _line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def _rect(x: float, y: float, width: float, height: float, class_: str) -> Markup:
    return element("rect", x=x, y=y, width=width, height=height, class_=class_)


def _text(x: float, y: float, text: str, class_: str = "") -> Markup:
    return element("text", text, x=x, y=y, class_=class_ or None)


def _coordinate(value: float) -> str:
    """Two decimals at most, no minus zero."""
    return f"{round(value, 2) + 0.0:g}" if abs(value) < 1e4 else f"{value:.0f}"
