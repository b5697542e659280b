"""Pieces of SVG and HTML as text: elements, and the marks that charts are made of.

Whatever is text is escaped, unless it is ``Markup`` already, that is, made by ``element``. The same
arguments always give the same bytes. Colours are classes (``s0`` to ``s6``, ``ink``, ``grid``, ...)
that the page's style sheet defines for light and dark; series also differ by the shape of their
markers.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable

__all__ = [
    "NUM_COLOURS",
    "Markup",
    "coordinate",
    "element",
    "image",
    "join",
    "line",
    "marker",
    "rect",
    "text",
]

NUM_COLOURS = 7
NUM_SHAPES = 6
VOID = ("br", "col", "hr", "img", "link", "meta", "wbr")


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
            shown = coordinate(value) if isinstance(value, int | float) else html.escape(value)
            written.append(f'{key.rstrip("_").replace("_", "-")}="{shown}"')
    head = " ".join(written)
    return Markup(f"<{head}>" if name in VOID else f"<{head}>{join(children)}</{name}>")


def image(
    ident: str, title: str, description: str, width: float, height: float, parts: Iterable[str]
) -> Markup:
    """An image with its title and description."""
    return element(
        "svg",
        element("title", title, id=f"{ident}-title"),
        element("desc", description, id=f"{ident}-desc"),
        *parts,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {coordinate(width)} {coordinate(height)}",
        role="img",
        aria_labelledby=f"{ident}-title {ident}-desc",
        style=f"max-width: {coordinate(width)}px",
    )


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """Draw a straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def rect(x: float, y: float, width: float, height: float, class_: str) -> Markup:
    """Draw a rectangle."""
    return element("rect", x=x, y=y, width=width, height=height, class_=class_)


def text(x: float, y: float, shown: str, class_: str = "") -> Markup:
    """Write a text whose base line begins, ends or is centred at a point, as the class says."""
    return element("text", shown, x=x, y=y, class_=class_ or None)


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
    corners, start, scales = {
        1: (4, math.pi / 4, (1.25,)),
        2: (3, -math.pi / 2, (1.35,)),
        3: (4, 0.0, (1.3,)),
        4: (3, math.pi / 2, (1.35,)),
        5: (8, 0.0, (1.3, 0.55)),  # a star of four points
    }[shape]
    angles = [start + 2 * math.pi * i / corners for i in range(corners)]
    radii = [radius * scales[i % len(scales)] for i in range(corners)]
    where = " ".join(
        f"{coordinate(x + r * math.cos(a))},{coordinate(y + r * math.sin(a))}"
        for a, r in zip(angles, radii, strict=True)
    )
    return element("polygon", *about, points=where, class_=class_)


def coordinate(value: float) -> str:
    """Two decimals at most, no minus zero."""
    return f"{round(value, 2) + 0.0:g}" if abs(value) < 1e4 else f"{value:.0f}"
