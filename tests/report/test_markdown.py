"""The Markdown, read back by an independent parser."""

from dataclasses import replace

import examples
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from trilemma.metrics import Record
from trilemma.report import markdown
from trilemma.report.advice import advice, basis
from trilemma.report.claims import claims

READER = MarkdownIt("commonmark").enable("table")
ALL = [
    examples.digits,
    examples.points,
    examples.pictures64,
    examples.one_model,
    examples.all_failed,
    examples.hostile,
    examples.mixed_protocols,
]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The large example and its Markdown."""
    report = examples.digits(tmp_path_factory.mktemp("digits"))
    return report, markdown.render(report)


def plain(inline):
    """Words of an inline token, without its markup."""
    return "".join(token.content for token in inline.children or () if token.type == "text")


def tables(text):
    """All tables as lists of rows of plain words."""
    found, row = [], []
    for token in READER.parse(text):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            row = []
        elif token.type == "tr_close":
            found[-1].append(row)
        elif token.type == "inline" and found and token.level >= 4:
            row.append(plain(token))
    return found


def shown(text):
    """All words that a reader of the rendered document sees."""
    return " ".join(" ".join(plain(t) for t in READER.parse(text) if t.type == "inline").split())


@pytest.mark.parametrize("example", ALL, ids=lambda made: made.__name__)
def test_tables_are_whole_and_nothing_is_markup_of_the_user(example, tmp_path):
    report = example(tmp_path)
    text = markdown.render(report)
    for token in READER.parse(text):
        assert token.type != "html_block"
        assert not any(child.type == "html_inline" for child in token.children or ())
        assert not any(child.type in ("link_open", "image") for child in token.children or ())
    found = tables(text)
    assert found
    for rows in found:
        assert len({len(row) for row in rows}) == 1
    assert text.endswith("\n")
    assert "nan" not in text.split()


def test_figures_stand_in_their_columns(digits):
    found = tables(digits[1])[0]
    heads = {name: i for i, name in enumerate(found[0])}
    rows = {row[0].split(",")[0]: row for row in found[1:]}
    assert rows["lsgm-mnist"][heads["distance"]] == "0.480 ± 0.088 (floor 0.11)"
    assert rows["real data"][heads["distance"]] == "0.11"
    assert rows["cld-mnist"][heads["network calls"]] == "50"
    assert rows["edm-mine"][1].startswith("failed: runs/edm holds no model.safetensors")


def test_the_best_is_bold(digits):
    assert "**0.480 ± 0.088**" in digits[1]
    assert "**5.23 ± 0.37**" not in digits[1]


def test_words_of_the_report_are_all_there(digits):
    report, text = digits[0], shown(digits[1])
    about = basis(report)
    assert about.explanation in text
    assert text.count(about.left_out) == 1
    for one in advice(report):
        assert one.answer in text
        assert one.reason in text
    for claim in claims(report):
        assert claim.statement in text
        assert f"{claim.verdict}: {claim.reason}" in text
    assert "Never drawn: 8." in text
    assert "Signs of copying: 6.4 % of 2,000 samples" in text
    assert "10,000 samples against 10,000 real ones" in text


def test_protocols_that_differ_are_a_warning(tmp_path, digits):
    text = markdown.render(examples.mixed_protocols(tmp_path))
    assert "> **Not comparable.**" in text
    assert "num_fake is 500 instead of 10000" in shown(text)
    assert "Not comparable." not in digits[1]


def test_the_command_stays_as_it_is(tmp_path):
    report = examples.hostile(tmp_path)
    (fence,) = [t for t in READER.parse(markdown.render(report)) if t.type == "fence"]
    assert fence.content == f"$ {report.command}\n"


@given(
    text=st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Zl", "Zp")), min_size=1)
)
def test_escaped_text_is_shown_as_it_was(text):
    """Whatever the text: a cell of a table shows it, with single spaces."""
    expected = " ".join(text.split())
    made = f"| a | b |\n| :-- | :-- |\n| x{markdown.escape(text)}x | y |\n"
    assert tables(made)[0][1] == [f"x{expected}x", "y"]


def test_second_opinions_and_what_features_hardly_see(digits):
    report, before = digits
    shared = examples.SHARED | {"num_real": 9000}
    added = (
        Record(name="kd_digits", value=-0.003, floor=0.001, lower_is_better=True, **shared),
        Record(name="is_digits", value=8.1, floor=8.8, lower_is_better=False, **shared),
    )
    first = replace(report.cells[0], records=(*report.cells[0].records, *added))
    data = {**report.data, "hardly_seen": ["noise of 0.05"]}
    text = markdown.render(replace(report, cells=(first, *report.cells[1:]), data=data))
    chosen, whole = tables(text)[:2]
    assert "kernel distance" not in chosen[0]
    heads = {name: i for i, name in enumerate(whole[0])}
    assert whole[2][heads["kernel distance"]] == "-0.00300"
    assert whole[2][heads["class score"]] == "8.10"
    assert whole[1][heads["class score"]] == "8.80"
    assert "kernel distance and class score: 10,000 samples against 9,000" in shown(text)
    assert "Kernel distance: a second opinion" in shown(text)
    assert "Class score: whether a classifier" in shown(text)
    limits = shown(text).split("Limits")[1]
    assert "hardly see: noise of 0.05. Do not compare models by them" in limits
    assert "hardly see" not in before and "class score" not in before
