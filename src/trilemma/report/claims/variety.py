"""A plain GAN misses modes (Xiao et al., 2022): with T = 1 networks cover less than with T > 1.

Table 2 has recall 0.19 against 0.57 with T = 4. Each T > 1 of the report, of the same networks, is
compared by recall, coverage and the number of modes (``intervals.modes_of``), as shares; gaps up to
0.02 are none. The claim holds with a T if at least one of the three is clearly lower with T = 1 and
no value is higher; it fails with a T if one is clearly higher and no value is lower; a T with both
lower and higher values decides nothing. The claim is not reproduced if it fails with a T;
reproduced if it holds with one, and with no T values are only higher; else open. Where all gaps are
at most 0.02 and the intervals leave room for none above it, no number of samples decides.
"""

from __future__ import annotations

from typing import NamedTuple

from trilemma.errors import ConfigError
from trilemma.report.claims.base import (
    VARIETY,
    Claim,
    Found,
    Seen,
    compare,
    ends,
    judge,
    label,
    lacking,
    seen_of,
    undecided,
)
from trilemma.report.flaws import is_copied
from trilemma.report.formats import listed, spread_text
from trilemma.report.intervals import modes_in_all
from trilemma.report.ranking import missing_classes, record_of
from trilemma.report.record import Cell, Report
from trilemma.report.words import judged_classes

__all__ = ["variety"]

LEAST_GAP = 0.02
"""Shares of what is covered that differ by no more are taken as equal, however many the samples."""


def variety(report: Report) -> Claim:
    """A plain GAN misses modes.

    Args:
        report: what was measured.
    """
    return Claim(
        method="GAN",
        statement="With T = 1, a plain GAN, networks cover less of the data than with T > 1.",
        published="CIFAR-10: T = 1 FID 14.6, recall 0.19; T = 4 FID 3.75, recall 0.57",
        source="Xiao et al., 2022, Table 2",
        **judge(_missed_modes, _modes_shown, report, "cifar10")._asdict(),
    )


def _missed_modes(report: Report) -> Found:
    single, several = seen_of(report, ("gan",), *VARIETY), _several(report)
    if not single:
        return lacking(
            report, ("gan",), "add the model with T = 1, a plain GAN, such as recipe gan-mnist"
        )
    if not several:
        return lacking(
            report, ("ddgan",), "add the same networks with T = 4, such as recipe ddgan-mnist"
        )
    sizes = {model.name: model.num_parameters for model in report.models}
    pairs = [
        (a.cell, b.cell)
        for b in sorted(several, key=lambda seen: seen.cell.nfe)
        for a in single
        if sizes[a.cell.model] == sizes[b.cell.model]
    ]
    if not pairs:
        return lacking(report, (), "T = 1 and T > 1 have networks of different sizes: add equals")
    found: list[_Variety] = []
    errors: list[ConfigError] = []
    for one, other in pairs:
        try:
            found.append(_variety(one, other))
        except ConfigError as error:
            errors.append(error)
    found = [pair for pair in found if pair.is_measured]
    if not found:
        if errors:
            raise errors[0]
        return lacking(report, (), "measure recall or coverage of T = 1 and of T > 1")
    measured = ". ".join(pair.told for pair in found)
    holds = [f"T = {p.calls} ({listed(p.low)})" for p in found if p.low and not p.above]
    fails = [f"T = {p.calls} ({listed(p.high)})" for p in found if p.high and not p.below]
    leans = [p for p in found if p.above and not p.below]
    mixed = [
        f"{listed(p.below)} lower and {listed(p.above)} higher than with T = {p.calls}, which "
        "decides nothing"
        for p in found
        if p.below and p.above
    ]
    if fails:
        reason = f"clearly higher with T = 1 than with {listed(fails)}"
        if holds:
            reason += f", clearly lower than with {listed(holds)}"
        return Found("not reproduced", "; ".join([reason, *mixed]), measured)
    if holds and not leans:
        reason = f"clearly lower with T = 1 than with {listed(holds)}"
        return Found("reproduced", "; ".join([reason, *mixed]), measured)
    if mixed and len(mixed) == len(found):
        return Found("not comparable", "; ".join(mixed), measured)
    if not any(p.above or p.below for p in found):
        reason = f"no gap is above {LEAST_GAP}, and gaps up to {LEAST_GAP} count as none"
        if any(p.may_differ for p in found):
            reason += "; the intervals leave room for more: draw more samples"
        return Found("not comparable", reason, measured)
    return undecided(measured)


class _Variety(NamedTuple):
    """T = 1 beside one T > 1."""

    calls: int
    told: str
    low: tuple[str, ...]
    """Measures that are clearly lower with T = 1, and by more than ``LEAST_GAP``."""
    high: tuple[str, ...]
    below: tuple[str, ...]
    """Measures whose value is lower by more than that, clearly or not."""
    above: tuple[str, ...]
    may_differ: bool
    """Whether the intervals leave room for a gap of more than that."""

    @property
    def is_measured(self) -> bool:
        """Whether the two share a measure."""
        return bool(self.told)


def _variety(one: Cell, other: Cell) -> _Variety:
    """Compare what two cells cover.

    Raises:
        ConfigError: if their records are of different protocols.
    """
    told: list[str] = []
    below: list[str] = []
    above: list[str] = []
    clear: set[str] = set()
    may_differ = False
    for name in VARIETY:
        a, b = record_of(one, name), record_of(other, name)
        if a is None or b is None:
            continue
        whole = (modes_in_all(a) or 1.0) if name == "num_modes" else 1.0
        gap = (a.value - b.value) / whole
        if abs(gap) > LEAST_GAP:
            (below if gap < 0 else above).append(label(a))
        if compare(a, b):
            clear.add(label(a))
        here, there = ends(a), ends(b)
        widest = max(here.high - there.low, there.high - here.low) / whole
        may_differ = may_differ or widest > LEAST_GAP
        told.append(f"{label(a)} {spread_text(a)} against {spread_text(b)}")
    is_measured = bool(told)
    for cell in (one, other):
        if judged := len(judged_classes(cell)):
            shown = judged - len(missing_classes(cell))
            told.append(f"{cell.model} shows {shown} of {judged} classes")
        if is_copied(cell):
            told.append(f"{cell.model} shows signs of copying")
    a, b = one.distance, other.distance
    if a is not None and b is not None:
        told.append(f"{label(a)} {spread_text(a)} against {spread_text(b)}")
    names = f"{one.model} (T = {one.nfe}) against {other.model} (T = {other.nfe})"
    return _Variety(
        calls=other.nfe,
        told=f"{names}: {'; '.join(told)}" if is_measured else "",
        low=tuple(name for name in below if name in clear),
        high=tuple(name for name in above if name in clear),
        below=tuple(below),
        above=tuple(above),
        may_differ=may_differ,
    )


def _several(report: Report) -> list[Seen]:
    """Denoising diffusion GANs of more than one step."""
    return [seen for seen in seen_of(report, ("ddgan",), *VARIETY) if seen.cell.nfe > 1]


def _modes_shown(report: Report) -> str:
    """What each T covers."""
    told = []
    for cell, _ in (*seen_of(report, ("gan",), *VARIETY), *_several(report)):
        records = [record for name in VARIETY if (record := record_of(cell, name))]
        figures = ", ".join(f"{label(record)} {spread_text(record)}" for record in records)
        told.append(f"{cell.model} (T = {cell.nfe}): {figures}")
    return "; ".join(told)
