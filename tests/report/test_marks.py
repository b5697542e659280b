"""Which figures of the table are marked as best."""

from dataclasses import replace

import pytest
from examples import cell, classes, copied, records

from trilemma.metrics import Record
from trilemma.report.intervals import lacks_modes
from trilemma.report.record import Model, Report
from trilemma.report.table import table

ESTIMATE = "NLL by the probability flow, Hutchinson's estimate of the divergence"
BOUND = "upper bound on the NLL: negative evidence bound (NELBO)"


def report(figures, likelihoods=()):
    """One cell per row of figures: distance, its error, precision, recall, density, coverage."""
    kinds = list(likelihoods) or [None] * len(figures)
    models = tuple(
        Model(
            name=f"m{i}",
            where=f"m{i}",
            family="ddpm",
            likelihood={}
            if kind is None
            else {"kind": kind[0], "nats": 1.0, "bits_per_dim": kind[1]},
        )
        for i, kind in enumerate(kinds)
    )
    cells = tuple(
        cell(f"m{i}", "ancestral", 10, records(*row), 5.0, is_default=True)
        for i, row in enumerate(figures)
    )
    return Report(
        models=models,
        cells=cells,
        data={"name": "digits", "kind": "images", "split": "train", "event_shape": [1, 28, 28]},
        settings={"num": 10_000},
        hardware={"device": "cpu", "name": "a processor", "threads": 1, "torch": "2"},
        date="2026-01-01",
        version="0",
        command="trilemma report",
    )


def best(found, title):
    """Names of the rows that are marked in a column."""
    made = table(found, found.cells)
    (k,) = (k for k, column in enumerate(made.columns) if column.title == title)
    return [row.title for row in made.rows if row.entries and row.entries[k].is_best]


def test_all_whose_intervals_meet_the_best_are_marked():
    rows = [(d, e, 0.7, 0.8, 0.7, 0.9) for d, e in ((1.0, 0.1), (1.3, 0.1), (2.0, 0.1))]
    assert best(report(rows), "distance") == ["m0", "m1"]


@pytest.mark.parametrize(("title", "place"), [("precision", 2), ("density", 4)])
def test_more_than_real_data_score_is_no_better(title, place):
    rows = []
    for value in (0.5, 1.1, 1.4):
        row = [1.0, 0.1, 0.7, 0.8, 0.7, 0.9]
        row[place] = value
        rows.append(tuple(row))
    assert best(report(rows), title) == ["m1", "m2"]


def test_what_is_above_real_data_is_level_with_all_whose_intervals_reach_them():
    """Density 0.99 (0.94 to 1.04) and 1.4 (1.3 to 1.5), where real data score 1.011."""
    found = report([(1.0, 0.1, 0.7, 0.8, 0.99, 0.9), (1.0, 0.1, 0.7, 0.8, 1.4, 0.9)])
    for near, marked in ((0.05, ["m0", "m1"]), (0.01, ["m1"])):
        cells = []
        for one, reach in zip(found.cells, (near, 0.1), strict=True):
            rows = [
                replace(r, low=r.value - reach, high=r.value + reach) if r.name == "density" else r
                for r in one.records
            ]
            cells.append(replace(one, records=tuple(rows)))
        assert best(replace(found, cells=tuple(cells)), "density") == marked


@pytest.mark.parametrize(
    ("kinds", "marked"),
    [
        ([(ESTIMATE, 2.0), (ESTIMATE, 2.1)], ["m0"]),
        ([(BOUND, 2.0), (ESTIMATE, 2.1)], ["m0"]),  # the truth below a bound is lower still
        ([(ESTIMATE, 2.0), (BOUND, 2.1)], []),  # what lies under the bound may be lower
        ([(BOUND, 2.0), (BOUND, 2.1)], ["m0"]),
    ],
)
def test_a_bound_that_is_behind_an_estimate_leaves_the_order_open(kinds, marked):
    rows = [(1.0, 0.1, 0.7, 0.8, 0.7, 0.9)] * len(kinds)
    assert best(report(rows, kinds), "bits per dim") == marked


def test_figures_of_different_protocols_are_not_ranked():
    found = report([(d, 0.1, 0.7, 0.8, 0.7, 0.9) for d in (1.0, 2.0)])
    assert best(found, "distance") == ["m0"]
    other = tuple(replace(record, num_fake=100) for record in found.cells[1].records)
    found = replace(found, cells=(found.cells[0], replace(found.cells[1], records=other)))
    assert best(found, "distance") == []


def text_of(found, title):
    """Entries of a column, from the first row that is not of real data."""
    made = table(found, found.cells)
    (k,) = (k for k, column in enumerate(made.columns) if column.title == title)
    return [row.entries[k].text for row in made.rows if row.entries and not row.is_reference]


def test_quality_of_copies_is_marked_and_not_ranked():
    found = report([(d, 0.01, 0.7, 0.8, 0.7, 0.9) for d in (0.2, 1.0, 2.0)])
    assert best(found, "distance") == ["m0"] and "‡" not in table(found, found.cells).caption
    flagged = replace(found.cells[0], memorisation=copied(0.3, True))
    found = replace(found, cells=(flagged, *found.cells[1:]))
    assert best(found, "distance") == ["m1"]
    assert ["‡" in text for text in text_of(found, "distance")] == [True, False, False]
    assert "‡ signs of copying" in table(found, found.cells).caption


def test_a_class_that_is_hardly_ever_drawn_is_not_found():
    found = report([(1.0, 0.1, 0.7, 0.8, 0.7, 0.9)] * 3)
    ones = [1.0] * 10
    counts = (classes(*ones), classes(*ones), classes(*ones))
    counts[1][3] = 1  # one that was misread
    counts[2][3] = 0
    real = tuple(counts[0])
    cells = [
        replace(one, class_counts=tuple(drawn), real_class_counts=real)
        for one, drawn in zip(found.cells, counts, strict=True)
    ]
    found = replace(found, cells=tuple(cells))
    assert text_of(found, "modes found") == ["10 of 10", "9 of 10", "9 of 10"]
    assert best(found, "modes found") == ["m0"]
    assert "below a tenth of its share" in table(found, found.cells).caption


@pytest.mark.parametrize(
    ("shown", "num", "lacks"),
    [(997, 26_000, True), (1000, 26_000, False), (259, 300, False), (200, 300, True)],
)
def test_modes_are_lacking_where_perfect_samples_show_more(shown, num, lacks):
    """1000 modes; 300 samples show 259 of them on average."""
    fields = {"num_real": 60_000, "split": "test", "extractor": "digits", "weights_sha256": ""}
    fields |= {"preprocessing": "", "lower_is_better": False, "most": 1000}
    assert lacks_modes(Record(name="num_modes", value=shown, num_fake=num, **fields)) == lacks
