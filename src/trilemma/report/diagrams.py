"""Small drawings of one model: a triangle of the trilemma, bars of classes, dots of a plane.

As with charts, plain numbers become SVG with a title and a description in words, and values that
are not finite are left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from trilemma.report import svg
from trilemma.report.labels import Box, text_width
from trilemma.report.scales import Scale, tick_text

__all__ = ["bars", "scatter", "triangle"]

MOST_ROWS = 24
"""Classes that get a named bar each; more of them become thin bars without names."""


def triangle(
    ident: str,
    title: str,
    axes: Sequence[tuple[str, str, float]],
    colour: int,
    others: Sequence[Sequence[float]] = (),
    ends: Sequence[str] = (),
) -> svg.Markup:
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

    def outline(shares: Sequence[float], class_: str) -> svg.Markup:
        known = [corner(i, share) for i, share in enumerate(shares) if math.isfinite(share)]
        where = " ".join(f"{svg.coordinate(a)},{svg.coordinate(b)}" for a, b in known)
        return svg.element("polygon", points=where, class_=class_)

    parts = [outline([level] * count, "grid hollow") for level in (0.0, 0.5, 1.0)]
    parts += [svg.line(x, y, *corner(i, 1.0), class_="grid") for i in range(count)]
    parts += [outline(shares, "other hollow") for shares in others]
    shares = [share for _, _, share in axes]
    if not ends:
        parts.append(outline(shares, f"area s{colour % svg.NUM_COLOURS}"))
        for i, share in enumerate(shares):
            if math.isfinite(share):
                parts.append(svg.marker(colour, *corner(i, share), 4.0, True))
    for i, (name, value, _) in enumerate(axes):
        at_x, at_y = corner(i, 1.0)
        side = 0 if abs(at_x - x) < 1 else (1 if at_x > x else -1)
        first = at_y - 24 if i == 0 else at_y + 16
        where = at_x + 20 * side
        parts.append(svg.text(where, first, name, "strong middle"))
        parts.append(svg.text(where, first + 15, value, "middle"))
        if ends:
            near_x, near_y = corner(i, 0.18)
            nudge = (10.0, -6.0) if i == 0 else (0.0, 14.0)
            class_ = "note" if i == 0 else ("note end" if side < 0 else "note")
            parts.append(svg.text(near_x + nudge[0], near_y + nudge[1], ends[i], class_))
    description = "; ".join(f"{name}: {value}" for name, value, _ in axes)
    return svg.image(ident, title, description, width, height, parts)


def bars(
    ident: str,
    title: str,
    names: Sequence[str],
    counts: Sequence[float],
    expected: Sequence[float],
    colour: int = 0,
) -> svg.Markup:
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
    class_ = f"fill s{colour % svg.NUM_COLOURS}"
    parts: list[str] = []
    if len(counts) > MOST_ROWS:
        height, pitch = 140.0, width / len(counts)
        y = Scale(0.0, max(top, 1.0), height - 4, 8.0)
        for i, count in enumerate(counts):
            parts.append(
                svg.rect(i * pitch, y(count), max(0.3, 0.9 * pitch), y(0) - y(count), class_)
            )
        if expected:
            where = " ".join(
                f"{svg.coordinate(i * pitch + side)},{svg.coordinate(y(value))}"
                for i, value in enumerate(expected)
                for side in (0.0, pitch)
            )
            parts.append(svg.element("polyline", points=where, class_="mark hollow"))
        return svg.image(ident, title, title, width, height, parts)
    left = min(120.0, max(text_width(name) for name in names) + 10)
    pitch = 19.0
    x = Scale(0.0, max(top, 1e-12), left, width - 46)
    for i, (name, count) in enumerate(zip(names, counts, strict=True)):
        at_y = 4 + i * pitch
        fits = left < 120 or text_width(name) <= left - 10
        short = name if fits else name[: int((left - 18) / 7.9)] + "…"
        parts.append(svg.text(left - 6, at_y + 12, short, "end"))
        parts.append(svg.rect(left, at_y + 2, x(count) - left, pitch - 6, class_))
        end = max(x(count), x(expected[i]) if expected else 0.0)
        parts.append(svg.text(end + 5, at_y + 12, f"{count:,.0f}", "note"))
        if expected:
            parts.append(
                svg.line(x(expected[i]), at_y, x(expected[i]), at_y + pitch - 2, class_="mark")
            )
    parts.append(svg.line(left, 2, left, 4 + len(counts) * pitch, class_="axis"))
    told = "; ".join(f"{name}: {count:,.0f}" for name, count in zip(names, counts, strict=True))
    return svg.image(ident, title, told, width, 8 + len(counts) * pitch, parts)


def scatter(
    ident: str,
    title: str,
    points: Iterable[tuple[float, float]],
    bounds: tuple[float, float],
    colour: int = 0,
) -> svg.Markup:
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
    parts: list[str] = [
        svg.rect(frame.left, frame.top, side - 6 - margin, side - 6 - margin, "frame")
    ]
    for tick in x.ticks(4):
        parts.append(svg.text(x(tick), side - 8, tick_text(tick), "note middle"))
        parts.append(svg.text(margin - 4, y(tick) + 4, tick_text(tick), "note end"))
    inside = [p for p in points if all(bounds[0] <= value <= bounds[1] for value in p)]
    dots = "".join(f"M{x(a):.1f} {y(b):.1f}h0" for a, b in inside)
    parts.append(svg.element("path", d=dots, class_=f"dots s{colour % svg.NUM_COLOURS}"))
    return svg.image(ident, title, f"{title}: {len(inside)} points", side, side, parts)
