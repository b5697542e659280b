"""The report as Markdown: the words and tables of the page, without plots and pictures.

For a README, an issue or a terminal. Tables are those of GitHub's dialect; all that comes from
users is escaped, so that a model's name can neither break a table nor become markup.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from trilemma.report import formats, ranking, words
from trilemma.report.advice import advice, basis
from trilemma.report.baselines import baselines
from trilemma.report.claims import claims
from trilemma.report.record import Cell, Report
from trilemma.report.table import Row, Table, table

__all__ = ["escape", "render"]

SPECIAL = re.compile(r"([\\`*_{}\[\]<>|~#!&$])")


def escape(text: str) -> str:
    """Write text so that Markdown shows it as it is, in one line.

    Args:
        text: of any origin.

    Returns:
        The text with its special characters escaped and its white space single.
    """
    return SPECIAL.sub(r"\\\1", " ".join(text.split()))


def render(report: Report) -> str:
    """Write the report as Markdown.

    Args:
        report: what was measured.

    Returns:
        A document that ends in a newline.
    """
    parts = [
        f"# Quality, coverage, speed: {escape(words.data_name(report))}",
        escape(words.introduction(report)),
        escape(
            f"Data: {report.data.get('split', '')} split. Hardware: {words.hardware(report)}. "
            f"Date: {report.date}. Version: trilemma {report.version}."
        ),
        "## What to take",
        *_take(report),
        "## Side by side",
        *(f"> **Not comparable.** {escape(text)}" for text in words.warnings(report)),
        *_table(table(report, ranking.chosen(report))),
        *_all_cells(report),
        *_classes(report),
        *_copies(report),
        *_claims(report),
        *_baselines(report),
        *_method(report),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _take(report: Report) -> list[str]:
    about = basis(report)
    parts = [escape(about.explanation)]
    for one in advice(report):
        told = f"**{escape(one.question)}** {escape(one.answer)}"
        parts.append(f"{told} *{escape(one.reason)}*" if one.reason else told)
    return [*parts, escape(about.left_out)]


def _grid(heads: Sequence[str], rows: Iterable[Sequence[str]], aligned: str = "") -> str:
    """A table of cells that are Markdown already."""
    aligns = [":--" if i == 0 or not aligned else aligned for i in range(len(heads))]
    lines = [heads, aligns, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _table(found: Table) -> list[str]:
    heads = ["model", *(column.title for column in found.columns)]
    width = len(heads)
    parts = [
        _grid([escape(head) for head in heads], (_line(row, width) for row in found.rows), "--:")
    ]
    return [*parts, escape(found.caption)]


def _line(row: Row, width: int) -> list[str]:
    name = f"{escape(row.title)}, {escape(row.about)}" if row.about else escape(row.title)
    if row.error:
        failure = f"failed: {escape(formats.shortened(row.error))}"
        return [name, failure, *([""] * (width - 2))] if width > 1 else [f"{name}: {failure}"]
    texts = []
    for entry in row.entries:
        text = f"**{escape(entry.text)}**" if entry.is_best else escape(entry.text)
        texts.append(f"{text} ({escape(entry.small)})" if entry.small else text)
    return [name, *texts]


def _all_cells(report: Report) -> list[str]:
    if len(report.cells) <= len(ranking.chosen(report)):
        return []
    return ["### All ways to draw", *_table(table(report, report.cells))]


def _classes(report: Report) -> list[str]:
    told = [(cell.model, words.missing(report, cell)) for cell in _good(report)]
    lines = [f"- **{escape(name)}**: {escape(text)}" for name, text in told if text]
    return ["## What is drawn, and what is missing", "\n".join(lines)] if lines else []


def _copies(report: Report) -> list[str]:
    told = [(cell.model, words.copies(cell.memorisation)) for cell in _good(report)]
    lines = [f"- **{escape(name)}**: {escape(text)}" for name, text in told if text]
    lines += [f"- {escape(text)}" for text in words.unchecked(_good(report))]
    return ["## Learned, or copied?", "\n".join(lines)] if lines else []


def _good(report: Report) -> list[Cell]:
    return [cell for cell in ranking.chosen(report) if not cell.error and cell.records]


def _claims(report: Report) -> list[str]:
    rows = [
        [
            f"**{escape(one.method)}**: {escape(one.statement)}",
            f"{escape(one.published)} ({escape(one.source)})",
            escape(one.measured or formats.NONE),
            f"**{escape(one.verdict)}**: {escape(one.reason)}",
        ]
        for one in claims(report)
    ]
    heads = ("claim", "published", "measured here", "verdict")
    return ["## Published claims", _grid(heads, rows)] if rows else []


def _baselines(report: Report) -> list[str]:
    found = baselines(report)
    if not found:
        return []
    keys = list(dict.fromkeys(key for one in found for key in one.values))
    rows = [
        [
            escape(one.name),
            *(formats.figure(one.values.get(key)) for key in keys),
            escape(one.source),
        ]
        for one in found
    ]
    for cell in _good(report):
        values = [ranking.record_of(cell, key) for key in keys]
        if any(values):
            texts = [escape(formats.record_text(value)) for value in values]
            rows.append([f"**{escape(cell.model)}**", *texts, "this report"])
    labels = [ranking.MEASURES[key].label if key in ranking.MEASURES else key for key in keys]
    return [
        "## Published figures on such data",
        _grid(["model", *map(escape, labels), "source"], rows),
    ]


def _method(report: Report) -> list[str]:
    lists = (
        ("### Protocol", words.protocols(report)),
        ("### What the figures mean", words.defined(report)),
        ("### Limits", words.limits(report)),
    )
    parts = ["## How this was measured"]
    for heading, sentences in lists:
        if sentences:
            parts += [heading, "\n".join(f"- {escape(text)}" for text in sentences)]
    if report.command:
        longest = max((len(run) for run in re.findall("`+", report.command)), default=0)
        fence = "`" * max(3, longest + 1)
        command = f"{fence}console\n$ {report.command}\n{fence}"
        parts += ["### To make this report again", command]
    return parts
