"""What a report says in words and tables, for the page and for Markdown alike.

A table compares one cell of each model: as it draws by default, or, where that was not asked for,
its best. Each figure stands beside what real data score, and the best of a column is marked
together with all whose 95 % intervals meet it. Records of different protocols are never ranked or
drawn together: ``groups`` keeps them apart, and ``warnings`` says so.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from trilemma.metrics import Record
from trilemma.metrics.base import PROTOCOL
from trilemma.report.claims import interval_of, missing_classes
from trilemma.report.record import FAMILIES, Cell, Model, Report

__all__ = [
    "COVERAGE",
    "DEFINITIONS",
    "LIMITS",
    "MEASURES",
    "NONE",
    "QUALITY",
    "Column",
    "Entry",
    "Measure",
    "Row",
    "Table",
    "amount",
    "best_of",
    "cell_facts",
    "cell_name",
    "chosen",
    "class_names",
    "copies",
    "coverage_measure",
    "defined",
    "duration",
    "family",
    "figure",
    "front",
    "groups",
    "hardware",
    "introduction",
    "listed",
    "missing",
    "plot_batch",
    "plural",
    "protocol",
    "protocols",
    "quality_measure",
    "record_of",
    "record_text",
    "rung_name",
    "short_protocol",
    "shortened",
    "size_text",
    "table",
    "things",
    "warnings",
]

NONE = "–"
"""What stands where there is no figure."""


@dataclass(frozen=True)
class Measure:
    """How quality or coverage is read off a cell.

    Attributes:
        name: of the record, as ``Cell.value`` knows it.
        label: for an axis.
        lower_is_better: direction.
    """

    name: str
    label: str
    lower_is_better: bool


MEASURES = {
    measure.name: measure
    for measure in (
        Measure("distance", "distance to real data", True),
        Measure("mode_kl", "unevenness of the modes, nats", True),
        Measure("high_quality", "share of points near a mode", False),
        Measure("coverage", "coverage", False),
        Measure("num_modes", "modes found", False),
        Measure("precision", "precision", False),
        Measure("density", "density", False),
        Measure("recall", "recall", False),
        Measure("inception_score", "Inception score", False),
    )
}
QUALITY = ("distance", "high_quality", "mode_kl")
"""What may stand for quality, the first that was measured."""
COVERAGE = ("coverage", "num_modes")

DEFINITIONS = {
    "distance": "Fréchet distance: how far drawn data lie from real data in what a feature network "
    "sees, their mean and their variation; lower is better, and real data score the floor, not 0.",
    "precision": "Precision: share of drawn data that look like some real datum. Read it only "
    "beside coverage, for a model can score high here with copies of few data.",
    "density": "Density: as precision, but counts how many real data each drawn one lies near; "
    "about 1 for real data.",
    "recall": "Recall: share of real data that lie near some drawn datum.",
    "coverage": "Coverage: share of real data whose nearest surroundings hold a drawn datum; what "
    "is low here is missing among the samples.",
    "num_modes": "Modes found: kinds of data (classes, or centres of a mixture) of which at least "
    "one was drawn.",
    "mode_kl": "Unevenness of the modes: divergence of the frequencies of the modes from those of "
    "real data, in nats; even a perfect sampler scores its floor.",
    "high_quality": "Near a mode: share of points within three standard deviations of the nearest "
    "centre of the mixture.",
    "inception_score": "Inception score: how sure a classifier is of each picture, and how evenly "
    "it sees all classes; it does not look at real data.",
    "calls": "Network calls: how often the network runs to draw one datum. Times depend on the "
    "machine, calls do not.",
    "time": "Time: median time to draw one datum, networks loaded and warm; alone in a batch, and "
    "in a larger batch, whose time is shared.",
    "memory": "Memory: what drawing one batch adds to the memory of the loaded model.",
    "parameters": "Parameters: numbers learned, of the networks that drawing needs.",
    "likelihood": "Likelihood: how well the model predicts real data it has not seen, in bits per "
    "dimension or nats, lower is better; an upper bound can only be too high. GANs have none.",
}
"""One sentence or two on each figure, for a reader without background."""

LIMITS = (
    "Distances depend on the feature network, on the number of samples and on the split; they "
    "cannot be compared with distances of other reports or papers, unless all of these are the "
    "same.",
    "Intervals tell how far a figure would move with other samples of the same model; they do not "
    "tell how far it would move if the model were trained again.",
    "Times hold for this machine. Network calls hold everywhere, but a call of a large network "
    "costs more than one of a small network.",
    "A nearest training datum far away rules out plain copies, not other ways of leaking data.",
)
FLAG = "†"
SUSPECT = (
    f"{FLAG} coverage is below half of what real data score: precision and density can then be "
    "high for copies of few data, so do not read them as quality."
)


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
        floor: makes what real data score; empty for columns where that means nothing.
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
        notes: sentences that belong below it.
    """

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]


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


def plural(number: int, word: str) -> str:
    """``1 call``, ``4 calls``."""
    return f"{number:,} {word}" + ("" if number == 1 else "s")


def listed(words: Sequence[str], most: int = 12) -> str:
    """``a, b and c``; long lists end in how many more there are."""
    if len(words) > most:
        return f"{', '.join(words[:most])} and {len(words) - most} more"
    return " and ".join(part for part in (", ".join(words[:-1]), *words[-1:]) if part)


def family(model: Model) -> str:
    """Kind of a model in words."""
    return FAMILIES.get(model.family, model.method or model.family)


def things(report: Report) -> str:
    """What is drawn."""
    return "points" if report.data.get("kind") == "points" else "images"


def cell_name(cell: Cell) -> str:
    """Model, sampler and calls: what a reader calls a cell."""
    return f"{cell.model}, {rung_name(cell)}"


def rung_name(cell: Cell) -> str:
    """Sampler and how far it is driven, from the key: ``gddim, 20 steps``."""
    sampler = cell.sampler.replace("_", "-")
    if cell.steps is not None:
        return f"{sampler}, {plural(cell.steps, 'step')}"
    _, _, tolerance = cell.key.rpartition("/")[2].partition("-")
    return f"{sampler}, tolerance {tolerance}" if tolerance else sampler


def record_of(cell: Cell, name: str) -> Record | None:
    """The record of a measure, None where there is none or its value is not finite."""
    found = cell.distance if name == "distance" else cell.record(name)
    return None if found is None or not math.isfinite(found.value) else found


def record_text(record: Record | None, digits: int = 3) -> str:
    """A value with half of its 95 % interval, both to the digits that the interval allows."""
    if record is None:
        return NONE
    low, value, high = interval_of(record)
    if record.name == "num_modes":
        return f"{value:,.0f}"
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return figure(value, digits)
    up, down = high - value, value - low
    places = min(6, max(0, 1 - math.floor(math.log10(max(up, down)))))
    if max(up, down) > 1.15 * min(up, down):
        return f"{value:,.{places}f} ({low:,.{places}f} to {high:,.{places}f})"
    return f"{value:,.{places}f} ± {(high - low) / 2:.{places}f}"


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


def warnings(report: Report) -> tuple[str, ...]:
    """Sentences on records whose protocols differ, so that they cannot be compared."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, measure in MEASURES.items():
        parts = groups(report.measured(), [name])
        if len(parts) < 2:
            continue
        first = record_of(parts[0][0], name)
        for part in parts[1:]:
            other = record_of(part[0], name)
            differing = ", ".join(
                f"{key} is {getattr(other, key)!r} instead of {getattr(first, key)!r}"
                for key in PROTOCOL
                if getattr(other, key) != getattr(first, key)
            )
            who = listed([cell_name(cell) for cell in part], 6)
            found.setdefault((who, differing), []).append(measure.label)
    return tuple(
        f"Measured differently for {who} than for the others: {listed(labels)}; {differing}. These "
        "figures are not ranked and not drawn together; measure all under one protocol."
        for (who, differing), labels in found.items()
    )


def chosen(report: Report) -> tuple[Cell, ...]:
    """One cell per model that has any: its default, else the best, else the first."""
    found = []
    for model in report.models:
        cells = [cell for cell in report.cells if cell.model == model.name]
        if not cells:
            continue
        best = best_of([cell for cell in cells if not cell.error])
        default = next((cell for cell in cells if cell.is_default), None)
        found.append(default or best or cells[0])
    return tuple(found)


def best_of(cells: Sequence[Cell]) -> Cell | None:
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


def missing(report: Report, cell: Cell) -> str:
    """Which classes are not drawn, in words; empty where classes were not counted."""
    if not cell.class_counts:
        return ""
    names = class_names(report, len(cell.class_counts))
    absent = [i for i, n in enumerate(cell.class_counts) if n == 0 and _is_real(cell, i)]
    rare = [i for i in missing_classes(cell) if i not in absent]
    if not absent and not rare:
        return f"All {len(cell.class_counts):,} classes are drawn."
    parts = []
    if absent:
        parts.append(f"Never drawn: {listed([names[i] for i in absent])}.")
    if rare:
        parts.append(f"Hardly ever drawn: {listed([names[i] for i in rare])}.")
    return " ".join(parts)


def _is_real(cell: Cell, index: int) -> bool:
    """Whether real data show a class; unknown counts as yes."""
    return index >= len(cell.real_class_counts) or cell.real_class_counts[index] > 0


def class_names(report: Report, count: int) -> list[str]:
    """Names of the classes, numbers where there are no names."""
    names = [str(name) for name in report.data.get("class_names") or ()]
    return names[:count] + [str(i) for i in range(len(names), count)]


def copies(found: Mapping[str, Any]) -> str:
    """What the check for copies of training data came to, in words; empty if it was not made."""
    if not found:
        return ""
    if "share_copied" not in found:
        return f"Not checked: {found.get('note') or 'no reason is given'}."
    share, expected = float(found["share_copied"]), found.get("expected_share")
    verdict = "Signs of copying" if found.get("is_flagged") else "No sign of copying"
    low, high = found.get("low"), found.get("high")
    checked = found.get("num_fake")
    who = "of the samples" if checked is None else f"of {int(checked):,} samples"
    told = f"{verdict}: {_percent(share)} {who}"
    if low is not None and high is not None:
        told += f" (95 % interval {_percent(low)} to {_percent(high)})"
    told += " stand as close to one training image as a copy would"
    if expected is not None:
        told += f"; of real images that were not trained on, {_percent(float(expected))} do"
    if found.get("num_train") is not None:
        told += f". Searched: {int(found['num_train']):,} training images"
    return f"{told}."


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def introduction(report: Report) -> str:
    """One paragraph for a reader who has not seen such a report."""
    count = len({cell.model for cell in report.measured()})
    if not count:
        many = (
            f"None of {_number(len(report.models))} models"
            if len(report.models) > 1
            else "No model"
        )
        return f"{many} could be measured; the table says why."
    what, num = things(report), report.settings.get("num")
    drew = f"{num:,} {what}" if isinstance(num, int) else what
    failed = len(report.models) - count
    who = f"{_number(count).capitalize()} generative model" + ("" if count == 1 else "s")
    each = "" if count == 1 else " each"
    left = f" ({_number(failed)} more could not be measured)" if failed else ""
    return (
        f"{who}{left} drew {drew}{each}, to be held against real data "
        f"({report.data.get('name', '')}). "
        "What is wanted of such a model pulls three ways: quality (do the "
        f"{what} look like real ones?), coverage (is every kind of them drawn?) and speed (what "
        "does one of them cost?). This report measures all three and says which "
        "model to take for what."
    )


def _number(count: int) -> str:
    """A count as a word, while it is small."""
    small = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    return small[count] if count < len(small) else f"{count:,}"


def hardware(report: Report) -> str:
    """Where times were taken."""
    found = report.hardware
    parts = [str(found.get("name") or found.get("device") or "unknown hardware")]
    if found.get("device") and found.get("name"):
        parts.append(f"device {found['device']}")
    if found.get("threads"):
        parts.append(plural(int(found["threads"]), "thread"))
    if found.get("torch"):
        parts.append(f"torch {found['torch']}")
    return ", ".join(parts)


def protocols(report: Report) -> tuple[str, ...]:
    """One sentence per protocol: samples, real data, split, features, what it holds for."""
    found: dict[tuple[Any, ...], list[str]] = {}
    for cell in report.measured():
        for record in cell.records:
            names = found.setdefault((*protocol(record)[1:], record.floor_num_fake), [])
            if record.name not in names:
                names.append(record.name)
    sentences = []
    for (num_fake, num_real, split, extractor, sha256, steps, floor_num), names in found.items():
        real = f" against {num_real:,} real ones" if num_real else ""
        weights = f" (weights {sha256[:8]})" if sha256 else ""
        size = f" of {floor_num:,}" if floor_num else ""
        sentences.append(
            f"{listed(names)}: {num_fake:,} samples{real}, split {split}, features {extractor}"
            f"{weights}, {steps}; floor: real data{size} in the place of samples."
        )
    return tuple(sentences)


def short_protocol(cells: Iterable[Cell]) -> str:
    """Samples, real data, split, features and floor in one sentence, for the caption of a plot."""
    found = dict.fromkeys(
        (record.num_fake, record.num_real, record.split, record.extractor)
        for cell in cells
        for record in cell.records
    )
    told = [
        f"{fake:,} samples{f' against {real:,} real ones' if real else ''}, split {split}, "
        f"features {extractor}"
        for fake, real, split, extractor in found
    ]
    if not told:
        return ""
    return f"Protocol: {'; or '.join(told)}; floor: real data in the place of samples."


def defined(report: Report) -> tuple[str, ...]:
    """Definitions of what this report holds."""
    cells = list(report.measured())
    names = {name for name in MEASURES if any(record_of(cell, name) for cell in cells)}
    if any(cell.class_counts for cell in cells):
        names.add("num_modes")
    if any(cell.nfe for cell in cells):
        names.add("calls")
    if any(cell.speed for cell in cells):
        names.add("time")
    if any(cell.peak_memory is not None for cell in cells):
        names.add("memory")
    if any(model.num_parameters for model in report.models):
        names.add("parameters")
    if any("kind" in model.likelihood for model in report.models):
        names.add("likelihood")
    return tuple(text for name, text in DEFINITIONS.items() if name in names)


def cell_facts(cell: Cell) -> str:
    """Calls and time of a cell in few words."""
    facts = [plural(cell.nfe, "call")] if cell.nfe else []
    if cell.speed:
        largest = max(cell.speed, key=lambda speed: speed.batch_size)
        batch = "alone" if largest.batch_size == 1 else f"in batches of {largest.batch_size}"
        facts.append(f"{duration(largest.ms_per_image)} each {batch}")
    return ", ".join(facts)


def table(report: Report, cells: Sequence[Cell]) -> Table:
    """Compare cells; models that did not load, and cells that failed, say why.

    Args:
        report: that they belong to.
        cells: lines, in this order.
    """
    models = {model.name: model for model in report.models}
    good = [cell for cell in cells if not cell.error]
    columns = [c for c in _columns(report) if any(_holds(c, models, cell) for cell in good)]
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
    notes = [SUSPECT] if any(FLAG in e.text for row in rows for e in row.entries) else []
    return Table(tuple(columns), (*reference, *marked), tuple(notes))


def _columns(report: Report) -> list[Column]:
    """All columns, also those that turn out to be empty."""
    sizes = sorted({speed.batch_size for cell in report.measured() for speed in cell.speed})
    timed = sizes if len(sizes) <= 2 else [sizes[0], sizes[-1]]
    noun = things(report)[:-1]
    found = [
        Column("Quality", "distance", True, _of_record("distance"), "distance"),
        Column("Quality", "near a mode", False, _of_record("high_quality"), "high_quality"),
        Column("Fidelity", "precision", False, _of_record("precision"), "precision"),
        Column("Fidelity", "density", False, _of_record("density"), "density"),
        Column("Coverage", "coverage", False, _of_record("coverage"), "coverage"),
        Column("Coverage", "recall", False, _of_record("recall"), "recall"),
        Column("Coverage", "modes found", False, _modes, "num_modes"),
        Column("Coverage", "unevenness, nats", True, _of_record("mode_kl"), "mode_kl"),
        Column("Speed", "network calls", True, _calls),
    ]
    for size in timed:
        which = f"ms per {noun}" if size == 1 else f"ms, batch of {size}"
        found.append(Column("Speed", which, True, _of_time(size)))
    found += [
        Column("Size", "memory", True, _memory),
        Column("Size", "parameters", True, _parameters),
        Column("Likelihood", _likelihood_unit(report), True, _likelihood),
    ]
    return found


def _of_record(name: str) -> Callable[[Model, Cell], Entry]:
    def entry(model: Model, cell: Cell) -> Entry:
        record = record_of(cell, name)
        if record is None:
            return Entry()
        low, value, high = interval_of(record)
        if name == "distance":
            text = record_text(record)
            return Entry(text, f"floor {figure(record.floor, 2)}", value, low, high)
        if name in ("precision", "density") and _is_suspect(cell):
            return Entry(f"{value:.2f} {FLAG}")
        text = f"{value:.1%}" if name == "high_quality" else f"{value:.2f}"
        return Entry(figure(value) if name == "mode_kl" else text, "", value, low, high)

    return entry


def _is_suspect(cell: Cell) -> bool:
    """Whether coverage is so low that precision and density mean nothing."""
    found = cell.record("coverage")
    return found is not None and found.floor is not None and found.value < 0.5 * found.floor


def _modes(model: Model, cell: Cell) -> Entry:
    record = record_of(cell, "num_modes")
    if record is not None:
        low, value, high = interval_of(record)
        return Entry(f"{value:,.0f} of {record.floor or value:,.0f}", "", value, low, high)
    if not cell.class_counts:
        return Entry()
    real = [i for i in range(len(cell.class_counts)) if _is_real(cell, i)]
    hit = sum(cell.class_counts[i] > 0 for i in real)
    return Entry(f"{hit:,} of {len(real):,}", "", hit)


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
    return Entry(size_text(cell.peak_memory), "", cell.peak_memory)


def _parameters(model: Model, cell: Cell) -> Entry:
    file = f"{size_text(model.size)} file" if model.size else ""
    if not model.num_parameters:
        return Entry(small=file)
    return Entry(amount(model.num_parameters), file, model.num_parameters)


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
    words = "upper bound" if "bound" in kind else "estimate"
    if "of a density" in kind:
        words += " of a density"
    if unit == "nats":
        words += ", nats"
    if reach is None or not math.isfinite(reach):
        return Entry(figure(value), words, value)
    places = min(6, max(0, 1 - math.floor(math.log10(reach)))) if reach > 0 else 3
    text = f"{value:,.{places}f} ± {reach:.{places}f}"
    return Entry(text, words, value, value - reach, value + reach)


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
            totals = {len(c.class_counts) for c in cells if c.class_counts}
            entries.append(Entry(f"{totals.pop():,}" if len(totals) == 1 else ""))
            continue
        floors = {(protocol(r), r.floor) for r in records if r.floor is not None}
        if len(floors) != 1 or len({protocol(r) for r in records}) != 1:
            entries.append(Entry(""))
            continue
        floor = records[0].floor
        text = {"high_quality": f"{floor:.1%}", "num_modes": f"{floor:,.0f}"}.get(column.record)
        if column.record in ("precision", "density", "coverage", "recall"):
            text = f"{floor:.2f}"
        entries.append(Entry(text or figure(floor, 2)))
        has_any = True
    if not has_any:
        return []
    return [Row("real data", "what a perfect model would score", tuple(entries), is_reference=True)]


def _marked(rows: Sequence[Row], columns: Sequence[Column], cells: Sequence[Cell]) -> list[Row]:
    """Mark the best of each column, and all whose intervals meet it."""
    marks: set[tuple[int, int]] = set()
    for k, column in enumerate(columns):
        if column.record and len(groups(cells, [column.record])) > 1:
            continue
        sign = 1 if column.lower_is_better else -1
        figures = {i: row.entries[k] for i, row in enumerate(rows) if row.entries}
        figures = {i: entry for i, entry in figures.items() if math.isfinite(entry.value)}
        if len(figures) < 2 or (
            column.group == "Likelihood"
            and len({e.small.endswith("nats") for e in figures.values()}) > 1
        ):
            continue
        best = min(figures.values(), key=lambda entry: sign * entry.value)
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


def _is_level(entry: Entry, best: Entry) -> bool:
    """Whether an entry is the best or looks the same, or its interval meets the best's."""
    if entry.value == best.value or entry.text == best.text:
        return True
    if any(math.isnan(end) for end in (entry.low, entry.high, best.low, best.high)):
        return False
    return entry.low <= best.high and best.low <= entry.high


def shortened(text: str, most: int = 300) -> str:
    """An error in one line of bearable length."""
    return textwrap.shorten(text, most, placeholder=" …")
