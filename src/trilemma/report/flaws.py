"""What a distance does not show: data that are missing among the samples, and copies.

A cell has a *flaw* if

* a class of the data is hardly drawn (``ranking.missing_classes``), or fewer than 98 % of those
  modes are found that as many perfect samples would hit;
* its coverage or its recall is below two thirds of what real data score;
* the check for copies of training data is flagged.

Advice takes no cell with a flaw for good enough; claims leave copies out and name the rest.
"""

from __future__ import annotations

from trilemma.report import ranking, words
from trilemma.report.formats import listed
from trilemma.report.intervals import modes_in_all
from trilemma.report.record import Cell, Report

__all__ = ["copied", "flaws", "is_copied", "missing", "narrow"]

FOUND = 0.98
VARIED = 2 / 3


def flaws(report: Report, cell: Cell) -> tuple[str, ...]:
    """All that keeps a cell from being good enough whatever its quality, in words.

    Args:
        report: that it belongs to.
        cell: with figures.
    """
    found = narrow(cell)
    variety = (f"much of the data is missing among its samples, for {listed(found)}",)
    return (*missing(report, cell), *(variety if found else ()), *copied(cell))


def missing(report: Report, cell: Cell) -> tuple[str, ...]:
    """Classes and modes that a cell does not show, in words.

    Args:
        report: that it belongs to; it names the classes.
        cell: with figures.
    """
    found = []
    names = words.class_names(report, len(cell.class_counts))
    classes = [names[k] for k in ranking.missing_classes(cell)]
    if classes:
        found.append(f"it hardly ever draws {listed(classes)}")
    modes = cell.record("num_modes")
    in_all = None if modes is None else modes_in_all(modes)
    if modes is not None and in_all:
        expected = in_all * (1 - (1 - 1 / in_all) ** modes.num_fake)
        if modes.value < FOUND * expected:
            found.append(f"it shows {modes.value:.0f} of {in_all:.0f} modes")
    return tuple(found)


def narrow(cell: Cell) -> tuple[str, ...]:
    """Words on a coverage or recall far below that of real data.

    Args:
        cell: with figures.
    """
    found = [record for name in ("coverage", "recall") if (record := cell.record(name))]
    return tuple(
        f"{record.name} is {record.value:.2f} where real data score {record.floor:.2f}"
        for record in found
        if record.floor is not None and record.value < VARIED * record.floor
    )


def is_copied(cell: Cell) -> bool:
    """Whether the check for copies of training data is flagged.

    Args:
        cell: any; without the check nothing is flagged.
    """
    return bool(cell.memorisation.get("is_flagged"))


def copied(cell: Cell) -> tuple[str, ...]:
    """Words on a check for copies of training data that is flagged.

    Args:
        cell: any.
    """
    if not is_copied(cell):
        return ()
    found = words.copies_found(cell.memorisation)
    return (f"signs of copying, for {found}" if found else "signs of copying",)
