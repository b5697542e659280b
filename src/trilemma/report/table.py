"""The table that compares cells: its columns, its entries, and which of them are best.

Each figure stands beside what real data score, and the best of a column is marked together with
all whose 95 % intervals meet it. Figures of different protocols are not ranked, and neither is the
quality of samples that the check for copies of training data flags.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from trilemma.metrics import Record
from trilemma.report.formats import (
    NONE,
    amount,
    figure,
    listed,
    percent,
    plus_minus,
    record_text,
    size_text,
)
from trilemma.report.intervals import interval_of, modes_in_all
from trilemma.report.ranking import SEEN, groups, missing_classes, protocol, record_of
from trilemma.report.record import Cell, Model, Report
from trilemma.report.words import (
    FIGURES,
    family,
    judged_classes,
    rung_name,
    short_protocol,
    things,
)

__all__ = ["Column", "Entry", "Row", "Table", "table"]

QUALITY = ("distance", "high_quality", "kd", "is")
CAPPED = ("precision", "density", "is")
"""Above the floor they count as level with it: real data are not surpassed by being tidier."""
SECOND = ("kd", "is")
"""Second opinions, which only the table of all cells shows."""
CLOSE = 0.02
LEAST_MEMORY = 1_000_000
"""Bytes; an operating system reports less than this only by chance."""
FLAG = "†"
SUSPECT = (
    f"{FLAG} coverage is below half of what real data score: precision and density can then be "
    "high for copies of few data, so do not read them as quality."
)
COPY = "‡"
COPIED = (
    f"{COPY} signs of copying: the check against training data is flagged, and copies score well "
    "without being new, so this quality is not ranked."
)
RARE = "Modes found: a class that is drawn below a tenth of its share in real data is not found."
UNJUDGED = f"Classes that as many real data show fewer than {SEEN} times are not judged."


@dataclass(frozen=True)
class Entry:
    """One figure of a table.

    Attributes:
        text: as it is shown.
        small: below it, in small letters.
        value: to compare; NaN if it cannot be compared.
        low: lower end of its interval.
        high: upper end.
        is_best: whether it is the best of its column, or level with the best.
    """

    text: str = NONE
    small: str = ""
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    is_best: bool = False


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        group: heading over several columns.
        title: heading.
        lower_is_better: direction.
        entry: makes the figure of a cell.
        record: name of the record behind it, to see whether cells can be compared.
    """

    group: str
    title: str
    lower_is_better: bool
    entry: Callable[[Model, Cell], Entry]
    record: str = ""


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        title: of the line.
        about: in small letters below.
        entries: one per column; empty for a failure.
        error: why there are no figures.
        is_reference: the line of real data.
        cell: what the line is about; None for real data and models that did not load.
    """

    title: str
    about: str
    entries: tuple[Entry, ...] = ()
    error: str = ""
    is_reference: bool = False
    cell: Cell | None = None


@dataclass(frozen=True)
class Table:
    """A table whose columns all hold something.

    Attributes:
        columns: headings.
        rows: lines.
        caption: what belongs below it: how to read it, and the protocol.
    """

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    caption: str


def table(report: Report, cells: Sequence[Cell]) -> Table:
    """Compare cells; models that did not load, and cells that failed, say why.

    The table of all cells also has the kernel distance and the class score.

    Args:
        report: that they belong to.
        cells: lines, in this order.
    """
    models = {model.name: model for model in report.models}
    good = [cell for cell in cells if not cell.error]
    is_whole = len(cells) >= len(report.cells)
    columns = [
        column
        for column in _columns(report)
        if (is_whole or column.record not in SECOND)
        and any(_holds(column, models, cell) for cell in good)
    ]
    rows = [_row(models[cell.model], cell, columns) for cell in cells if cell.model in models]
    seen = {cell.model for cell in cells}
    rows += [
        Row(m.name, family(m), error=m.error or "no cell was measured")
        for m in report.models
        if m.name not in seen and (m.error or not any(c.model == m.name for c in report.cells))
    ]
    order = {name: i for i, name in enumerate(models)}
    rows.sort(key=lambda row: order.get(row.cell.model if row.cell else row.title, len(order)))
    reference = _reference(columns, good)
    marked = _marked(rows, columns, good)
    caption = _caption(columns, rows) if columns else ""
    return Table(tuple(columns), (*reference, *marked), caption)


def _caption(columns: Sequence[Column], rows: Sequence[Row]) -> str:
    """How to read the table, and the protocol of what it shows."""
    entries = [entry for row in rows for entry in row.entries]
    cells = [row.cell for row in rows if row.cell is not None and row.entries]
    parts = [
        "± is half of a 95 % interval. Bold: best of its column, and all that cannot be told from "
        "the best, because their intervals meet."
    ]
    if any(entry.small.startswith("floor") for entry in entries):
        parts.append(
            "Floor: what as many real data score in the place of samples; below it, differences "
            "mean nothing."
        )
    capped = [FIGURES[name].short for name in CAPPED if name in {c.record for c in columns}]
    if capped:
        told = listed(capped).capitalize()
        parts.append(f"{told} above what real data score count as level with it.")
    if any(FLAG in entry.text for entry in entries):
        parts.append(SUSPECT)
    if any(COPY in entry.text for entry in entries):
        parts.append(COPIED)
    if any(c.record == "num_modes" for c in columns) and any(c.class_counts for c in cells):
        parts.append(RARE)
        if any(len(judged_classes(c)) < len(c.class_counts) for c in cells):
            parts.append(UNJUDGED)
    return " ".join([*parts, short_protocol(cells, *filter(None, (c.record for c in columns)))])


def _columns(report: Report) -> list[Column]:
    """All columns, also those that turn out to be empty."""
    sizes = sorted({speed.batch_size for cell in report.measured() for speed in cell.speed})
    timed = sizes if len(sizes) <= 2 else [sizes[0], sizes[-1]]
    noun = things(report)[:-1]
    shown = {
        "Quality": ("distance", *SECOND, "high_quality"),
        "Fidelity": ("precision", "density"),
        "Coverage": ("coverage", "recall", "num_modes", "mode_kl"),
    }
    found = [
        Column(group, FIGURES[name].short, FIGURES[name].lower_is_better, _entry_of(name), name)
        for group, names in shown.items()
        for name in names
    ]
    found.append(Column("Speed", "network calls", True, _calls))
    for size in timed:
        which = f"ms per {noun}" if size == 1 else f"ms, batch of {size}"
        found.append(Column("Speed", which, True, _of_time(size)))
    found += [
        Column("Size", "memory", True, _memory),
        Column("Size", "parameters", True, _parameters),
        Column("Likelihood", _likelihood_unit(report), True, _likelihood),
    ]
    return found


def _entry_of(name: str) -> Callable[[Model, Cell], Entry]:
    if name == "num_modes":
        return _modes

    def entry(model: Model, cell: Cell) -> Entry:
        record = record_of(cell, name)
        if record is None:
            return Entry()
        low, value, high = interval_of(record)
        small = f"floor {figure(record.floor, 2)}" if name == "distance" else ""
        text = _text_of(name, record)
        if name in QUALITY and cell.memorisation.get("is_flagged"):
            return Entry(f"{text} {COPY}", small)
        if name in ("precision", "density") and _is_suspect(cell):
            return Entry(f"{text} {FLAG}")
        if name in CAPPED and record.floor is not None:
            low, value, high = (min(x, record.floor) for x in (low, value, high))
        return Entry(text, small, value, low, high)

    return entry


def _text_of(name: str, record: Record) -> str:
    if name in ("distance", *SECOND):
        return record_text(record)
    if name == "high_quality":
        return percent(record.value)
    return figure(record.value) if name == "mode_kl" else f"{record.value:.2f}"


def _is_suspect(cell: Cell) -> bool:
    """Whether coverage is so low that precision and density mean nothing."""
    found = cell.record("coverage")
    return found is not None and found.floor is not None and found.value < 0.5 * found.floor


def _modes(model: Model, cell: Cell) -> Entry:
    record = record_of(cell, "num_modes")
    if record is not None:
        low, value, high = interval_of(record)
        in_all = modes_in_all(record) or value
        return Entry(f"{value:,.0f} of {in_all:,.0f}", "", value, low, high)
    judged, rare = judged_classes(cell), set(missing_classes(cell))
    if not judged:
        return Entry()
    hit = sum(cell.class_counts[i] > 0 and i not in rare for i in judged)
    return Entry(f"{hit:,} of {len(judged):,}", "", hit)


def _calls(model: Model, cell: Cell) -> Entry:
    return Entry(f"{cell.nfe:,}", "", cell.nfe) if cell.nfe else Entry()


def _of_time(batch_size: int) -> Callable[[Model, Cell], Entry]:
    def entry(model: Model, cell: Cell) -> Entry:
        for speed in cell.speed:
            if speed.batch_size == batch_size:
                value = speed.ms_per_image
                text = figure(value, 3 if value >= 1 else 2)
                return Entry(text, "", value, speed.fastest, speed.slowest)
        return Entry()

    return entry


def _memory(model: Model, cell: Cell) -> Entry:
    if cell.peak_memory is None:
        return Entry()
    if cell.peak_memory < LEAST_MEMORY:
        return Entry("< 1 MB", "", 0.0, 0.0, LEAST_MEMORY)
    return _nearly(size_text(cell.peak_memory), "", cell.peak_memory)


def _parameters(model: Model, cell: Cell) -> Entry:
    file = f"{size_text(model.size)} file" if model.size else ""
    if not model.num_parameters:
        return Entry(small=file)
    return _nearly(amount(model.num_parameters), file, model.num_parameters)


def _nearly(text: str, small: str, value: float) -> Entry:
    """A size: values that differ by a few percent count as level."""
    return Entry(text, small, value, value * (1 - CLOSE), value * (1 + CLOSE))


def _likelihood_unit(report: Report) -> str:
    has_bits = any("bits_per_dim" in model.likelihood for model in report.models)
    return "bits per dim" if has_bits else "nats"


def _likelihood(model: Model, cell: Cell) -> Entry:
    found = model.likelihood
    unit = "bits_per_dim" if found.get("bits_per_dim") is not None else "nats"
    value = found.get(unit)
    if value is None:
        return Entry()
    reach = found.get(f"{unit}_interval")
    kind = str(found.get("kind", ""))
    about = "upper bound" if "bound" in kind else "estimate"
    if "of a density" in kind:
        about += " of a density"
    if unit == "nats":
        about += ", nats"
    if reach is None or not math.isfinite(reach):
        return Entry(figure(value), about, value)
    return Entry(plus_minus(value, reach), about, value, value - reach, value + reach)


def _holds(column: Column, models: Mapping[str, Model], cell: Cell) -> bool:
    model = models.get(cell.model)
    return model is not None and column.entry(model, cell).text != NONE


def _row(model: Model, cell: Cell, columns: Sequence[Column]) -> Row:
    about = ", ".join(part for part in (family(model), rung_name(cell)) if part)
    if cell.error:
        return Row(model.name, about, error=cell.error, cell=cell)
    return Row(model.name, about, tuple(c.entry(model, cell) for c in columns), cell=cell)


def _reference(columns: Sequence[Column], cells: Sequence[Cell]) -> list[Row]:
    """What real data score in the place of samples; only if all cells share the protocol."""
    entries, has_any = [], False
    for column in columns:
        records = [r for cell in cells if column.record and (r := record_of(cell, column.record))]
        if column.record == "num_modes" and not records:
            totals = {len(judged) for c in cells if (judged := judged_classes(c))}
            entries.append(Entry(f"{totals.pop():,}" if len(totals) == 1 else ""))
            continue
        floors = {(protocol(r), r.floor) for r in records if r.floor is not None}
        if len(floors) != 1 or len({protocol(r) for r in records}) != 1:
            entries.append(Entry(""))
            continue
        entries.append(Entry(_floor_text(column.record, records[0].floor or 0.0)))
        has_any = True
    if not has_any:
        return []
    return [Row("real data", "what a perfect model would score", tuple(entries), is_reference=True)]


def _floor_text(name: str, floor: float) -> str:
    if name == "high_quality":
        return percent(floor)
    if name == "num_modes":
        return f"{floor:,.0f}"
    if name in ("precision", "density", "coverage", "recall", "is"):
        return f"{floor:.2f}"
    return figure(floor, 2)


def _marked(rows: Sequence[Row], columns: Sequence[Column], cells: Sequence[Cell]) -> list[Row]:
    """Mark the best of each column, and all whose intervals meet it."""
    marks: set[tuple[int, int]] = set()
    for k, column in enumerate(columns):
        if column.record and len(groups(cells, [column.record])) > 1:
            continue
        sign = 1 if column.lower_is_better else -1
        figures = {i: row.entries[k] for i, row in enumerate(rows) if row.entries}
        figures = {i: entry for i, entry in figures.items() if math.isfinite(entry.value)}
        if len(figures) < 2:
            continue
        best = min(figures.values(), key=lambda entry: sign * entry.value)
        if column.group == "Likelihood" and not _is_ranked(list(figures.values()), best):
            continue
        marks |= {(i, k) for i, entry in figures.items() if _is_level(entry, best)}
        if len({entry.text for entry in figures.values()}) == 1:
            marks -= {(i, k) for i in figures}
    return [
        replace(
            row,
            entries=tuple(replace(e, is_best=(i, k) in marks) for k, e in enumerate(row.entries)),
        )
        for i, row in enumerate(rows)
    ]


def _is_ranked(entries: Sequence[Entry], best: Entry) -> bool:
    """Whether likelihoods may be ranked: in one unit, and no bound behind an estimate.

    What lies under a bound may be better than an estimate that the bound is worse than.
    """
    has_one_unit = len({entry.small.endswith("nats") for entry in entries}) == 1
    is_bound = ["bound" in entry.small for entry in entries]
    return has_one_unit and ("bound" in best.small or not any(is_bound))


def _is_level(entry: Entry, best: Entry) -> bool:
    """Whether an entry is the best or looks the same, or its interval meets the best's."""
    if entry.value == best.value or entry.text == best.text:
        return True
    return entry.low <= best.high and best.low <= entry.high  # never with NaN
