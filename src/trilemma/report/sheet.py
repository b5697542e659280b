"""What all sections of the page share: the report, colours of the models, and their pictures."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from trilemma.data.sources import read_arrays
from trilemma.errors import DataError
from trilemma.report import ranking, svg
from trilemma.report.formats import shortened
from trilemma.report.record import Cell, Report
from trilemma.report.svg import Markup, element

__all__ = ["Sheet"]

PAIRS = ("closest", "neighbours", "real_closest", "real_neighbours")

Pictures = dict[str, np.ndarray]


@dataclass(frozen=True)
class Sheet:
    """A report to be written as a page.

    Args:
        report: what was measured.
        folder: where the pictures lie.
    """

    report: Report
    folder: Path
    _read: dict[str, Pictures | str] = field(default_factory=dict, init=False, repr=False)

    @property
    def cells(self) -> tuple[Cell, ...]:
        """One per model."""
        return ranking.chosen(self.report)

    @property
    def good(self) -> list[Cell]:
        """Those of them with figures."""
        return [cell for cell in self.cells if not cell.error and cell.records]

    def colour(self, model: str) -> int:
        """Index of a model, the same in every chart."""
        names = list(dict.fromkeys(model.name for model in self.report.models))
        return names.index(model) if model in names else 0

    def key(self, model: str) -> Markup:
        """The marker of a model, as in the charts."""
        shape = svg.marker(self.colour(model), 8, 8, 5.0, True)
        return element("svg", shape, viewBox="0 0 16 16", class_="key", aria_hidden="true")

    def pictures(self, cell: Cell) -> Pictures | str:
        """Arrays beside the report that belong to a cell, or a sentence why there are none."""
        if cell.pictures not in self._read:
            self._read[cell.pictures] = _read(self.folder, cell.pictures)
        return self._read[cell.pictures]


def _read(folder: Path, name: str) -> Pictures | str:
    if not (folder / name).exists():
        return f"No pictures: {name} is not beside the report."
    try:
        found = read_arrays(folder / name, ["samples"], PAIRS)
    except DataError as error:
        return f"No pictures: {name} cannot be read ({shortened(str(error), 120)})."
    samples = found["samples"]
    if samples.ndim not in (2, 4) or not len(samples):
        return f"No pictures: {name} holds no samples."
    return found
