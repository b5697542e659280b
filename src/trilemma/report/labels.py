"""Where labels go: boxes that neither overlap nor leave the chart."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Box", "along", "anywhere", "place", "text_width"]


def text_width(text: str, size: float = 12.0) -> float:
    """Upper estimate of a text's width in a sans-serif face, in the units of its size."""
    narrow = sum(character in "ijl.,:;|'!()[]- " for character in text)
    return size * (0.66 * (len(text) - narrow) + 0.42 * narrow)


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


def anywhere(
    x: float, y: float, size: tuple[float, float], taken: Sequence[Box], within: Box
) -> Box | None:
    """Find the free room for a label that is nearest to a point, wherever it is.

    Args:
        x: of the point.
        y: of the point.
        size: width and height of the label.
        taken: where it must not lie.
        within: where it must lie.

    Returns:
        The label's box, to a few pixels; None if there is no room.
    """
    width, height = size
    across = max(0, int((within.right - within.left - width) / 6) + 1)
    down = max(0, int((within.bottom - within.top - height) / 3) + 1)
    found = []
    for i, j in itertools.product(range(across), range(down)):
        left, top = within.left + 6 * i, within.top + 3 * j
        box = Box(left, top, left + width, top + height)
        if within.holds(box) and not any(box.hits(other) for other in taken):
            found.append(box)
    return min(
        found,
        key=lambda box: math.dist(
            (x, y), (min(max(x, box.left), box.right), min(max(y, box.top), box.bottom))
        ),
        default=None,
    )


def along(corners: Sequence[tuple[float, float]]) -> list[Box]:
    """Small boxes along a line, which labels should not cover."""
    found = []
    for a, b in itertools.pairwise(corners):
        steps = max(1, int(math.dist(a, b) / 6))
        for i in range(1, steps):
            at_x, at_y = (s + (e - s) * i / steps for s, e in zip(a, b, strict=True))
            found.append(Box(at_x - 1, at_y - 1, at_x + 1, at_y + 1))
    return found
