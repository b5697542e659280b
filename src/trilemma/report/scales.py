"""Axes as numbers: round ticks, and maps from values to positions.

Nothing here draws. Values that are not finite are left out of a scale's range.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

__all__ = ["Scale", "log_ticks", "nice_ticks", "tick_text"]

WIDE = 20.0
"""Values whose largest is this many times the smallest are drawn on a log scale."""


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
