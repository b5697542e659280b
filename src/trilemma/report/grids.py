"""Tables of the page: figures in a box that scrolls, and words whose rows stack on a phone."""

from __future__ import annotations

from collections.abc import Sequence

from trilemma.report import formats
from trilemma.report.sheet import Sheet
from trilemma.report.svg import Markup, element, join
from trilemma.report.table import Row, Table

__all__ = ["stacking_table", "wide_table"]


def wide_table(sheet: Sheet, found: Table, caption: str, label: str) -> Markup:
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
    lines = [_line(sheet, row, len(found.columns), starts) for row in found.rows]
    head = element("thead", element("tr", *upper), element("tr", *lower))
    inner = element("table", head, element("tbody", *lines), class_="figures-table")
    box = element("div", inner, class_="scroll", tabindex="0", role="region", aria_label=label)
    return element("figure", box, element("figcaption", caption))


def _line(sheet: Sheet, row: Row, width: int, starts: set[int]) -> Markup:
    key = "" if row.is_reference else join([sheet.key(_model_of(row)), " "])
    name = element("th", key, row.title, element("small", row.about), scope="row")
    if row.error:
        why = element("span", "failed: ", formats.shortened(row.error))
        failed = element("td", why, colspan=str(max(1, width)))
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


def stacking_table(heads: Sequence[str], rows: Sequence[Sequence[Markup]], label: str) -> Markup:
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
