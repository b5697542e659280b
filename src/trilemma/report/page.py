"""The report as one HTML file that holds all it needs.

The page opens from a disk without a network: its style sheet stands in it, pictures are PNG in the
text, charts are SVG. It works without scripts, in light and dark, on a phone and on paper. All that
comes from users (names, cards, errors, the command) is escaped.

The order is that of a reader in a hurry: what to take, the table, the plots, the pictures, and at
the end how everything was measured.
"""

from __future__ import annotations

import base64
import importlib.resources
import io
import math
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from trilemma.report import svg, words
from trilemma.report.advice import Advice, advice
from trilemma.report.baselines import Baseline, baselines
from trilemma.report.claims import Claim, claims, interval_of
from trilemma.report.record import Cell, Model, Report
from trilemma.report.svg import Markup, element, join
from trilemma.report.words import Measure, Row, Table

__all__ = ["render"]

COLUMNS = 8
STRIP = 8
MOST_SAMPLES = 40
MOST_PAIRS = 16
LARGEST = 96
"""Sides above this many pixels are reduced to it, so that the page stays small."""
MARGIN = 2
MOST_POINTS = 3000
BADGES = {
    "reproduced": ("✓", "good"),
    "not reproduced": ("✗", "bad"),
    "not comparable": ("○", "open"),
}


@dataclass(frozen=True)
class _Page:
    """What all sections share.

    Attributes:
        report: what was measured.
        folder: where the pictures lie.
        cells: one per model.
        colours: index by model, the same in every chart.
    """

    report: Report
    folder: Path
    cells: tuple[Cell, ...]
    colours: dict[str, int]

    @property
    def good(self) -> list[Cell]:
        """The cells with figures."""
        return [cell for cell in self.cells if not cell.error and cell.records]


def render(report: Report, folder: Path | str) -> str:
    """Write the report as HTML.

    Args:
        report: what was measured.
        folder: of the report; pictures are read from ``folder / cell.pictures``, and where a file
            is missing or damaged, the page says so.

    Returns:
        A whole HTML document.
    """
    names = dict.fromkeys(model.name for model in report.models)
    colours = {name: i for i, name in enumerate(names)}
    page = _Page(report, Path(folder), words.chosen(report), colours)
    heading = f"Quality, coverage, speed: {report.data.get('name', 'report')}"
    sections = [
        ("Advice", "What to take", _take(page)),
        ("Table", "Side by side", _tables(page)),
        ("Cost", "Quality against cost", _pareto(page)),
        ("Trilemma", "The trilemma", _trilemma(page)),
        ("Samples", "What they draw", _samples(page)),
        ("Classes", "What is drawn, and what is missing", _modes(page)),
        ("Copies", "Learned, or copied?", _neighbours(page)),
        ("Claims", "Published claims, held against this report", _claims(report)),
        ("Published", "Published figures on such data", _baselines(page)),
        ("Method", "How this was measured", _method(report)),
    ]
    kept = [(name.lower(), name, title, body) for name, title, body in sections if body]
    links = [element("li", element("a", name, href=f"#{ident}")) for ident, name, _, _ in kept]
    content = join(
        element("section", element("h2", title), body, id=ident) for ident, _, title, body in kept
    )
    return _document(
        heading,
        element(
            "header",
            element("p", "Trilemma report", class_="eyebrow"),
            element("h1", heading),
            element("p", words.introduction(report), class_="lead"),
            _facts(report),
            element("nav", element("ul", *links), aria_label="Contents"),
        ),
        element("main", content),
        element("footer", element("p", f"Written by trilemma {report.version}, {report.date}.")),
    )


def _document(title: str, *body: Markup) -> str:
    """A document with its style sheet."""
    style = importlib.resources.files("trilemma.report").joinpath("page.css").read_text("utf-8")
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", Markup(style)),
    )
    return f"<!doctype html>\n{element('html', head, element('body', *body), lang='en')}\n"


def _facts(report: Report) -> Markup:
    """Data, hardware, date and version."""
    data = report.data
    shape = " × ".join(str(size) for size in data.get("event_shape") or ())
    length = data.get("length")
    about = [str(data.get("name", ""))]
    if shape and data.get("kind") != "points":
        about.append(f"shape {shape}")
    about.append(f"{data.get('split', '')} split" + (f" of {length:,}" if length else ""))
    rows = {
        "Data": ", ".join(about),
        "Hardware": words.hardware(report),
        "Date": report.date,
        "Version": f"trilemma {report.version}",
    }
    parts = [element("div", element("dt", key), element("dd", text)) for key, text in rows.items()]
    return element("dl", *parts, class_="facts")


def _take(page: _Page) -> Markup:
    """Advice as cards."""
    cells = {cell.key: cell for cell in page.report.cells}
    found = advice(page.report)
    cards = [_card(page, one, cells.get(one.cell), i) for i, one in enumerate(found)]
    return element("div", *cards, class_="cards")


def _card(page: _Page, one: Advice, cell: Cell | None, index: int) -> Markup:
    parts = [element("h3", one.question)]
    if cell is None:
        parts.append(element("p", one.answer, class_="answer"))
    else:
        colour = page.colours.get(cell.model, 0)
        parts.append(element("p", _key(colour), " ", cell.model, class_="answer"))
        parts.append(element("p", _told(cell), class_="figures"))
        parts.append(_strip(page, cell, index))
        parts.append(element("p", one.answer))
    parts.append(element("p", one.reason, class_="reason"))
    return element("article", *parts, class_="card")


def _told(cell: Cell) -> str:
    """Calls, time and quality of a cell in one line."""
    facts = [words.cell_facts(cell)]
    measure = words.quality_measure([cell])
    record = None if measure is None else words.record_of(cell, measure.name)
    if measure is not None and record is not None:
        floor = "" if record.floor is None else f" (real data {words.figure(record.floor, 2)})"
        facts.append(
            f"{measure.label.removesuffix(' to real data')} {words.figure(record.value, 2)}{floor}"
        )
    return " · ".join(fact for fact in facts if fact)


def _key(colour: int) -> Markup:
    """The marker of a model, as in the charts."""
    shape = svg.marker(colour, 8, 8, 5.0, True)
    return element("svg", shape, viewBox="0 0 16 16", class_="key", aria_hidden="true")


def _strip(page: _Page, cell: Cell, index: int) -> Markup:
    """A few samples in a row."""
    pictures = _read(page, cell)
    if isinstance(pictures, str):
        return element("p", pictures, class_="note")
    samples = pictures["samples"]
    if samples.ndim != 4:
        return _points(page, cell, samples, f"card-{index}")
    return _image(samples[:STRIP], f"{STRIP} samples of {cell.model}", STRIP, "strip")


def _tables(page: _Page) -> Markup:
    report = page.report
    parts: list[str] = [_warning(text) for text in words.warnings(report)]
    found = words.table(report, page.cells)
    parts.append(_wide_table(page, found, _caption(found), "One line per model"))
    others = words.table(report, report.cells)
    if len(report.cells) > len(page.cells):
        parts.append(
            element(
                "details",
                element("summary", f"All {len(report.cells)} ways to draw that were measured"),
                _wide_table(page, others, _caption(others), "All cells"),
            )
        )
    return join(parts)


def _warning(text: str) -> Markup:
    return element("p", element("strong", "Not comparable. "), text, class_="warning", role="note")


def _caption(found: Table) -> str:
    """Protocol and reading help of a table."""
    marks = (
        "± is half of a 95 % interval. Bold: best of its column, and all that cannot be "
        "told from the best, because their intervals meet."
    )
    cells = [row.cell for row in found.rows if row.cell is not None]
    parts = (marks if found.columns else "", *found.notes, words.short_protocol(cells))
    return " ".join(part for part in parts if part)


def _wide_table(page: _Page, found: Table, caption: str, label: str) -> Markup:
    """A table in a box of its own that scrolls."""
    runs: list[tuple[str, int]] = []
    for column in found.columns:
        if runs and runs[-1][0] == column.group:
            runs[-1] = (column.group, runs[-1][1] + 1)
        else:
            runs.append((column.group, 1))
    upper = [element("th", "Model", rowspan="2", scope="col")]
    upper += [element("th", name, colspan=str(n), scope="colgroup") for name, n in runs]
    starts = {sum(n for _, n in runs[:i]) for i in range(len(runs))}
    lower = [
        element("th", column.title, scope="col", class_="start" if i in starts else None)
        for i, column in enumerate(found.columns)
    ]
    lines = [_line(page, row, len(found.columns), starts) for row in found.rows]
    head = element("thead", element("tr", *upper), element("tr", *lower))
    inner = element("table", head, element("tbody", *lines), class_="figures-table")
    box = element("div", inner, class_="scroll", tabindex="0", role="region", aria_label=label)
    return element("figure", box, element("figcaption", caption))


def _line(page: _Page, row: Row, width: int, starts: set[int]) -> Markup:
    key = "" if row.is_reference else join([_key(page.colours.get(_model_of(row), 0)), " "])
    name = element("th", key, row.title, element("small", row.about), scope="row")
    if row.error:
        failed = element("td", "failed: ", words.shortened(row.error), colspan=str(max(1, width)))
        return element("tr", name, failed, class_="failed")
    parts = [name]
    for i, entry in enumerate(row.entries):
        shown: list[str] = [entry.text]
        if entry.is_best:
            shown = [element("b", entry.text), element("span", " best", class_="unseen")]
        if entry.small:
            shown.append(element("small", entry.small))
        names = [("best", entry.is_best), ("start", i in starts)]
        class_ = " ".join(name for name, holds in names if holds)
        parts.append(element("td", *shown, class_=class_ or None))
    return element("tr", *parts, class_="reference" if row.is_reference else None)


def _model_of(row: Row) -> str:
    return row.cell.model if row.cell is not None else row.title


def _pareto(page: _Page) -> Markup:
    """Quality against time and against calls; records of one protocol per plot."""
    measured = list(page.report.measured())
    measure = words.quality_measure(measured)
    if measure is None:
        return Markup("")
    batch = words.plot_batch(measured)
    noun = words.things(page.report)[:-1]
    parts: list[str] = []
    for number, group in enumerate(words.groups(measured, [measure.name])):
        if len(group) < 2:
            continue
        if batch is not None:
            which = "drawn alone" if batch == 1 else f"batches of {batch}"
            name = f"ms per {noun}, {which}"
            parts.append(
                _plot(page, group, measure, lambda c: c.milliseconds(batch), name, f"time-{number}")
            )
        name = f"network calls per {noun}"
        parts.append(
            _plot(page, group, measure, lambda c: c.nfe or math.nan, name, f"calls-{number}")
        )
    if not any(parts):
        return Markup("")
    better = "lower" if measure.lower_is_better else "higher"
    reading = (
        f"Cheap is left, and {better} is better. A model that can draw in several ways is a line, "
        "one for each sampler. A filled mark, on the broad pale steps, says that no other way of "
        "drawing is both cheaper and better; hollow ones are beaten by another."
    )
    return join([element("p", reading), *parts])


def _plot(
    page: _Page,
    cells: Sequence[Cell],
    measure: Measure,
    cost: Callable[[Cell], float],
    x_label: str,
    ident: str,
) -> Markup:
    """One plot, wide and once more narrow for a phone, with what it says in words."""
    best = words.front(cells, cost, measure)
    with_calls = ident.startswith("time")
    lines = _lines(page, cells, measure, cost, best, with_calls, x_label)
    record = words.record_of(cells[0], measure.name)
    floor = math.nan if record is None or record.floor is None else record.floor
    sign = "↙" if measure.lower_is_better else "↖"
    title = f"{measure.label} against {x_label}"
    shared: dict[str, Any] = {
        "floor": floor,
        "floor_label": f"real data score {words.figure(floor, 2)}",
        "corner": f"{sign} cheap and good",
        "higher_is_better": not measure.lower_is_better,
    }
    axes = svg.Axis(x_label, True), svg.Axis(measure.label)
    wide = svg.chart(f"{ident}-wide", title, lines, *axes, **shared)
    narrow = svg.chart(f"{ident}-narrow", title, lines, *axes, width=358, height=420, **shared)
    if not wide:
        return Markup("")
    winners = [cell for cell in cells if cell.key in best]
    winners.sort(key=cost)
    told = words.listed([f"{cell.model} ({_short(cell)})" for cell in winners])
    caption = f"Not beaten by any other, from cheap to good: {told}. Bars are 95 % intervals. "
    if with_calls:
        caption += "Small numbers are network calls, where there is room. "
    left_out = [words.cell_name(c) for c in cells if not math.isfinite(cost(c))]
    if left_out:
        caption += f"Not in this plot, for lack of the figure below it: {words.listed(left_out)}. "
    return element(
        "figure",
        element("div", wide, class_="wide"),
        element("div", narrow, class_="narrow"),
        element("figcaption", caption, words.short_protocol(cells)),
    )


def _short(cell: Cell) -> str:
    """Sampler and calls in a few characters."""
    return f"{cell.sampler.replace('_', '-')}, {words.plural(cell.nfe, 'call')}"


def _lines(
    page: _Page,
    cells: Sequence[Cell],
    measure: Measure,
    cost: Callable[[Cell], float],
    best: set[str],
    with_calls: bool,
    x_label: str,
) -> list[svg.Series]:
    """One series per model and sampler, those of a model alike."""
    found: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        found.setdefault((cell.model, cell.sampler), []).append(cell)
    samplers: dict[str, int] = {}
    for model, _ in found:
        samplers[model] = samplers.get(model, 0) + 1
    # The model's name stands at the line of its cell in the table, else at its first line.
    named = dict(reversed(found))
    named |= {c.model: c.sampler for c in page.cells if (c.model, c.sampler) in found}
    series = []
    for (model, sampler), part in found.items():
        name = model if named[model] == sampler else ""
        detail = "" if samplers[model] == 1 else sampler.replace("_", "-")
        points = []
        for cell in part:
            record = words.record_of(cell, measure.name)
            if record is None:
                continue
            low, value, high = interval_of(record)
            hint = (
                f"{words.cell_name(cell)}: {measure.label} {words.record_text(record)}, "
                f"{words.plural(cell.nfe, 'call')}, {words.figure(cost(cell))} {x_label}"
            )
            is_span = high > low
            points.append(
                svg.Point(
                    cost(cell),
                    value,
                    low if is_span else math.nan,
                    high if is_span else math.nan,
                    str(cell.nfe) if with_calls and cell.nfe else "",
                    hint,
                    cell.key in best,
                )
            )
        series.append(svg.Series(name, tuple(points), page.colours.get(model, 0), detail))
    return series


def _trilemma(page: _Page) -> Markup:
    """One triangle per model: quality, coverage, speed."""
    quality = words.quality_measure(page.good)
    coverage = words.coverage_measure(page.good)
    batch = words.plot_batch(page.good)
    if quality is None or coverage is None or batch is None:
        return Markup("")
    parts: list[str] = []
    for number, group in enumerate(words.groups(page.good, [quality.name, coverage.name])):
        cells = [cell for cell in group if math.isfinite(cell.milliseconds(batch))]
        scales = [
            _Share.of_measure(quality, cells),
            _Share.of_measure(coverage, cells),
            _Share.of_times([cell.milliseconds(batch) for cell in cells]),
        ]
        if len(cells) > 1:
            parts.append(_triangles(page, cells, (quality, coverage), batch, scales, number))
    if not parts:
        return Markup("")
    explained = (
        "Each corner is one thing wanted of a model, and farther out is better. A model that had "
        "everything would fill its triangle; faint outlines are the other models. "
        "Every axis has the same two ends for all models, printed in the key: the outer end is "
        "what real data score (for speed: the fastest model here), and distances and times are on "
        "log scales."
    )
    return join([element("p", explained), *parts])


@dataclass(frozen=True)
class _Share:
    """Where values lie between a bad end (0) and a good end (1)."""

    bad: float
    good: float
    is_log: bool

    @classmethod
    def of_measure(cls, measure: Measure, cells: Sequence[Cell]) -> _Share:
        records = [words.record_of(cell, measure.name) for cell in cells]
        values = [r.value for r in records if r is not None]
        floors = [r.floor for r in records if r is not None and r.floor]
        if not measure.lower_is_better:
            return cls(0.0, floors[0] if floors else max(values, default=1.0), False)
        good = floors[0] if floors else min(values, default=1.0)
        return cls(max([*values, 10 * good]), good, True)

    @classmethod
    def of_times(cls, values: Sequence[float]) -> _Share:
        good = min(values, default=1.0)
        return cls(max([*values, 10 * good]), good, True)

    def __call__(self, value: float) -> float:
        if not math.isfinite(value) or self.good == self.bad:
            return math.nan
        if self.is_log:
            if min(value, self.good, self.bad) <= 0:
                return math.nan
            share = math.log(self.bad / value) / math.log(self.bad / self.good)
        else:
            share = (value - self.bad) / (self.good - self.bad)
        return min(1.0, max(0.0, share))


def _triangles(
    page: _Page,
    cells: Sequence[Cell],
    measures: tuple[Measure, Measure],
    batch: int,
    scales: Sequence[_Share],
    number: int,
) -> Markup:
    """The key, and a triangle per cell."""

    def values(cell: Cell) -> list[float]:
        return [*(cell.value(m.name) for m in measures), cell.milliseconds(batch)]

    texts = [_axis_text(measures[0]), _axis_text(measures[1]), words.duration]
    names = ("quality", "coverage", "speed")
    all_shares = {
        cell.key: [scale(value) for scale, value in zip(scales, values(cell), strict=True)]
        for cell in cells
    }
    ends = [text(scale.bad) for text, scale in zip(texts, scales, strict=True)]
    outer = [text(scale.good) for text, scale in zip(texts, scales, strict=True)]
    key = svg.triangle(
        f"triangle-{number}-key",
        "Key: the two ends of each axis",
        [(n, good, math.nan) for n, good in zip(names, outer, strict=True)],
        0,
        ends=ends,
    )
    noun = words.things(page.report)[:-1]
    whats = (measures[0].label, measures[1].label, f"time per {noun} in batches of {batch}")
    told = [
        element("li", f"{what}: {bad} in the centre, {good} at the corner")
        for what, bad, good in zip(whats, ends, outer, strict=True)
    ]
    tiles = [
        element(
            "figure",
            element("figcaption", element("b", "How to read it")),
            key,
            element("ul", *told, class_="note"),
            class_="tile",
        )
    ]
    for i, cell in enumerate(cells):
        shown = [
            (n, text(value), share)
            for n, text, value, share in zip(
                names, texts, values(cell), all_shares[cell.key], strict=True
            )
        ]
        colour = page.colours.get(cell.model, 0)
        drawn = svg.triangle(
            f"triangle-{number}-{i}",
            f"{cell.model}: quality, coverage, speed",
            shown,
            colour,
            [shares for key_, shares in all_shares.items() if key_ != cell.key],
        )
        about = element("p", _short(cell), class_="note")
        name = element("figcaption", _key(colour), " ", element("b", cell.model))
        tiles.append(element("figure", name, drawn, about, class_="tile"))
    return element(
        "figure",
        element("div", *tiles, class_="tiles"),
        element("figcaption", words.short_protocol(cells)),
    )


def _axis_text(measure: Measure) -> Callable[[float], str]:
    """How values of a measure are printed at an axis."""
    if measure.name in ("coverage", "high_quality"):
        return lambda value: f"{value:.2f}"
    if measure.name == "num_modes":
        return lambda value: f"{value:,.0f}"
    return lambda value: words.figure(value)


def _samples(page: _Page) -> Markup:
    """Samples side by side; sample i in the same place."""
    shown = [cell for cell in page.cells if not cell.error]
    if not shown:
        return Markup("")
    figures: list[Markup] = []
    notes = []
    points = _bounds(page, shown)
    for cell in shown:
        pictures = _read(page, cell)
        colour = page.colours.get(cell.model, 0)
        caption: list[str] = [_key(colour), " ", element("b", cell.model)]
        facts = words.cell_facts(cell)
        caption.append(element("span", f"{words.rung_name(cell)}; {facts}".rstrip("; ")))
        if isinstance(pictures, str):
            body = element("p", pictures, class_="note")
        elif pictures["samples"].ndim == 4:
            samples = pictures["samples"][:MOST_SAMPLES]
            body = _image(samples, f"{len(samples)} samples of {cell.model}", COLUMNS, "grid-image")
            if max(samples.shape[1:3]) > LARGEST:
                notes.append(f"Pictures are reduced to {LARGEST} pixels.")
        else:
            body = _points(page, cell, pictures["samples"], f"plane-{len(figures)}", points)
            outside = _outside(pictures["samples"], points)
            if outside:
                caption.append(
                    element("span", f"outside the frame: {words.plural(outside, 'point')}")
                )
        figures.append(element("figure", body, element("figcaption", *caption), class_="tile"))
    seed = page.report.settings.get("seed")
    intro = (
        f"All drew with the same seed{'' if seed is None else f' ({seed})'}; samples were not "
        "picked. Sample i stands in the same place of every grid"
        if points is None
        else "Points that the models drew, on the same axes"
    )
    return join(
        [
            element("p", f"{intro}. {' '.join(dict.fromkeys(notes))}"),
            element("div", *figures, class_="tiles large"),
        ]
    )


def _bounds(page: _Page, cells: Iterable[Cell]) -> tuple[float, float] | None:
    """Common range of all points, but for the outermost of each cell; None for pictures."""
    ends = []
    for cell in cells:
        pictures = _read(page, cell)
        if isinstance(pictures, str) or pictures["samples"].ndim == 4:
            continue
        values = pictures["samples"][np.isfinite(pictures["samples"])]
        if values.size:
            ends.append(np.quantile(values, (0.002, 0.998)))
    if not ends:
        return None
    low, high = (float(end) for end in np.median(np.array(ends), axis=0))
    room = 0.12 * (high - low) or 1.0
    return low - room, high + room


def _outside(points: np.ndarray, bounds: tuple[float, float] | None) -> int:
    low, high = bounds or (-math.inf, math.inf)
    inside = ((points >= low) & (points <= high)).all(1)
    return int((~inside).sum())


def _points(
    page: _Page,
    cell: Cell,
    points: np.ndarray,
    ident: str,
    bounds: tuple[float, float] | None = None,
) -> Markup:
    """Points of the plane; their first two coordinates."""
    where = bounds or _bounds(page, [cell])
    if where is None:
        return element("p", "No finite points.", class_="note")
    pairs = [(float(a), float(b)) for a, b in points[:MOST_POINTS, :2]]
    colour = page.colours.get(cell.model, 0)
    drawn = svg.scatter(ident, f"Points of {cell.model}", pairs, where, colour)
    return element("div", drawn, class_="plane")


def _modes(page: _Page) -> Markup:
    """Samples per class against real data, or modes found against all."""
    counted = [cell for cell in page.good if cell.class_counts]
    if counted:
        tiles = [_class_bars(page, cell, i) for i, cell in enumerate(counted)]
        text = (
            "Bars count samples by the class that a classifier sees in them; the dark mark across "
            "each bar is the count among as many real data. A short bar is a kind of data that the "
            "model neglects."
        )
        return join([element("p", text), element("div", *tiles, class_="tiles")])
    found = [cell for cell in page.good if words.record_of(cell, "num_modes") is not None]
    if not found:
        return Markup("")
    records = [words.record_of(cell, "num_modes") for cell in found]
    counts = [record.value for record in records if record is not None]
    totals = [record.floor or record.value for record in records if record is not None]
    drawn = svg.bars("modes-found", "Modes found", [c.model for c in found], counts, totals)
    short = [c.model for c, n, total in zip(found, counts, totals, strict=True) if n < total]
    told = f"Some modes are missing in {words.listed(short)}." if short else "All modes are found."
    text = f"Modes of the data with at least one sample; the mark is how many there are. {told}"
    return element(
        "figure",
        drawn,
        element("figcaption", text, " ", words.short_protocol(found)),
        class_="tile",
    )


def _class_bars(page: _Page, cell: Cell, index: int) -> Markup:
    names = words.class_names(page.report, len(cell.class_counts))
    total, real = sum(cell.class_counts), sum(cell.real_class_counts)
    expected = [count * total / real for count in cell.real_class_counts] if real else []
    colour = page.colours.get(cell.model, 0)
    drawn = svg.bars(
        f"classes-{index}", f"Classes of {cell.model}", names, cell.class_counts, expected, colour
    )
    name = element("figcaption", _key(colour), " ", element("b", cell.model))
    told = f"{words.missing(page.report, cell)} {total:,} samples."
    return element("figure", name, drawn, element("p", told, class_="note"), class_="tile")


def _neighbours(page: _Page) -> Markup:
    """Samples above their nearest training images, and what the check for copies came to."""
    tiles = []
    for cell in page.good:
        told = words.copies(cell.memorisation)
        pictures = _read(page, cell)
        pairs = None if isinstance(pictures, str) else pictures.get("neighbours")
        if not told and pairs is None:
            continue
        colour = page.colours.get(cell.model, 0)
        parts: list[str] = [element("figcaption", _key(colour), " ", element("b", cell.model))]
        if pairs is not None and not isinstance(pictures, str):
            count = min(len(pairs), len(pictures["samples"]), MOST_PAIRS)
            parts.append(_pairs(pictures["samples"][:count], pairs[:count], cell.model))
        flagged = bool(cell.memorisation.get("is_flagged"))
        parts.append(element("p", told, class_="warning" if flagged else "note"))
        tiles.append(element("figure", *parts, class_="tile"))
    if not tiles:
        return Markup("")
    text = (
        "In each pair of rows: samples above, and below each the training image that is nearest to "
        "it. A model that has learned draws something new; one that has copied shows the same "
        "picture twice."
    )
    return join([element("p", text), element("div", *tiles, class_="tiles large")])


def _pairs(samples: np.ndarray, neighbours: np.ndarray, name: str) -> Markup:
    """Rows of samples, each above the row of their neighbours."""
    rows = []
    for start in range(0, len(samples), COLUMNS):
        part = slice(start, start + COLUMNS)
        about = f"samples {start + 1} to {start + len(samples[part])} of {name}"
        rows.append(_image(samples[part], about, COLUMNS, "pair"))
        rows.append(_image(neighbours[part], f"nearest to the {about}", COLUMNS, "pair last"))
    return element("div", *rows)


def _claims(report: Report) -> Markup:
    found = claims(report)
    if not found:
        return Markup("")
    text = (
        "What the papers say of these methods, and whether the same relation holds here. Data, "
        "networks and features differ from theirs, so it is relations that are compared, not "
        "figures."
    )
    heads = ("Claim", "Published", "Measured here", "Verdict")
    rows = [_claim(one) for one in found]
    return join([element("p", text), _stacking_table(heads, rows, "Published claims")])


def _claim(one: Claim) -> list[Markup]:
    sign, class_ = BADGES[one.verdict]
    badge = element("span", f"{sign} {one.verdict}", class_=f"badge {class_}")
    return [
        join([element("b", one.method), element("br"), one.statement]),
        join([one.published, element("small", one.source)]),
        join([one.measured or words.NONE]),
        join([badge, element("small", one.reason)]),
    ]


def _stacking_table(heads: Sequence[str], rows: Sequence[Sequence[Markup]], label: str) -> Markup:
    """A table of words, whose rows become blocks on a narrow screen."""
    lines = [
        element(
            "tr",
            *(element("td", cell, data_label=head) for head, cell in zip(heads, row, strict=True)),
        )
        for row in rows
    ]
    return element(
        "table",
        element("caption", label, class_="unseen"),
        element("thead", element("tr", *(element("th", head, scope="col") for head in heads))),
        element("tbody", *lines),
        class_="stacking",
    )


def _baselines(page: _Page) -> Markup:
    """Published rows, and ours below them."""
    found = baselines(page.report)
    if not found:
        return Markup("")
    keys = list(dict.fromkeys(key for one in found for key in one.values))
    heads = ("Model", *(_heading(key) for key in keys), "Source")
    rows = [_baseline(one, keys) for one in found]
    for cell in page.good:
        values = [words.record_of(cell, key) for key in keys]
        if not any(values):
            continue
        about = join([element("b", cell.model), element("small", words.rung_name(cell))])
        rows.append([about, *(join([words.record_text(v)]) for v in values), join(["this report"])])
    text = (
        "Published figures were measured with other samples and classifiers; they show the order "
        "of magnitude, not who wins."
    )
    return join([element("p", text), _stacking_table(heads, rows, "Published figures")])


def _heading(key: str) -> str:
    measure = words.MEASURES.get(key)
    return key if measure is None else measure.label


def _baseline(one: Baseline, keys: Sequence[str]) -> list[Markup]:
    values = [join([words.figure(one.values.get(key))]) for key in keys]
    return [join([one.name]), *values, join([one.source])]


def _method(report: Report) -> Markup:
    parts: list[str] = []
    sentences = words.protocols(report)
    if sentences:
        parts.append(element("h3", "Protocol"))
        parts.append(element("ul", *(element("li", text) for text in sentences)))
    settings = ", ".join(f"{key} {value}" for key, value in report.settings.items())
    if settings:
        parts.append(element("p", f"Settings: {settings}."))
    if report.command:
        parts.append(element("h3", "To make this report again"))
        parts.append(element("pre", element("code", report.command), tabindex="0"))
    if definitions := words.defined(report):
        parts.append(element("h3", "What the figures mean"))
        rows = [text.partition(": ") for text in definitions]
        pairs = [join([element("dt", a), element("dd", b[0].upper() + b[1:])]) for a, _, b in rows]
        parts.append(element("dl", *pairs, class_="definitions"))
    parts.append(element("h3", "Limits"))
    parts.append(element("ul", *(element("li", text) for text in words.LIMITS)))
    parts.append(element("h3", "Hardware"))
    parts.append(element("p", f"{words.hardware(report)}."))
    parts.append(element("h3", "Models"))
    parts.append(element("ul", *(element("li", *_origin(model)) for model in report.models)))
    return join(parts)


def _origin(model: Model) -> list[str]:
    """Where a model came from, and what its card says."""
    parts: list[str] = [element("b", model.name)]
    if words.family(model):
        parts.append(f": {words.family(model)}")
    if model.where and model.where != model.name:
        parts += [", from ", element("code", model.where)]
    if model.sha256:
        parts += [", SHA-256 ", element("code", model.sha256[:16])]
    note = model.likelihood.get("note")
    if note:
        parts.append(f"; no likelihood: {note}")
    plain = {k: v for k, v in model.card.items() if isinstance(v, str | int | float)}
    if plain:
        told = "; ".join(f"{key}: {value}" for key, value in plain.items())
        parts.append(element("small", words.shortened(told, 400)))
    return parts


def _read(page: _Page, cell: Cell) -> dict[str, np.ndarray] | str:
    """Pictures of a cell, or why there are none."""
    try:
        with np.load(page.folder / cell.pictures, allow_pickle=False) as archive:
            found = {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        return f"No pictures: {cell.pictures} is not beside the report."
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        return f"No pictures: {cell.pictures} cannot be read ({words.shortened(str(error), 120)})."
    samples = found.get("samples")
    if samples is None or samples.ndim not in (2, 4) or not len(samples):
        return f"No pictures: {cell.pictures} holds no samples."
    return found


def _image(images: np.ndarray, alt: str, columns: int, class_: str) -> Markup:
    """Images uint8 (n, h, w, c) in a grid, as PNG in the text."""
    small = np.stack([_reduced(image) for image in images])
    count, height, width, _ = small.shape
    rows = math.ceil(count / columns)
    canvas = np.zeros(
        (rows * (height + MARGIN) - MARGIN, columns * (width + MARGIN) - MARGIN, 4), np.uint8
    )
    for i, image in enumerate(small):
        top, left = i // columns * (height + MARGIN), i % columns * (width + MARGIN)
        canvas[top : top + height, left : left + width, :3] = image  # grey is repeated
        canvas[top : top + height, left : left + width, 3] = 255
    grey = bool(
        (canvas[..., 0] == canvas[..., 1]).all() and (canvas[..., 1] == canvas[..., 2]).all()
    )
    picture = Image.fromarray(canvas[..., [0, 3]], "LA") if grey else Image.fromarray(canvas)
    buffer = io.BytesIO()
    picture.save(buffer, "png")
    text = base64.b64encode(buffer.getvalue()).decode()
    return element(
        "img",
        src=f"data:image/png;base64,{text}",
        alt=alt,
        width=str(canvas.shape[1]),
        height=str(canvas.shape[0]),
        class_=f"pixels {class_}",
    )


def _reduced(image: np.ndarray) -> np.ndarray:
    """An image (h, w, c), its larger side at most ``LARGEST``, in as many channels."""
    if max(image.shape[:2]) <= LARGEST:
        return image
    scale = LARGEST / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    mode = image[..., 0] if image.shape[2] == 1 else image
    small = np.asarray(Image.fromarray(mode).resize(size, Image.Resampling.LANCZOS))
    return small[..., None] if small.ndim == 2 else small
