"""The page: one file, well-formed, escaped, and with the figures that it was given."""

import base64
import io
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import examples
import numpy as np
import pytest
from PIL import Image

from trilemma.metrics import Record
from trilemma.report import formats, page, ranking, words
from trilemma.report.advice import advice, basis
from trilemma.report.claims import claims
from trilemma.report.record import Report
from trilemma.report.table import table

VOID = {"br", "col", "hr", "img", "link", "meta", "wbr"}
ALL = [
    examples.digits,
    examples.points,
    examples.pictures64,
    examples.one_model,
    examples.all_failed,
    examples.hostile,
    examples.mixed_protocols,
]


class Reader(HTMLParser):
    """Checks that elements nest, and collects what the tests ask for."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.words = [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        assert len(dict(attributes)) == len(attributes), f"an attribute twice in {tag}"
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        assert not data.strip() or self.open[-1] not in {"ul", "dl", "table", "tr", "tbody"}
        if "style" not in self.open:
            self.words.append(data)

    def all(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Every example made once: its folder, the report, the page, and the page as it reads."""
    found = {}

    def one(example):
        if example not in found:
            folder = tmp_path_factory.mktemp(example.__name__)
            report = example(folder)
            html = page.render(report, folder)
            found[example] = folder, report, html, Reader(html)
        return found[example]

    return one


@pytest.fixture(scope="module")
def digits(made):
    """The large example: its folder, the report, the page."""
    return made(examples.digits)[:3]


def rows_of(html, label):
    """Cells of a table in a labelled box, as words."""
    box = html.split(f'aria-label="{label}"')[1].split("</table>")[0]
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", box, re.DOTALL)
    cells = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.DOTALL) for row in rows]
    return [[" ".join(re.sub("<[^>]*>", " ", cell).split()) for cell in row] for row in cells]


@pytest.mark.parametrize("example", ALL, ids=lambda example: example.__name__)
def test_every_report_is_one_whole_page(example, made):
    _, _, html, read = made(example)
    assert html.startswith("<!doctype html>")
    ids = [attributes["id"] for _, attributes in read.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for attributes in read.all("svg"):
        if attributes.get("aria-hidden") != "true":
            assert attributes["role"] == "img"
            assert set(attributes["aria-labelledby"].split()) <= set(ids)
    for attributes in read.all("a"):
        assert attributes["href"].removeprefix("#") in ids
    assert all(attributes["alt"] for attributes in read.all("img"))
    assert all(attributes["scope"] for attributes in read.all("th"))
    assert "nan" not in read.text.lower().replace("nano", "").split()
    assert "None" not in read.text.replace("None of", "")


@pytest.mark.parametrize("example", ALL, ids=lambda example: example.__name__)
def test_the_page_asks_for_nothing_from_outside(example, made):
    _, _, html, read = made(example)
    for tag, attributes in read.tags:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base", "form"}
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href"):
                assert value.startswith(("data:image/png;base64,", "#"))
    style = html.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def test_a_report_read_back_gives_the_same_page(digits):
    folder, report, html = digits
    assert page.render(Report.from_json(report.to_json()), folder) == html


def test_what_users_name_never_becomes_markup(made):
    _, _, html, read = made(examples.hostile)
    assert "<script" not in html.lower()
    assert examples.HOSTILE in read.text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html


def test_pictures_are_those_of_the_folder(digits):
    """Read a PNG out of the page: sample i stands at its place, pixel for pixel."""
    folder, report, html = digits
    read = Reader(html)
    for cell in ranking.chosen(report):
        alt = f"40 samples of {cell.model}"
        (found,) = [a for a in read.all("img") if a["alt"] == alt]
        content = base64.b64decode(found["src"].partition(",")[2])
        picture = np.asarray(Image.open(io.BytesIO(content)).convert("RGBA"))
        with np.load(folder / cell.pictures) as archive:
            samples = archive["samples"]
        for i in (0, 7, 8, 39):
            top, left = i // 8 * 30, i % 8 * 30
            place = picture[top : top + 28, left : left + 28]
            assert (place[..., :3] == samples[i]).all()
            assert (place[..., 3] == 255).all()
        assert (picture[28:30, :, 3] == 0).all()  # margins show the page
        assert (int(found["width"]), int(found["height"])) == picture.shape[1::-1]


def test_large_pictures_are_reduced(tmp_path):
    report = examples.one_model(tmp_path)
    big = np.full((4, 256, 128, 3), (200, 30, 60), np.uint8)
    examples.write(tmp_path, report.cells[0], samples=big)
    read = Reader(page.render(report, tmp_path))
    (found,) = [a for a in read.all("img") if a["alt"] == "4 samples of ddgan-mnist"]
    assert (int(found["width"]), int(found["height"])) == (8 * 48 + 7 * 2, 96)
    assert "reduced to 96 pixels" in read.text


def test_pictures_that_are_not_there_are_named(tmp_path):
    report = examples.one_model(tmp_path)
    path = tmp_path / report.cells[0].pictures
    path.write_bytes(path.read_bytes()[:100])
    assert "cannot be read" in Reader(page.render(report, tmp_path)).text
    np.savez(path, other=np.zeros(3))
    assert "cannot be read" in Reader(page.render(report, tmp_path)).text
    path.unlink()
    read = Reader(page.render(report, tmp_path))
    assert "cells/ddgan-mnist/ancestral-4.npz is not beside the report" in read.text
    assert not read.all("img")


def test_the_table_shows_the_figures_beside_their_floors(digits):
    rows = rows_of(digits[2], "One line per model")
    heads = dict(zip(["model", *rows[1]], range(99), strict=False))
    reference, *models = rows[2:]
    assert reference[heads["distance"]] == "0.11"
    assert reference[heads["coverage"]] == "0.97"
    by_name = {row[0].split()[0]: row for row in models}
    lsgm = by_name["lsgm-mnist"]
    assert lsgm[heads["distance"]] == "0.480 ± 0.088 best floor 0.11"  # 1.96 * 0.045
    assert lsgm[heads["coverage"]] == "0.90 best"
    assert lsgm[heads["network calls"]] == "20"
    assert lsgm[heads["bits per dim"]] == "1.213 ± 0.025 best upper bound"
    assert by_name["ddpm-mnist"][heads["bits per dim"]] == "2.075 ± 0.030 estimate"
    gan = by_name["gan-mnist"]
    assert gan[heads["precision"]] == "0.62 †"  # coverage is below half of its floor
    assert gan[heads["modes found"]] == "9 of 10"
    assert gan[heads["network calls"]] == "1 best"
    assert gan[heads["ms per image"]] == "1.04 best"
    assert gan[heads["ms, batch of 64"]] == "0.61 best"
    assert "no model.safetensors" in by_name["edm-mine"][1]
    assert "failed" in by_name["edm-mine"][1]


def test_precision_never_stands_alone(digits):
    for label in ("One line per model", "All cells"):
        assert {"precision", "density", "coverage", "recall"} <= set(rows_of(digits[2], label)[1])


def test_all_cells_are_there_folded_away_with_their_failures(digits):
    _, report, html = digits
    folded = html.split("<details>")[1].split("</details>")[0]
    rows = rows_of(html, "All cells")
    assert len(rows) == 2 + 1 + len(report.cells) + 1  # heads, real data, cells, model that failed
    assert "score at t = 0.2 is not finite; draw with more steps" in folded


def test_columns_without_figures_are_left_out(made):
    points = rows_of(made(examples.points)[2], "One line per model")
    assert "precision" not in points[1]
    assert "distance" not in points[1]
    assert {"near a mode", "modes found"} <= set(points[1])
    assert "Likelihood" not in points[0]


def test_what_cannot_be_compared_is_said_and_not_drawn_together(made, digits):
    _, _, html, read = made(examples.mixed_protocols)
    assert "num_fake is 500 instead of 10000" in read.text
    rows = rows_of(html, "One line per model")
    distances = [row[1] for row in rows[2:] if len(row) > 2]
    assert not any("best" in text for text in distances)
    plots = re.findall(r'<svg[^>]*aria-labelledby="(time|calls)-\d-wide.*?</svg>', html)
    drawn = [p for p in re.split(r"(?=<svg)", html) if "-wide-title" in p[:300]]
    assert len(drawn) == len(plots) == 4  # time and calls, for each protocol
    for plot in drawn:
        assert ("lsgm-mnist" in plot) != ("ddpm-mnist" in plot)
    assert 'class="warning" role="note"' not in digits[2]


def test_advice_and_claims_stand_on_the_page(digits):
    report, text = digits[1], Reader(digits[2]).text
    about = basis(report)
    assert about.explanation in text
    assert text.count(about.left_out) == 1
    for one in advice(report):
        assert " ".join(one.question.split()) in text
        assert " ".join(one.answer.split()) in text
        assert " ".join(one.reason.split()) in text
    for claim in claims(report):
        assert " ".join(claim.statement.split()) in text
        assert claim.verdict in text
    assert report.command in text


def test_missing_classes_are_named(digits):
    text = Reader(digits[2]).text
    assert "Never drawn: 8." in text
    assert text.count("All 10 classes are drawn.") == 5


def test_copies_are_told_in_words(digits):
    text = Reader(digits[2]).text
    assert text.count("No sign of copying: ") == 4
    assert "Signs of copying: 6.4 % of 2,000 samples (95 % interval 5.8 % to 7.0 %)" in text
    assert "Not checked for cld-mnist: needs training and test data: no split 'test'." in text


def test_new_real_images_stand_beside_the_samples_most_like_training_images(digits):
    """Once, before the models, for they say how close new images come."""
    text = Reader(digits[2]).text
    assert text.count("real images that were not trained on Those most like a training") == 1
    assert text.index("Those most like a training image") < text.index("No sign of copying")


def test_exact_and_near_copies_are_counted_in_words():
    found = examples.copied(0.016, True) | {
        "num_near": 10,
        "expected_near": 1,
        "num_beside": 9,
        "num_exact": 8,
        "expected_exact": 0,
        "num_held_out": 1500,
    }
    told = words.copies(found)
    assert told.startswith("Signs of copying: 1.6 % of 2,000 samples")
    near = "Four times closer to it than to the next ones: 10 samples, and 1 of 1,500 of those"
    beside = "Sixteen times closer to it than to the next ones: 9 samples, and 0 of 1,500 of those"
    assert f"{near} real images. {beside} real images. " in told
    assert "8 are training images byte for byte; of the real ones, 0." in told
    assert words.copies_found(found).endswith(
        "real images, and 8 are training images byte for byte"
    )
    near = words.copies_found(found | {"num_exact": 0})
    assert near.endswith("images, and 10 are four times closer to it than to the next ones")
    single = words.copies(found | {"is_flagged": False, "num_near": 1, "num_exact": 1})
    assert single.startswith("Copies, too few to rule out chance: 1.6 %")
    assert "1 is a training image byte for byte" in single
    none = words.copies(
        found | dict.fromkeys(("is_flagged", "num_near", "num_beside", "num_exact"), 0)
    )
    assert none.startswith("No sign of copying: ") and "byte" not in none and "times" not in none
    assert words.copies_found({"note": "no training data"}) == ""


def test_stacked_digits_stand_beside_published_rows(tmp_path):
    report = examples.one_model(tmp_path)
    shared = examples.SHARED | {"num_fake": 26_000}
    records = (
        Record(name="num_modes", value=997, lower_is_better=False, floor=1000, **shared),
        Record(name="mode_kl", value=0.0831, lower_is_better=True, floor=0.0196, **shared),
    )
    cell = replace(report.cells[0], records=records, class_counts=(), memorisation={})
    data = dict(report.data) | {"kind": "stacked", "class_names": [f"{i:03d}" for i in range(1000)]}
    stacked = replace(report, cells=(cell,), data=data)
    text = Reader(page.render(stacked, tmp_path)).text
    assert "Some modes are missing in ddgan-mnist." in text
    assert "997 0.0831 this report" in text


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0.0, 3, "0"),
        (5.234, 3, "5.23"),
        (0.01234, 2, "0.012"),
        (1234.5, 3, "1,234"),
        (-0.5, 2, "-0.50"),
        (None, 3, "–"),
        (math.nan, 3, "–"),
        (math.inf, 3, "–"),
        (1e-9, 3, "0.000000"),
    ],
)
def test_figures(value, digits, text):
    assert formats.figure(value, digits) == text


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(0.61, "0.61 ms"), (48.2, "48 ms"), (953.5, "0.95 s"), (600_000, "10 min"), (math.nan, "–")],
)
def test_durations(milliseconds, text):
    assert formats.duration(milliseconds) == text


def test_small_words():
    assert formats.size_text(4_396_552) == "4.4 MB"
    assert formats.size_text(999) == "999 B"
    assert formats.amount(1_097_000) == "1.1 M"
    assert formats.amount(25_300) == "25 k"
    assert formats.amount(950) == "950"
    assert formats.plural(1, "call") == "1 call"
    assert formats.plural(1000, "call") == "1,000 calls"
    assert formats.listed([]) == ""
    assert formats.listed(["a"]) == "a"
    assert formats.listed(["a", "b", "c"]) == "a, b and c"
    assert formats.listed([str(i) for i in range(14)], 3) == "0, 1, 2 and 11 more"


def test_intervals_that_are_not_symmetric_show_both_ends():
    shared = {"name": "fd_digits", "lower_is_better": True} | examples.SHARED
    assert formats.record_text(Record(value=1.0, low=0.9, high=1.1, **shared)) == "1.00 ± 0.10"
    assert formats.record_text(Record(value=1.0, low=0.9, high=1.4, **shared)) == "1.0 (0.9 to 1.4)"
    assert formats.record_text(Record(value=1.0, **shared)) == "1.00"
    assert formats.record_text(None) == "–"


def test_the_front_is_what_nothing_else_beats():
    """Against a count of dominating cells by hand, over random cells with ties."""
    draw = np.random.default_rng(0)
    cells = []
    for i in range(40):
        distance, calls = (float(v) for v in draw.integers(1, 9, 2))
        made = examples.records(distance, 0.1, 0.5, 0.5, 0.5, 0.5)
        cells.append(examples.cell(f"m{i}", "gddim", int(calls), made, 1.0))
    found = ranking.front(cells, lambda cell: float(cell.nfe), ranking.MEASURES["distance"])
    pairs = np.array([(cell.nfe, cell.value("distance")) for cell in cells])
    for cell, pair in zip(cells, pairs, strict=True):
        beaten = ((pairs <= pair).all(1) & (pairs < pair).any(1)).any()
        assert (cell.key in found) == (not beaten)
    unknown = replace(cells[0], key="x/y", records=())
    assert "x/y" not in ranking.front([unknown], lambda cell: 1.0, ranking.MEASURES["distance"])


def test_a_model_shows_its_default_or_else_its_best(digits):
    report = digits[1]
    assert [cell.key for cell in ranking.chosen(report) if cell.model == "lsgm-mnist"] == [
        "lsgm-mnist/gddim-20"
    ]
    bare = replace(report, cells=tuple(replace(c, is_default=False) for c in report.cells))
    keys = {cell.model: cell.key for cell in ranking.chosen(bare)}
    assert keys["ddpm-mnist"] == "ddpm-mnist/ancestral-1000"
    assert keys["cld-mnist"] == "cld-mnist/gddim-50"


def test_sizes_that_differ_by_chance_are_level(digits):
    """Of 41.0, 42.0 and 50 MB the first two are best; what is hardly measurable is one."""
    report = digits[1]
    cells = [c for c in report.cells if c.is_default][:3]

    def memory(*sizes):
        changed = [replace(c, peak_memory=n) for c, n in zip(cells, sizes, strict=True)]
        found = table(replace(report, models=report.models[:3]), changed)
        k = next(i for i, column in enumerate(found.columns) if column.title == "memory")
        entries = [row.entries[k] for row in found.rows if not row.is_reference]
        return [(entry.text, entry.is_best) for entry in entries]

    near = memory(42_000_000, 41_000_000, 50_000_000)
    assert near == [("42 MB", True), ("41 MB", True), ("50 MB", False)]
    assert memory(0, 700_000, 9_000_000) == [("< 1 MB", True), ("< 1 MB", True), ("9.0 MB", False)]


def test_a_caption_says_which_figures_share_a_protocol(digits):
    cell = digits[1].cells[0]
    told = words.short_protocol([cell])
    assert told == (
        "Protocol: 10,000 samples against 10,000 real ones, train split, features digits."
    )
    far = tuple(replace(r, num_real=500) if r.name != "fd_digits" else r for r in cell.records)
    parted = words.short_protocol([replace(cell, records=far)], "distance", "coverage", "recall")
    assert parted == (
        "Protocol: distance: 10,000 samples against 10,000 real ones, train split, features "
        "digits; coverage and recall: 10,000 samples against 500 real ones, train split, features "
        "digits."
    )


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("mnist", "mnist"),
        ("ylecun/mnist", "ylecun/mnist"),
        ("/some/where/mnist", "mnist"),
        ("../mnist/", "mnist"),
        ("stacked:/some/where/mnist", "stacked:mnist"),
    ],
)
def test_data_on_a_disk_are_called_by_their_folder(digits, name, shown):
    assert words.data_name(replace(digits[1], data={"name": name})) == shown


def test_cells_have_names_to_say_aloud(digits):
    drawn, failed = digits[1].cells[4], digits[1].cells[-1]
    assert words.cell_name(drawn) == "lsgm-mnist with gddim in 20 calls"
    assert words.cell_name(failed) == "cld-mnist with sscs in 5 steps"
    adaptive = replace(failed, sampler="ode", steps=None, key="cld-mnist/ode-0.01")
    assert words.cell_name(adaptive) == "cld-mnist with ode at tolerance 0.01"
    assert words.cell_name(replace(drawn, sampler="file", nfe=0)) == "lsgm-mnist"


def test_best_marks_all_that_are_level_and_nobody_alone(digits):
    report = digits[1]
    near = examples.records(0.52, 0.05, 0.75, 0.87, 0.73, 0.90)
    cells = [replace(c, records=near) if c.model == "ddpm-mnist" else c for c in report.cells]
    found = table(report, [c for c in cells if c.is_default])
    k = next(i for i, column in enumerate(found.columns) if column.title == "distance")
    best = {row.title for row in found.rows if row.entries and row.entries[k].is_best}
    assert best == {"lsgm-mnist", "ddpm-mnist"}
    alone = table(report, report.cells[:1])
    assert not any(entry.is_best for row in alone.rows for entry in row.entries)


def test_a_model_is_named_once_in_a_plot_and_its_samplers_beside_their_lines(digits):
    html = digits[2]
    plot = next(p for p in re.split(r"(?=<svg)", html) if 'labelledby="time-0-wide' in p[:300])
    shown = re.findall(r"<text[^>]*halo[^>]*>([^<]*)</text>", plot)
    assert [text for text in shown if "ddpm" in text] == ["ddpm-mnist ancestral"]
    assert "gddim" in shown
    assert "lsgm-mnist" in shown
    narrow = next(p for p in re.split(r"(?=<svg)", html) if 'labelledby="time-0-narrow' in p[:300])
    shown = re.findall(r"<text[^>]*halo[^>]*>([^<]*)</text>", narrow)
    assert [text for text in shown if "ddpm" in text] == ["ddpm-mnist"]


def luminance(colour):
    """Relative luminance of #rrggbb (WCAG 2.2)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_colours_have_enough_contrast_in_light_and_dark(digits):
    style = digits[2].split("<style>")[1].split("</style>")[0]
    light, dark = (
        dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block))
        for block in re.findall(r":root \{(.*?)\}", style, re.DOTALL)[:2]
    )
    assert set(light) == set(dark)
    for colours in (light, dark):
        for text in ("ink", "soft", "link", "good", "bad"):
            for ground in ("paper", "raised"):
                assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
        assert contrast(colours["ink"], colours["mark"]) >= 4.5
        assert contrast(colours["soft"], colours["mark"]) >= 4.5
        assert contrast(colours["ink"], colours["warn"]) >= 4.5
        for i in range(7):
            assert contrast(colours[f"s{i}"], colours["paper"]) >= 3, i


def with_second_opinions(report, kernel="kd_digits", score="is_digits"):
    """Kernel distances and class scores in every cell: 0.1, 0.2, ... and 9.0, 8.9, ..."""

    def more(cell, i):
        rows = ((kernel, 0.1 * (i + 1), 0.01, -0.002, True), (score, 9 - 0.1 * i, 0.2, 8.8, False))
        added = (
            Record(
                name=name,
                value=value,
                low=value - reach,
                high=value + reach,
                floor=floor,
                lower_is_better=is_low,
                **examples.SHARED,
            )
            for name, value, reach, floor, is_low in rows
        )
        return replace(cell, records=(*cell.records, *added)) if cell.records else cell

    return replace(report, cells=tuple(more(cell, i) for i, cell in enumerate(report.cells)))


@pytest.mark.parametrize("names", [("kd_digits", "is_digits"), ("kid", "inception_score")])
def test_second_opinions_stand_in_the_table_of_all_cells(digits, names):
    folder, report, html = digits
    report = with_second_opinions(report, *names)
    made = page.render(report, folder)
    assert "kernel distance" not in rows_of(made, "One line per model")[1]
    rows = rows_of(made, "All cells")
    heads = dict(zip(["model", *rows[1]], range(99), strict=False))
    real, first, second, copied = rows[2:6]
    assert (real[heads["kernel distance"]], real[heads["class score"]]) == ("-0.0020", "8.80")
    assert first[heads["kernel distance"]] == "0.100 ± 0.010 best"
    assert second[heads["kernel distance"]] == "0.200 ± 0.010"
    # above real data is level with them: 9.0 and 8.9 score as 8.8
    assert first[heads["class score"]] == "9.00 ± 0.20 best"
    assert second[heads["class score"]] == "8.90 ± 0.20 best"
    assert copied[heads["kernel distance"]] == "0.300 ± 0.010 ‡"  # flagged as copies
    assert copied[heads["class score"]] == "8.80 ± 0.20 ‡"
    text = Reader(made).text
    assert "Kernel distance A second opinion on the distance" in text
    assert "Class score Whether a classifier" in text
    assert "Precision, density and class score above what real data score" in text
    before = Reader(html).text
    assert "Kernel distance" not in before and "Class score" not in before


def test_second_opinions_are_shown_where_there_is_one_table_only(tmp_path):
    report = with_second_opinions(examples.one_model(tmp_path))
    heads = rows_of(page.render(report, tmp_path), "One line per model")[1]
    assert {"kernel distance", "class score"} <= set(heads)


def test_classes_that_real_data_hardly_show_are_judged_nowhere(digits):
    """Of 100 samples: five classes that are due 20 times, and one short of it, and four rare."""
    report = digits[1]
    real = (200, 200, 200, 200, 199, 1, 0, 0, 0, 0)
    drawn = (40, 40, 18, 1, 1, 0, 0, 0, 0, 0)
    cells = [
        replace(cell, class_counts=drawn, real_class_counts=real, records=cell.records)
        for cell in report.cells[:2]
    ]
    small = replace(report, models=report.models[:2], cells=tuple(cells))

    def modes(found):
        made = table(found, found.cells)
        column = [c.title for c in made.columns].index("modes found")
        return [row.entries[column].text for row in made.rows], made.caption

    texts, caption = modes(small)
    assert texts == ["4", "3 of 4", "3 of 4"]  # the line of real data agrees with the models
    assert "as many real data show fewer than 20 times are not judged" in caption
    rest = "Not judged: 4, 5, 6, 7, 8 and 9; as many real data show them fewer than 20 times."
    assert words.missing(small, cells[0]) == f"Hardly ever drawn: 3. {rest}"
    even = replace(cells[0], class_counts=(40, 40, 17, 2, 1, *[0] * 5))
    told = f"All that can be judged are drawn: 0, 1, 2 and 3. {rest}"
    assert words.missing(small, even) == told
    few = replace(cells[0], class_counts=(9, 1, *[0] * 8))
    assert words.judged_classes(few) == ()
    assert words.missing(small, few) == (
        "Too few samples to say which of the 10 classes are missing."
    )
    alone = table(replace(small, cells=(few,)), [few])
    assert "modes found" not in [column.title for column in alone.columns]
    unknown = replace(cells[0], real_class_counts=())
    texts, caption = modes(replace(small, cells=(unknown,), models=small.models[:1]))
    assert texts == ["10", "5 of 10"] and "not judged" not in caption


def test_a_card_names_the_sampler(digits):
    text = Reader(digits[2]).text
    assert "lsgm-mnist gddim · 10 calls, 6.5 ms each, 64 at once · distance 0.86" in text


def test_times_of_one_drawing_are_among_the_limits(made):
    folder, report, html, _ = made(examples.digits)
    assert "of one drawing" not in html
    changed = {
        "lsgm-mnist/gddim-20": (5, 1),
        "ddpm-mnist/ancestral-50": (1, 1),
    }
    cells = []
    for cell in report.cells:
        repeats = changed.get(cell.key, (2, 2))
        speeds = zip(cell.speed, repeats, strict=False)
        cells.append(replace(cell, speed=tuple(replace(s, repeats=n) for s, n in speeds)))
    slow = replace(report, cells=tuple(cells))
    limits = Reader(page.render(slow, folder)).text.split("Limits")[1]
    assert (
        "These are: alone, ddpm-mnist with ancestral in 50 calls; 64 at once, lsgm-mnist with "
        "gddim in 20 calls and ddpm-mnist with ancestral in 50 calls."
    ) in limits


def test_files_of_samples_alone_are_said_to_be_no_models(tmp_path):
    report = examples.one_model(tmp_path)
    model = replace(report.models[0], family="samples")
    file = replace(report.cells[0], sampler="file", steps=None, nfe=0, speed=(), peak_memory=None)
    text = Reader(page.render(replace(report, models=(model,), cells=(file,)), tmp_path)).text
    assert "This report measures the first two" in text
    assert "which model to take for what" not in text
    assert text.count("Only files of samples were judged, so there is no model to recommend.") == 3
    assert "Nothing was drawn" not in text and "Nothing could be measured" not in text


def test_what_fitted_features_hardly_see_is_among_the_limits(made):
    folder, report, html, _ = made(examples.digits)
    flaws = ["blurred by 1 pixel", "noise of 0.05"]
    weak = replace(report, data={**report.data, "hardly_seen": flaws})
    text = Reader(page.render(weak, folder)).text
    told = "hardly see: blurred by 1 pixel, noise of 0.05. Do not compare models by them"
    assert told in text.split("Limits")[1] and "hardly see" not in html
    assert "hardly_seen" not in report.data  # as in reports of before


def test_unequal_training_is_told(tmp_path):
    """Where cards say how much data a model has seen; its own figures stay out of the page."""
    report = examples.one_model(tmp_path)
    first = replace(report.models[0], card={"images_seen": 500_000, "quality": "fd 3.14"})
    other = replace(first, name="other", card={"images_seen": 1_700_000})
    told = " ".join(words.limits(replace(report, models=(first, other))))
    assert f"not trained on equally much: {first.name} 500,000 and other 1,700,000 (counted" in told
    for models in (
        (first,),
        (first, replace(other, card={})),
        (first, replace(other, card=first.card)),
    ):
        assert "equally much" not in " ".join(words.limits(replace(report, models=models)))
    text = page.render(replace(report, models=(first,)), tmp_path)
    assert "500000" in text and "3.14" not in text


def test_what_the_check_for_copies_does_not_see_is_among_the_limits(digits):
    limits = Reader(digits[2]).text.split("Limits")[1]
    assert "none that are tilted, stretched, cut out or recoloured" in limits


def test_data_that_hardly_look_like_digits_are_among_the_limits(made):
    folder, report, html, _ = made(examples.digits)
    other = replace(report, data={**report.data, "unlike_digits": 0.6613})
    limits = Reader(page.render(other, folder)).text.split("Limits")[1]
    assert "the classifier gives 0.66 on average to the class it finds most probable" in limits
    assert "digits get at least 0.85" in limits
    assert "look like digits" not in html  # as in reports of before


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([3, 64, 64], "the first of them was given in colour, in 64 x 64 pixels"),
        ([1, 20, 30], "the first of them was given grey, in 20 x 30 pixels"),
        ([], ""),
        (None, ""),
    ],
)
def test_the_form_of_real_images_is_among_the_limits(given, told, made):
    folder, report, _, _ = made(examples.digits)
    other = replace(report, data={**report.data, "given_shape": given})
    limits = Reader(page.render(other, folder)).text.split("Limits")[1]
    assert told in limits
    brought = "brought to the form of the models, grey and 28 x 28 pixels"
    assert (brought in limits) == bool(told)
