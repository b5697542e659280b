"""95 % intervals of records: what the samples that were drawn leave open.

A record has the interval that it was measured with; else it is the value +- 1.96 errors; else the
value alone. Two values are *level* where their intervals meet.

The number of modes found has no interval: it is what these samples hold. How many more a model
would show in further samples is bounded by ``modes_of``, for claims only, and printed nowhere.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from trilemma.metrics import Record

__all__ = ["Interval", "interval_of", "lacks_modes", "modes_in_all", "modes_of"]

SHARE = 0.1
"""Of an equal share: a mode that is drawn less often does not count as covered."""


class Interval(NamedTuple):
    """A value with the ends of its 95 % interval; both equal it where no error is known."""

    low: float
    value: float
    high: float

    def meets(self, other: Interval) -> bool:
        """Whether two intervals share a value: then neither is clearly the better one."""
        return self.low <= other.high and other.low <= self.high


def interval_of(record: Record) -> Interval:
    """The 95 % interval of a record: its own, or value +- 1.96 errors, or the value alone.

    ``high_quality`` of points without an interval is a share of ``num_fake`` samples. ``num_modes``
    has none.

    Args:
        record: any.

    Returns:
        Its ends, in the record's own unit; all equal where no error is known.
    """
    value = record.value
    if record.name == "num_modes":
        return Interval(value, value, value)
    if record.low is not None and record.high is not None:
        return Interval(record.low, value, record.high)
    if record.name == "high_quality" and record.num_fake:
        reach = 1.96 * math.sqrt(max(value * (1 - value), 0.0) / record.num_fake)
        return Interval(max(value - reach, 0.0), value, min(value + reach, 1.0))
    reach = 1.96 * (record.error or 0.0)
    return Interval(value - reach, value, value + reach)


def modes_of(record: Record) -> Interval:
    r"""How many modes a model covers, by the number that so many samples hit.

    The low end is certain: the modes that were hit. The high end allows for those that were missed
    by chance. A mode is covered if it is drawn at least a tenth as often as one of M equal modes;
    then n samples miss it with a probability of at most q = (1 - 1 / (10 M))^n. Of c covered modes
    about c (1 - q) are hit, give or take 1.96 sqrt(M q (1 - q)), so that in 95 cases of 100, or
    nearly,

        c <= (hit + 1.96 sqrt(M q (1 - q))) / (1 - q), and c <= M.

    With 25 modes, 2500 samples leave nothing open (q = 5e-5), and 100 nearly all (q = 0.67).

    Args:
        record: ``num_modes`` of n samples, ``num_fake``; where M is not known the count alone.

    Returns:
        Numbers of modes, not rounded.
    """
    hit, modes, num = record.value, modes_in_all(record), record.num_fake
    if not modes:
        return Interval(hit, hit, hit)
    missed = (1 - SHARE / modes) ** num
    reach = 1.96 * math.sqrt(modes * missed * (1 - missed))
    most = modes if missed == 1 else (hit + reach) / (1 - missed)
    return Interval(hit, hit, max(hit, min(most, modes)))


def modes_in_all(record: Record) -> float | None:
    """The number M of modes that a record ``num_modes`` counts, in old ones kept as their floor."""
    return record.floor if record.most is None else record.most


def lacks_modes(record: Record) -> bool:
    """Whether a record ``num_modes`` shows fewer than as many perfect samples do.

    Of M equal modes n samples miss each with the probability q = (1 - 1 / M)^n, so they show
    M (1 - q) of them, give or take 1.96 sqrt(M q).
    """
    modes = modes_in_all(record)
    if not modes:
        return False
    missed = (1 - 1 / modes) ** record.num_fake
    return record.value < modes * (1 - missed) - 1.96 * math.sqrt(modes * missed)
