"""Charts of one value against another: lines of points with error bars, named at their ends.

Plain numbers become a piece of SVG, without scripts, fonts or plotting libraries. Values that are
not finite are left out. A chart is an image with a title and a description in words, for readers
who do not see it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from trilemma.report import svg
from trilemma.report.labels import Box, along, anywhere, place, text_width
from trilemma.report.scales import Scale, tick_text

__all__ = ["Axis", "Point", "Series", "chart"]


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
) -> svg.Markup:
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
        return svg.Markup("")
    frame = Box(54.0, 26.0, width - (16.0 if narrow else 28.0), height - 46.0)
    x = Scale.around((p.x for p in points), frame.left + 8, frame.right - 8, x_axis.is_log)
    values = [p.y for p in points] + [floor] * math.isfinite(floor)
    ends = [v for p in points for v in (p.low, p.high) if v > 0 or min(values) <= 0]
    y = Scale.around([*values, *ends], frame.bottom, frame.top, y_axis.is_log)
    parts = [_axes(frame, x, y, x_axis, y_axis, narrow)]
    taken = [Box(0.0, 0.0, 8.0 + 1.08 * text_width(_axis_name(y_axis, y, frame)), 18.0)]
    if math.isfinite(floor):
        parts.append(svg.line(frame.left, y(floor), frame.right, y(floor), class_="floor"))
        left = frame.right - text_width(floor_label, 11) - 4
        parts.append(svg.text(frame.right - 4, y(floor) - 5, floor_label, "note end"))
        taken.append(Box(left, y(floor) - 17, frame.right, y(floor) + 3))
    if corner:
        at = frame.top + 14 if higher_is_better else frame.bottom - 8
        parts.append(svg.text(frame.left + 8, at, corner, "note"))
        taken.append(Box(frame.left, at - 12, frame.left + 16 + text_width(corner, 11), at + 4))
    for one in kept:
        parts.append(_path(one, x, y))
        taken += [Box(x(p.x) - 6, y(p.y) - 6, x(p.x) + 6, y(p.y) + 6) for p in one.points]
    parts.insert(1, _front(points, x, y))
    parts += [_markers(one, x, y) for one in kept]
    parts += _labels(kept, x, y, taken, Box(frame.left, 4, width - 4, frame.bottom - 2))
    description = "; ".join(p.hint for p in points[:40] if p.hint)
    return svg.image(ident, title, description or title, width, height, parts)


def _drawable(points: Iterable[Point]) -> tuple[Point, ...]:
    """Points with finite values, in the order of x."""
    found = [p for p in points if math.isfinite(p.x) and math.isfinite(p.y)]
    return tuple(sorted(found, key=lambda p: p.x))


def _axes(frame: Box, x: Scale, y: Scale, x_axis: Axis, y_axis: Axis, narrow: bool) -> svg.Markup:
    """Grid lines, tick labels, and what the axes show."""
    parts: list[str] = []
    for tick in y.ticks():
        parts.append(svg.line(frame.left, y(tick), frame.right, y(tick), class_="grid"))
        parts.append(svg.text(frame.left - 7, y(tick) + 4, tick_text(tick), "end"))
    ticks = x.ticks(4 if narrow else 8)
    room = (frame.right - frame.left) / max(1, len(ticks))
    if room < max(text_width(tick_text(tick)) for tick in ticks) + 8:
        ticks = [t for t in ticks if f"{t:e}"[0] == "1"] if x.is_log else ticks[::2]
    for tick in ticks:
        parts.append(svg.line(x(tick), frame.bottom, x(tick), frame.bottom + 5, class_="axis"))
        parts.append(svg.text(x(tick), frame.bottom + 19, tick_text(tick), "middle"))
    parts.append(svg.line(frame.left, frame.bottom, frame.right, frame.bottom, class_="axis"))
    for axis, scale, at_x, at_y, class_ in (
        (y_axis, y, 4.0, 14.0, "strong"),
        (x_axis, x, frame.right, frame.bottom + 39, "strong end"),
    ):
        parts.append(svg.text(at_x, at_y, _axis_name(axis, scale, frame), class_))
    return svg.element("g", *parts)


def _axis_name(axis: Axis, scale: Scale, frame: Box) -> str:
    """What an axis shows, and that it is logarithmic if there is room to say so."""
    name = f"{axis.label} (log scale)" if scale.is_log else axis.label
    return name if 1.08 * text_width(name) <= frame.right - 4 else axis.label


def _path(one: Series, x: Scale, y: Scale) -> svg.Markup:
    """The line and the error bars of a series, under all markers."""
    class_ = f"line s{one.colour % svg.NUM_COLOURS}"
    where = " ".join(f"{svg.coordinate(x(p.x))},{svg.coordinate(y(p.y))}" for p in one.points)
    parts = [svg.element("polyline", points=where, class_=class_)] if len(one.points) > 1 else []
    for p in one.points:
        if math.isfinite(p.low) and math.isfinite(p.high):
            low, high = y.clipped(p.low), y.clipped(p.high)
            parts.append(svg.line(x(p.x), low, x(p.x), high, class_=f"error {class_}"))
    return svg.element("g", *parts)


def _front(points: Sequence[Point], x: Scale, y: Scale) -> svg.Markup:
    """A faint staircase through the best points: what can be had for at most so much."""
    corners = _steps(points, x, y)
    if len(corners) < 2:
        return svg.Markup("")
    where = " ".join(f"{svg.coordinate(a)},{svg.coordinate(b)}" for a, b in corners)
    return svg.element("polyline", points=where, class_="front hollow")


def _steps(points: Sequence[Point], x: Scale, y: Scale) -> list[tuple[float, float]]:
    """Corners of the staircase."""
    best = sorted((p for p in points if p.is_best), key=lambda p: p.x)
    corners = [(x(p.x), y(p.y)) for p in best[:1]]
    for p, q in itertools.pairwise(best):
        corners += [(x(q.x), y(p.y)), (x(q.x), y(q.y))]
    return corners


def _markers(one: Series, x: Scale, y: Scale) -> svg.Markup:
    found = [svg.marker(one.colour, x(p.x), y(p.y), 5.0, p.is_best, p.hint) for p in one.points]
    return svg.element("g", *found)


def _labels(
    series: Sequence[Series], x: Scale, y: Scale, taken: list[Box], within: Box
) -> list[svg.Markup]:
    """Names of the series, then labels of the points where there is room."""
    lines = [box for one in series for box in along([(x(p.x), y(p.y)) for p in one.points])]
    lines += along(_steps([p for one in series for p in one.points], x, y))
    parts: list[svg.Markup] = []
    most = int((within.right - within.left) / 10)
    for one in sorted((one for one in series if one.name), key=lambda one: -len(one.name)):
        at = x(one.points[-1].x), y(one.points[-1].y)
        text = f"{one.name} {one.detail}".strip()
        text = text if len(text) <= most else text[: most - 1] + "…"
        room = 1.08 * text_width(text, 13), 15.0  # bold
        box = place(*at, room, [*taken, *lines], within, farthest=60.0)
        box = box or place(*at, room, taken, within, farthest=400.0)
        box = box or anywhere(*at, room, taken, within)
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


def _label(box: Box, at: tuple[float, float], text: str, class_: str) -> list[svg.Markup]:
    """A text in its box, with a thin line to its point if it lies far away."""
    near_x = min(max(at[0], box.left), box.right)
    near_y = min(max(at[1], box.top), box.bottom)
    parts = []
    if math.hypot(near_x - at[0], near_y - at[1]) > 20:
        parts.append(svg.line(*at, near_x, near_y, class_="leader"))
    if box.left >= at[0]:
        where, side = box.left, ""
    elif box.right <= at[0]:
        where, side = box.right, "end "
    else:
        where, side = (box.left + box.right) / 2, "middle "
    parts.append(svg.text(where, box.bottom - 3, text, f"{class_} {side}halo"))
    return parts
