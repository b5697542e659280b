"""The sections of the page, one function each; empty where the report has nothing for them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trilemma.report import diagrams, formats, ranking, words
from trilemma.report.advice import Advice, advice, basis
from trilemma.report.baselines import Baseline, baselines
from trilemma.report.claims import Claim, claims
from trilemma.report.grids import stacking_table, wide_table
from trilemma.report.intervals import lacks_modes, modes_in_all
from trilemma.report.pictures import (
    COLUMNS,
    LARGEST,
    common_range,
    outside,
    pairs,
    plane,
    png,
    strip,
)
from trilemma.report.record import Cell, Model
from trilemma.report.sheet import Sheet
from trilemma.report.svg import Markup, element, join
from trilemma.report.table import table

__all__ = [
    "baseline_table",
    "cards",
    "claim_table",
    "classes",
    "method",
    "nearest",
    "sample_grids",
    "tables",
]

MOST_SAMPLES = 40
MOST_PAIRS = 16
BADGES = {
    "reproduced": ("✓", "good"),
    "not reproduced": ("✗", "bad"),
    "not comparable": ("○", "open"),
}


def cards(sheet: Sheet) -> Markup:
    """Advice as cards, below what they rest on."""
    cells = {cell.key: cell for cell in sheet.report.cells}
    about = basis(sheet.report)
    found = [
        _card(sheet, one, cells.get(one.cell), i) for i, one in enumerate(advice(sheet.report))
    ]
    return join(
        [
            element("p", about.explanation) if about.explanation else Markup(""),
            element("div", *found, class_="cards"),
            element("p", about.left_out, class_="note") if about.left_out else Markup(""),
        ]
    )


def _card(sheet: Sheet, one: Advice, cell: Cell | None, index: int) -> Markup:
    parts = [element("h3", one.question)]
    if cell is None:
        parts.append(element("p", one.answer, class_="answer"))
    else:
        parts.append(element("p", sheet.key(cell.model), " ", cell.model, class_="answer"))
        parts.append(element("p", _told(cell), class_="figures"))
        parts.append(strip(sheet, cell, index))
        parts.append(element("p", one.answer))
    parts.append(element("p", one.reason, class_="reason"))
    return element("article", *parts, class_="card")


def _told(cell: Cell) -> str:
    """Sampler, calls, time and quality of a cell in one line."""
    facts = [cell.sampler.replace("_", "-"), words.cell_facts(cell)]
    measure = ranking.quality_measure([cell])
    record = None if measure is None else ranking.record_of(cell, measure.name)
    if measure is not None and record is not None:
        name = measure.label.removesuffix(" to real data")
        floor = "" if record.floor is None else f" (real data {formats.figure(record.floor, 2)})"
        facts.append(f"{name} {formats.figure(record.value, 2)}{floor}")
    return " · ".join(fact for fact in facts if fact)


def tables(sheet: Sheet) -> Markup:
    """The models, one line each, and folded away all cells."""
    report = sheet.report
    parts: list[str] = [_warning(text) for text in words.warnings(report)]
    found = table(report, sheet.cells)
    parts.append(wide_table(sheet, found, found.caption, "One line per model"))
    others = table(report, report.cells)
    if len(report.cells) > len(sheet.cells):
        told = "Each model stands here as it draws unless told otherwise; all other ways are below."
        parts.append(element("p", told, class_="note"))
    if len(report.cells) > len(sheet.cells):
        parts.append(
            element(
                "details",
                element("summary", f"All {len(report.cells)} ways to draw that were measured"),
                wide_table(sheet, others, others.caption, "All cells"),
            )
        )
    return join(parts)


def _warning(text: str) -> Markup:
    return element("p", element("strong", "Not comparable. "), text, class_="warning", role="note")


def sample_grids(sheet: Sheet) -> Markup:
    """Samples side by side; sample i in the same place."""
    shown = [cell for cell in sheet.cells if not cell.error]
    if not shown:
        return Markup("")
    figures: list[Markup] = []
    notes = []
    points = common_range(sheet, shown)
    for cell in shown:
        pictures = sheet.pictures(cell)
        caption: list[str] = [sheet.key(cell.model), " ", element("b", cell.model)]
        facts = words.cell_facts(cell)
        caption.append(element("span", f"{words.rung_name(cell)}; {facts}".rstrip("; ")))
        if isinstance(pictures, str):
            body = element("p", pictures, class_="note")
        elif pictures["samples"].ndim == 4:
            samples = pictures["samples"][:MOST_SAMPLES]
            body = png(samples, f"{len(samples)} samples of {cell.model}", COLUMNS, "grid-image")
            if max(samples.shape[1:3]) > LARGEST:
                notes.append(f"Pictures are reduced to {LARGEST} pixels.")
        else:
            body = plane(sheet, cell, pictures["samples"], f"plane-{len(figures)}", points)
            lost = outside(pictures["samples"], points)
            if lost:
                caption.append(
                    element("span", f"outside the frame: {formats.plural(lost, 'point')}")
                )
        figures.append(element("figure", body, element("figcaption", *caption), class_="tile"))
    seed = sheet.report.settings.get("seed")
    has_files = any(model.family == "samples" for model in sheet.report.models)
    drew = "Models drew" if has_files else "All drew"
    intro = (
        f"{drew} with the same seed{'' if seed is None else f' ({seed})'}; samples were not "
        "picked. Sample i stands in the same place of every grid"
        + ("; those of files come as they were given" if has_files else "")
        if points is None
        else "Points that the models drew, on the same axes"
    )
    return join(
        [
            element("p", f"{intro}. {' '.join(dict.fromkeys(notes))}"),
            element("div", *figures, class_="tiles large"),
        ]
    )


def classes(sheet: Sheet) -> Markup:
    """Samples per class against real data, or modes found against all."""
    counted = [cell for cell in sheet.good if cell.class_counts]
    if counted:
        tiles = [_class_bars(sheet, cell, i) for i, cell in enumerate(counted)]
        text = (
            "Bars count samples by the class that a classifier sees in them; the dark mark across "
            "each bar is the count among as many real data. A short bar is a kind of data that the "
            "model neglects."
        )
        return join([element("p", text), element("div", *tiles, class_="tiles")])
    found = [cell for cell in sheet.good if ranking.record_of(cell, "num_modes") is not None]
    if not found:
        return Markup("")
    records = [r for cell in found if (r := ranking.record_of(cell, "num_modes")) is not None]
    counts = [record.value for record in records]
    totals = [modes_in_all(record) or record.value for record in records]
    drawn = diagrams.bars("modes-found", "Modes found", [c.model for c in found], counts, totals)
    short = [cell.model for cell, r in zip(found, records, strict=True) if lacks_modes(r)]
    told = "All modes are found."
    if short:
        told = f"Some modes are missing in {formats.listed(short)}."
    elif any(record.value < total for record, total in zip(records, totals, strict=True)):
        told = "The modes that were not found may be there: so few samples miss some by chance."
    text = f"Modes of the data with at least one sample; the mark is how many there are. {told}"
    return element(
        "figure",
        drawn,
        element("figcaption", text, " ", words.short_protocol(found, "num_modes")),
        class_="tile",
    )


def _class_bars(sheet: Sheet, cell: Cell, index: int) -> Markup:
    names = words.class_names(sheet.report, len(cell.class_counts))
    total, real = sum(cell.class_counts), sum(cell.real_class_counts)
    expected = [count * total / real for count in cell.real_class_counts] if real else []
    colour = sheet.colour(cell.model)
    drawn = diagrams.bars(
        f"classes-{index}", f"Classes of {cell.model}", names, cell.class_counts, expected, colour
    )
    name = element("figcaption", sheet.key(cell.model), " ", element("b", cell.model))
    told = f"{words.missing(sheet.report, cell)} {total:,} samples."
    return element("figure", name, drawn, element("p", told, class_="note"), class_="tile")


def nearest(sheet: Sheet) -> Markup:
    """Samples above their nearest training images, and what the check for copies came to."""
    tiles, real = [], None
    for cell in sheet.good:
        told = words.copies(cell.memorisation)
        pictures = _pairs(sheet, cell, "closest", "neighbours")
        if not told and pictures is None:
            continue
        real = real or _real_tile(sheet, cell)
        parts: list[str] = [
            element("figcaption", sheet.key(cell.model), " ", element("b", cell.model))
        ]
        if pictures is not None:
            parts.append(pairs(*pictures, f"samples of {cell.model}"))
        flagged = bool(cell.memorisation.get("is_flagged"))
        parts.append(element("p", told, class_="warning" if flagged else "note"))
        tiles.append(element("figure", *parts, class_="tile"))
    notes = [element("p", text, class_="note") for text in words.unchecked(sheet.good)]
    if not tiles:
        return join(notes)
    text = (
        "Above, the samples of each model that look most like one training image, the nearest "
        "first; below each of them that image, which may be moved, mirrored, brighter or paler. "
        "Pairs look alike even for new real images, which stand first, because simple pictures "
        "have near neighbours by themselves. Only a model whose pairs are clearly closer than "
        "theirs has copied."
    )
    shown = ([real] if real else []) + tiles
    return join([element("p", text), element("div", *shown, class_="tiles large"), *notes])


def _real_tile(sheet: Sheet, cell: Cell) -> Markup | None:
    """Held-out real images above their nearest training images, if a cell has them."""
    pictures = _pairs(sheet, cell, "real_closest", "real_neighbours")
    if pictures is None:
        return None
    count = cell.memorisation.get("num_held_out")
    checked = "" if count is None else f", of {int(count):,}"
    return element(
        "figure",
        element("figcaption", element("b", "real images"), " that were not trained on"),
        pairs(*pictures, "real images"),
        element("p", f"Those most like a training image{checked}.", class_="note"),
        class_="tile",
    )


def _pairs(
    sheet: Sheet, cell: Cell, first: str, second: str
) -> tuple[np.ndarray, np.ndarray] | None:
    """Two sets of pictures of a cell that belong together, or None where one is missing."""
    pictures = sheet.pictures(cell)
    if isinstance(pictures, str) or first not in pictures or second not in pictures:
        return None
    return pictures[first][:MOST_PAIRS], pictures[second][:MOST_PAIRS]


def claim_table(sheet: Sheet) -> Markup:
    """The papers' claims with their verdicts."""
    found = claims(sheet.report)
    if not found:
        return Markup("")
    text = (
        "What the papers say of these methods, and whether the same relation holds here. Data, "
        "networks and features differ from theirs, so it is relations that are compared, not "
        "figures."
    )
    heads = ("Claim", "Published", "Measured here", "Verdict")
    rows = [_claim(one) for one in found]
    return join([element("p", text), stacking_table(heads, rows, "Published claims")])


def _claim(one: Claim) -> list[Markup]:
    sign, class_ = BADGES[one.verdict]
    badge = element("span", f"{sign} {one.verdict}", class_=f"badge {class_}")
    return [
        join([element("b", one.method), element("br"), one.statement]),
        join([one.published, element("small", one.source)]),
        join([one.measured or formats.NONE]),
        join([badge, element("small", one.reason)]),
    ]


def baseline_table(sheet: Sheet) -> Markup:
    """Published rows, and ours below them."""
    found = baselines(sheet.report)
    if not found:
        return Markup("")
    keys = list(dict.fromkeys(key for one in found for key in one.values))
    heads = ("Model", *(_heading(key) for key in keys), "Source")
    rows = [_baseline(one, keys) for one in found]
    for cell in sheet.good:
        values = [ranking.record_of(cell, key) for key in keys]
        if not any(values):
            continue
        about = join([element("b", cell.model), element("small", words.rung_name(cell))])
        rows.append(
            [about, *(join([formats.record_text(v)]) for v in values), join(["this report"])]
        )
    text = (
        "Published figures were measured with other samples and classifiers; they show the order "
        "of magnitude, not who wins."
    )
    return join([element("p", text), stacking_table(heads, rows, "Published figures")])


def _heading(key: str) -> str:
    measure = ranking.MEASURES.get(key)
    return key if measure is None else measure.label


def _baseline(one: Baseline, keys: Sequence[str]) -> list[Markup]:
    values = [join([formats.figure(one.values.get(key))]) for key in keys]
    return [join([one.name]), *values, join([one.source])]


def method(sheet: Sheet) -> Markup:
    """Protocol, settings, definitions, limits, hardware, and where the models came from."""
    report, parts = sheet.report, list[str]()
    sentences = words.protocols(report)
    if sentences:
        parts.append(element("h3", "Protocol"))
        parts.append(element("ul", *(element("li", text) for text in sentences)))
    given = {key: value for key, value in report.settings.items() if value is not None}
    settings = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in given.items())
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
    parts.append(element("ul", *(element("li", text) for text in words.limits(report))))
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
    # its own figures are of other numbers of samples than those of the report
    plain = {
        key: value
        for key, value in model.card.items()
        if isinstance(value, str | int | float) and key != "quality"
    }
    if plain:
        told = "; ".join(f"{key}: {value}" for key, value in plain.items())
        parts.append(element("small", formats.shortened(told, 400)))
    return parts
