"""The two plots of the page: quality against cost, and the trilemma of every model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from trilemma.report import charts, diagrams, formats, ranking, words
from trilemma.report.intervals import interval_of
from trilemma.report.ranking import Measure
from trilemma.report.record import Cell
from trilemma.report.sheet import Sheet
from trilemma.report.svg import Markup, element, join

__all__ = ["pareto", "trilemma"]


def pareto(sheet: Sheet) -> Markup:
    """Quality against time and against calls; records of one protocol per plot."""
    measured = list(sheet.report.measured())
    measure = ranking.quality_measure(measured)
    if measure is None:
        return Markup("")
    batch = ranking.plot_batch(measured)
    noun = words.things(sheet.report)[:-1]
    parts: list[str] = []
    for number, group in enumerate(ranking.groups(measured, [measure.name])):
        if len(group) < 2:
            continue
        if batch is not None:
            which = "drawn alone" if batch == 1 else f"batches of {batch}"
            name = f"ms per {noun}, {which}"
            parts.append(
                _plot(
                    sheet, group, measure, lambda c: c.milliseconds(batch), name, f"time-{number}"
                )
            )
        name = f"network calls per {noun}"
        parts.append(
            _plot(sheet, group, measure, lambda c: c.nfe or math.nan, name, f"calls-{number}")
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
    sheet: Sheet,
    cells: Sequence[Cell],
    measure: Measure,
    cost: Callable[[Cell], float],
    x_label: str,
    ident: str,
) -> Markup:
    """One plot, wide and once more narrow for a phone, with what it says in words."""
    best = ranking.front(cells, cost, measure)
    with_calls = ident.startswith("time")
    lines = _lines(sheet, cells, measure, cost, best, with_calls, x_label)
    record = ranking.record_of(cells[0], measure.name)
    floor = math.nan if record is None or record.floor is None else record.floor
    sign = "↙" if measure.lower_is_better else "↖"
    title = f"{measure.label} against {x_label}"
    shared: dict[str, Any] = {
        "floor": floor,
        "floor_label": f"real data score {formats.figure(floor, 2)}",
        "corner": f"{sign} cheap and good",
        "higher_is_better": not measure.lower_is_better,
    }
    axes = charts.Axis(x_label, True), charts.Axis(measure.label)
    wide = charts.chart(f"{ident}-wide", title, lines, *axes, **shared)
    narrow = charts.chart(f"{ident}-narrow", title, lines, *axes, width=358, height=420, **shared)
    if not wide:
        return Markup("")
    winners = [cell for cell in cells if cell.key in best]
    winners.sort(key=cost)
    told = formats.listed([f"{cell.model} ({words.way(cell)})" for cell in winners])
    caption = f"Not beaten by any other, from cheap to good: {told}. Bars are 95 % intervals. "
    if with_calls:
        caption += "Small numbers are network calls, where there is room. "
    left_out = [words.cell_name(c) for c in cells if not math.isfinite(cost(c))]
    if left_out:
        caption += (
            f"Not in this plot, for lack of the figure below it: {formats.listed(left_out)}. "
        )
    return element(
        "figure",
        element("div", wide, class_="wide"),
        element("div", narrow, class_="narrow"),
        element("figcaption", caption, words.short_protocol(cells, measure.name)),
    )


def _lines(
    sheet: Sheet,
    cells: Sequence[Cell],
    measure: Measure,
    cost: Callable[[Cell], float],
    best: set[str],
    with_calls: bool,
    x_label: str,
) -> list[charts.Series]:
    """One series per model and sampler, those of a model alike."""
    found: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        found.setdefault((cell.model, cell.sampler), []).append(cell)
    samplers: dict[str, int] = {}
    for model, _ in found:
        samplers[model] = samplers.get(model, 0) + 1
    # The model's name stands at the line of its cell in the table, else at its first line.
    named = dict(reversed(found))
    named |= {c.model: c.sampler for c in sheet.cells if (c.model, c.sampler) in found}
    series = []
    for (model, sampler), part in found.items():
        name = model if named[model] == sampler else ""
        detail = "" if samplers[model] == 1 else sampler.replace("_", "-")
        points = []
        for cell in part:
            record = ranking.record_of(cell, measure.name)
            if record is None:
                continue
            low, value, high = interval_of(record)
            hint = (
                f"{words.cell_name(cell)}: {measure.label} {formats.record_text(record)}, "
                f"{formats.plural(cell.nfe, 'call')}, {formats.figure(cost(cell))} {x_label}"
            )
            is_span = high > low
            points.append(
                charts.Point(
                    cost(cell),
                    value,
                    low if is_span else math.nan,
                    high if is_span else math.nan,
                    str(cell.nfe) if with_calls and cell.nfe else "",
                    hint,
                    cell.key in best,
                )
            )
        series.append(charts.Series(name, tuple(points), sheet.colour(model), detail))
    return series


def trilemma(sheet: Sheet) -> Markup:
    """One triangle per model: quality, coverage, speed."""
    quality = ranking.quality_measure(sheet.good)
    coverage = ranking.coverage_measure(sheet.good)
    batch = ranking.plot_batch(sheet.good)
    if quality is None or coverage is None or batch is None:
        return Markup("")
    parts: list[str] = []
    for number, group in enumerate(ranking.groups(sheet.good, [quality.name, coverage.name])):
        cells = [cell for cell in group if math.isfinite(cell.milliseconds(batch))]
        scales = [
            _Share.of_measure(quality, cells),
            _Share.of_measure(coverage, cells),
            _Share.of_times([cell.milliseconds(batch) for cell in cells]),
        ]
        if len(cells) > 1:
            parts.append(_triangles(sheet, cells, (quality, coverage), batch, scales, number))
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
        records = [ranking.record_of(cell, measure.name) for cell in cells]
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
    sheet: Sheet,
    cells: Sequence[Cell],
    measures: tuple[Measure, Measure],
    batch: int,
    scales: Sequence[_Share],
    number: int,
) -> Markup:
    """The key, and a triangle per cell."""

    def values(cell: Cell) -> list[float]:
        return [*(cell.value(m.name) for m in measures), cell.milliseconds(batch)]

    texts = [_axis_text(measures[0]), _axis_text(measures[1]), formats.duration]
    names = ("quality", "coverage", "speed")
    all_shares = {
        cell.key: [scale(value) for scale, value in zip(scales, values(cell), strict=True)]
        for cell in cells
    }
    ends = [text(scale.bad) for text, scale in zip(texts, scales, strict=True)]
    outer = [text(scale.good) for text, scale in zip(texts, scales, strict=True)]
    key = diagrams.triangle(
        f"triangle-{number}-key",
        "Key: the two ends of each axis",
        [(n, good, math.nan) for n, good in zip(names, outer, strict=True)],
        0,
        ends=ends,
    )
    noun = words.things(sheet.report)[:-1]
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
        colour = sheet.colour(cell.model)
        drawn = diagrams.triangle(
            f"triangle-{number}-{i}",
            f"{cell.model}: quality, coverage, speed",
            shown,
            colour,
            [shares for key_, shares in all_shares.items() if key_ != cell.key],
        )
        about = element("p", words.way(cell), class_="note")
        name = element("figcaption", sheet.key(cell.model), " ", element("b", cell.model))
        tiles.append(element("figure", name, drawn, about, class_="tile"))
    return element(
        "figure",
        element("div", *tiles, class_="tiles"),
        element("figcaption", words.short_protocol(cells, *(m.name for m in measures))),
    )


def _axis_text(measure: Measure) -> Callable[[float], str]:
    """How values of a measure are printed at an axis."""
    if measure.name in ("coverage", "high_quality"):
        return lambda value: f"{value:.2f}"
    if measure.name == "num_modes":
        return lambda value: f"{value:,.0f}"
    return lambda value: formats.figure(value)
