"""What is read off cells, and which of them may be compared.

Quality, coverage and cost of a cell; the cells that share a protocol; those that no other beats.
Records of different protocols are never ranked or drawn together: ``groups`` keeps them apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from trilemma.metrics import Record
from trilemma.metrics.base import PROTOCOL
from trilemma.report.record import Cell, Report

__all__ = [
    "MEASURES",
    "SEEN",
    "Measure",
    "chosen",
    "coverage_measure",
    "front",
    "groups",
    "missing_classes",
    "plot_batch",
    "protocol",
    "quality_measure",
    "record_of",
]

MISSING = 0.1
SEEN = 20
"""Samples that real data would show of a class for it to be judged."""


@dataclass(frozen=True)
class Measure:
    """How quality or coverage is read off a cell.

    Attributes:
        name: of the record, as ``Cell.value`` knows it.
        short: in a sentence or a table.
        label: for an axis.
        lower_is_better: direction.
    """

    name: str
    short: str
    label: str
    lower_is_better: bool


MEASURES = {
    measure.name: measure
    for measure in (
        Measure("distance", "distance", "distance to real data", True),
        Measure("mode_kl", "unevenness, nats", "unevenness of the modes, nats", True),
        Measure("high_quality", "near a mode", "share of points near a mode", False),
        Measure("precision", "precision", "precision", False),
        Measure("density", "density", "density", False),
        Measure("coverage", "coverage", "coverage", False),
        Measure("recall", "recall", "recall", False),
        Measure("num_modes", "modes found", "modes found", False),
    )
}
QUALITY = ("distance", "high_quality", "mode_kl")
"""What may stand for quality, the first that was measured."""
COVERAGE = ("coverage", "num_modes")


def record_of(cell: Cell, name: str) -> Record | None:
    """The record of a measure, None where there is none or its value is not finite."""
    found = cell.distance if name == "distance" else cell.record(name)
    return None if found is None or not math.isfinite(found.value) else found


def quality_measure(cells: Iterable[Cell]) -> Measure | None:
    """What stands for quality in these cells."""
    return _first_measured(QUALITY, cells)


def coverage_measure(cells: Iterable[Cell]) -> Measure | None:
    """What stands for coverage in these cells."""
    return _first_measured(COVERAGE, cells)


def _first_measured(names: Iterable[str], cells: Iterable[Cell]) -> Measure | None:
    kept = list(cells)
    return next((MEASURES[n] for n in names if any(record_of(cell, n) for cell in kept)), None)


def protocol(record: Record) -> tuple[Any, ...]:
    """All that must agree before two records may be compared."""
    return tuple(getattr(record, key) for key in PROTOCOL)


def groups(cells: Iterable[Cell], names: Sequence[str]) -> list[list[Cell]]:
    """Part cells by the protocols of some records, the largest group first.

    Args:
        cells: to part; those without any of the records are left out.
        names: of measures.
    """
    found: dict[Any, list[Cell]] = {}
    for cell in cells:
        records = [record_of(cell, name) for name in names]
        if any(records):
            key = tuple(None if r is None else protocol(r) for r in records)
            found.setdefault(key, []).append(cell)
    return sorted(found.values(), key=len, reverse=True)


def chosen(report: Report) -> tuple[Cell, ...]:
    """One cell per model that has any: its default, else the best, else the first."""
    found = []
    for model in report.models:
        cells = [cell for cell in report.cells if cell.model == model.name]
        if not cells:
            continue
        best = _best_of([cell for cell in cells if not cell.error])
        default = next((cell for cell in cells if cell.is_default), None)
        found.append(default or best or cells[0])
    return tuple(found)


def _best_of(cells: Sequence[Cell]) -> Cell | None:
    """The cell of the best quality in the largest group that can be compared."""
    measure = quality_measure(cells)
    if measure is None:
        return None
    sign = 1 if measure.lower_is_better else -1
    return min(groups(cells, [measure.name])[0], key=lambda cell: sign * cell.value(measure.name))


def front(cells: Sequence[Cell], cost: Callable[[Cell], float], measure: Measure) -> set[str]:
    """Keys of the cells that no other beats in cost and quality together (Pareto-optimal).

    Args:
        cells: of one protocol.
        cost: lower is better; cells whose cost is NaN take no part.
        measure: quality.
    """
    sign = 1 if measure.lower_is_better else -1
    at = {cell.key: (cost(cell), sign * cell.value(measure.name)) for cell in cells}
    at = {key: pair for key, pair in at.items() if all(map(math.isfinite, pair))}
    return {
        key
        for key, (x, y) in at.items()
        if not any(a <= x and b <= y and (a, b) != (x, y) for a, b in at.values())
    }


def plot_batch(cells: Iterable[Cell]) -> int | None:
    """The largest batch size at which most cells were timed; None if none was."""
    sizes = [speed.batch_size for cell in cells for speed in cell.speed]
    return max(sizes, key=lambda size: (sizes.count(size), size)) if sizes else None


def missing_classes(cell: Cell) -> tuple[int, ...]:
    """Classes that are nearly absent: less than a tenth of their share among real data.

    A class that real data would show fewer than 20 times in this many samples is not judged.

    Args:
        cell: with counts of its samples and of real data; without them nothing is missing.

    Returns:
        Their numbers, from 0.
    """
    drawn, real = sum(cell.class_counts), sum(cell.real_class_counts)
    if not drawn or not real:
        return ()
    pairs = zip(cell.class_counts, cell.real_class_counts, strict=True)
    due = [(count, drawn * share / real) for count, share in pairs]
    return tuple(k for k, (n, m) in enumerate(due) if m >= SEEN and n < MISSING * m)
