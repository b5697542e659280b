"""What claims share: the verdict on one, cells with their records, comparisons by intervals."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from trilemma.errors import ConfigError
from trilemma.metrics import Record, check_comparable
from trilemma.report.flaws import is_copied, missing, narrow
from trilemma.report.formats import listed, spread_text
from trilemma.report.intervals import Interval, interval_of, modes_of
from trilemma.report.ranking import MEASURES, record_of
from trilemma.report.record import Cell, Report
from trilemma.report.words import cell_name

__all__ = [
    "FEW_GAN_CALLS",
    "MANY_CALLS",
    "PIXEL",
    "SCORE",
    "VARIETY",
    "Claim",
    "Found",
    "Seen",
    "Verdict",
    "badness",
    "beware",
    "compare",
    "ends",
    "is_at_most",
    "is_worse",
    "judge",
    "label",
    "lacking",
    "seen_of",
    "told",
    "undecided",
]

Verdict = Literal["reproduced", "not reproduced", "not comparable"]

PIXEL = ("ddpm", "edm")
SCORE = ("lsgm", "cld", *PIXEL)
VARIETY = ("recall", "coverage", "num_modes")
MANY_CALLS = 100
"""Of pixel diffusion beside latent calls, and of a score model that is not drawn by default."""
FEW_GAN_CALLS = 4

OTHER_DATA = "other data than published: figures are not comparable, the relation is"
SAME_DATA = "the published data; figures agree only under the published features and sizes too"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One published claim and what became of it here.

    Attributes:
        method: of the claim, such as "LSGM".
        statement: the claim, in one sentence.
        published: the figures it rests on.
        source: paper and table.
        measured: the figures of this report, also of one side alone; empty if there are none.
        verdict: "reproduced", "not reproduced" or "not comparable".
        reason: of the verdict, or what to add to the report.
    """

    method: str
    statement: str
    published: str
    source: str
    measured: str
    verdict: Verdict
    reason: str


class Found(NamedTuple):
    """What a claim came to."""

    verdict: Verdict
    reason: str
    measured: str = ""


class Seen(NamedTuple):
    """A cell with the record that a claim speaks of."""

    cell: Cell
    record: Record

    def __str__(self) -> str:
        return f"{cell_name(self.cell)}: {spread_text(self.record)}"


def judge(
    rule: Callable[[Report], Found],
    shown: Callable[[Report], str],
    report: Report,
    published_data: str,
    families: tuple[str, ...] = (),
) -> Found:
    """Apply a rule; records of different protocols make the claim incomparable.

    What ``shown`` tells stands beside a claim that could not be judged. Copies of training data
    among ``families`` took no part, and are named.
    """
    try:
        found = rule(report)
    except ConfigError as error:
        found = Found("not comparable", str(error))
    if found.verdict == "not comparable" and not found.measured:
        found = found._replace(measured=shown(report))
    copies = [
        cell_name(cell)
        for cell in report.measured()
        if report.family_of(cell) in families and is_copied(cell)
    ]
    if copies:
        left_out = f"left out for signs of copying: {listed(copies)}"
        found = found._replace(reason=f"{found.reason}; {left_out}")
    if found.verdict == "not comparable" or not published_data:
        return found
    ours = re.sub("[^a-z0-9]", "", str(report.data.get("name", "")).lower())
    about = SAME_DATA if published_data in ours else OTHER_DATA
    return found._replace(reason=f"{found.reason}; {about}")


def seen_of(report: Report, families: tuple[str, ...], *names: str) -> list[Seen]:
    """Cells of some families with the first of some records that they have and that is finite.

    Copies of training data have no quality, only variety that is read beside it.
    """
    found = []
    for cell in report.measured():
        if report.family_of(cell) not in families or (names != VARIETY and is_copied(cell)):
            continue
        records = (record_of(cell, name) for name in names or ("distance",))
        record = next(filter(None, records), None)
        if record is not None:
            found.append(Seen(cell, record))
    return found


def told(*sides: Sequence[Seen]) -> str:
    """The best of each side that there is."""
    return "; ".join(str(min(side, key=badness)) for side in sides if side)


def beware(report: Report, *seen: Seen) -> str:
    """What a distance does not show of cells: classes, modes or variety missing."""
    found = [
        f"; beware of {cell_name(cell)}: {listed(flaws)}"
        for cell, _ in seen
        if (flaws := (*missing(report, cell), *narrow(cell)))
    ]
    return "".join(found)


def badness(seen: Seen) -> float:
    """A value of which less is better."""
    return seen.record.value if seen.record.lower_is_better else -seen.record.value


def label(record: Record) -> str:
    """What a reader calls a measure; distances by one name, whatever their features."""
    return MEASURES[record.name].short if record.name in MEASURES else "distance"


def lacking(report: Report, families: tuple[str, ...], what: str) -> Found:
    """The report lacks something; models and cells that failed say why."""
    names = {model.name for model in report.models if model.family in families}
    failed = [f"{m.name} failed: {m.error}" for m in report.models if m.error and m.name in names]
    cells = [cell for cell in report.cells if cell.error and cell.model in names]
    failed += [f"{cell_name(cell)} failed: {cell.error}" for cell in cells]
    return Found("not comparable", "; ".join([what, *failed]))


def undecided(measured: str) -> Found:
    """The samples leave it open; what was measured stands beside it."""
    return Found(
        "not comparable",
        "the intervals leave it open, which decides nothing: draw more samples",
        measured,
    )


def compare(a: Record, b: Record) -> int:
    """Return -1 if ``a`` is clearly better, 1 if clearly worse, 0 if the intervals meet.

    Raises:
        ConfigError: if the records are of different protocols.
    """
    check_comparable(a, b)
    one, other = ends(a), ends(b)
    if not a.lower_is_better:
        one, other = other, one
    return -1 if one.high < other.low else int(one.low > other.high)


def ends(record: Record) -> Interval:
    """Ends of what the samples leave open."""
    return modes_of(record) if record.name == "num_modes" else interval_of(record)


def is_worse(a: Record, b: Record) -> bool:
    """Whether the value of ``a`` is worse, clearly or not."""
    return a.value > b.value if a.lower_is_better else a.value < b.value


def is_at_most(a: Record, b: Record, times: float = 1.0) -> bool | None:
    """Whether a distance is at most so many times another; None if the samples leave it open.

    Raises:
        ConfigError: if the records are of different protocols.
    """
    check_comparable(a, b)
    one, other = interval_of(a), interval_of(b)
    floor = max(a.floor or 0.0, b.floor or 0.0)
    if one.high <= times * other.low - (times - 1) * floor:
        return True
    return False if one.low > times * other.high else None
