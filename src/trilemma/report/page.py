"""The report as one HTML file that holds all it needs.

The page opens from a disk without a network: its style sheet stands in it, pictures are PNG in the
text, charts are SVG. It works without scripts, in light and dark, on a phone and on paper. All that
comes from users (names, cards, errors, the command) is escaped.

The order is that of a reader in a hurry: what to take, the table, the plots, the pictures, and at
the end how everything was measured.
"""

from __future__ import annotations

import importlib.resources
from pathlib import Path

from trilemma.report import sections, words
from trilemma.report.plots import pareto, trilemma
from trilemma.report.record import Report
from trilemma.report.sheet import Sheet
from trilemma.report.svg import Markup, element, join

__all__ = ["render"]


def render(report: Report, folder: Path | str) -> str:
    """Write the report as HTML.

    Args:
        report: what was measured.
        folder: of the report; pictures are read from ``folder / cell.pictures``, and where a file
            is missing or damaged, the page says so.

    Returns:
        A whole HTML document.
    """
    sheet = Sheet(report, Path(folder))
    heading = f"Quality, coverage, speed: {words.data_name(report)}"
    parts = [
        ("Advice", "What to take", sections.cards(sheet)),
        ("Table", "Side by side", sections.tables(sheet)),
        ("Cost", "Quality against cost", pareto(sheet)),
        ("Trilemma", "The trilemma", trilemma(sheet)),
        ("Samples", "What they draw", sections.sample_grids(sheet)),
        ("Classes", "What is drawn, and what is missing", sections.classes(sheet)),
        ("Copies", "Learned, or copied?", sections.nearest(sheet)),
        ("Claims", "Published claims, held against this report", sections.claim_table(sheet)),
        ("Published", "Published figures on such data", sections.baseline_table(sheet)),
        ("Method", "How this was measured", sections.method(sheet)),
    ]
    kept = [(name.lower(), name, title, body) for name, title, body in parts if body]
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
    about = [words.data_name(report)]
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
