"""95 % intervals of records: what the samples that were drawn leave open.

A record has the interval that it was measured with; else it is the value +- 1.96 errors; else the
value alone. Two values are *level* where their intervals meet.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from trilemma.metrics import Record

__all__ = ["Interval", "interval_of"]


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

    Points have no errors of their own: ``high_quality`` is a share of ``num_fake`` samples, and the
    error of ``num_modes`` is the root of the number of modes that were missed.
    """
    if record.low is not None and record.high is not None:
        return Interval(record.low, record.value, record.high)
    value, error, most = record.value, record.error or 0.0, math.inf
    if record.name == "num_modes" and record.floor is not None:
        error, most = math.sqrt(max(record.floor - value, 0.0)), record.floor
    if record.name == "high_quality" and record.num_fake:
        error, most = math.sqrt(max(value * (1 - value), 0.0) / record.num_fake), 1.0
    return Interval(value - 1.96 * error, value, min(value + 1.96 * error, most))
