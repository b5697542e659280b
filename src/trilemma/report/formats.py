"""Numbers as a reader likes them: few digits, units that suit, intervals to their own precision."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

from trilemma.metrics import Record
from trilemma.report.intervals import interval_of

__all__ = [
    "NONE",
    "amount",
    "duration",
    "figure",
    "listed",
    "percent",
    "plural",
    "plus_minus",
    "record_text",
    "shortened",
    "size_text",
    "spread_text",
]

NONE = "–"
"""What stands where there is no figure."""


def figure(value: float | None, digits: int = 3) -> str:
    """A number with so many significant digits, thousands apart; a dash if there is none."""
    if value is None or not math.isfinite(value):
        return NONE
    if value == 0:
        return "0"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(places, 6)}f}"


def amount(value: int) -> str:
    """A count in few characters: 950, 12 k, 1.1 M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e4)):
        if value >= size:
            return f"{figure(value / (1e3 if unit == 'k' else size), 2)} {unit}"
    return f"{value:,}"


def size_text(value: int) -> str:
    """Bytes in decimal units: 4.4 MB."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{figure(value / size, 2)} {unit}"
    return f"{value} B"


def duration(milliseconds: float) -> str:
    """A time in the unit that suits it: 2.2 ms, 0.95 s, 4.1 min."""
    if not math.isfinite(milliseconds):
        return NONE
    if milliseconds < 500:
        return f"{figure(milliseconds, 2)} ms"
    seconds = milliseconds / 1000
    return f"{figure(seconds, 2)} s" if seconds < 120 else f"{figure(seconds / 60, 2)} min"


def percent(share: float) -> str:
    """A share in percent, with one decimal."""
    return f"{100 * share:.1f} %"


def plural(number: int, word: str) -> str:
    """``1 call``, ``4 calls``."""
    return f"{number:,} {word}" + ("" if number == 1 else "s")


def listed(words: Sequence[str], most: int = 12) -> str:
    """``a, b and c``; long lists end in how many more there are."""
    if len(words) > most:
        return f"{', '.join(words[:most])} and {len(words) - most} more"
    return " and ".join(part for part in (", ".join(words[:-1]), *words[-1:]) if part)


def record_text(record: Record | None, digits: int = 3) -> str:
    """A value with half of its 95 % interval, both to the digits that the interval allows."""
    if record is None:
        return NONE
    low, value, high = interval_of(record)
    if record.name == "num_modes" or not _has_ends(low, high):
        return _alone(record, digits)
    if max(high - value, value - low) > 1.15 * min(high - value, value - low):
        return spread_text(record)
    return plus_minus(value, (high - low) / 2)


def plus_minus(value: float, reach: float) -> str:
    """A value and half of its interval, 1.213 ± 0.025; the value alone where that is not known."""
    if not (math.isfinite(reach) and reach > 0):
        return figure(value)
    places = _places(reach)
    return f"{value:,.{places}f} ± {reach:.{places}f}"


def spread_text(record: Record) -> str:
    """A value with both ends of its 95 % interval: 0.86 (0.76 to 0.96)."""
    low, value, high = interval_of(record)
    if not _has_ends(low, high):
        return _alone(record, 3)
    reach = max(high - value, value - low)
    places = 0 if record.name == "num_modes" else max(0, -math.floor(math.log10(reach / 3)))
    return f"{value:,.{places}f} ({low:,.{places}f} to {high:,.{places}f})"


def _alone(record: Record, digits: int) -> str:
    return f"{record.value:,.0f}" if record.name == "num_modes" else figure(record.value, digits)


def _has_ends(low: float, high: float) -> bool:
    return math.isfinite(low) and math.isfinite(high) and low < high


def _places(reach: float) -> int:
    """Decimals that half of a 95 % interval allows."""
    return min(6, max(0, 1 - math.floor(math.log10(reach))))


def shortened(text: str, most: int = 300) -> str:
    """An error in one line of bearable length."""
    return textwrap.shorten(text, most, placeholder=" …")
