r"""Headline claims of the papers, each held against what a report measured.

A claim is a *relation*: this many network calls are enough, this sampler beats that one. Figures
depend on data, features and networks, so a report on other data can confirm or contradict the
relation and never the published figure; the reason says so. Three verdicts:

* "reproduced": the relation holds at the ends of the intervals that speak most against it;
* "not reproduced": it fails even at the ends that speak most for it;
* "not comparable": neither, and more samples may decide it; or the report lacks what the claim
  speaks of, or its records are of different protocols. The reason names what to add, and the
  figures that there are stand beside it.

One rule serves all claims that compare distances. Let a and b be two of one protocol, with the ends
of their 95 % intervals (``trilemma.report.intervals``), and f what real data score in the place of
samples. "a is at most k times b" is

* reproduced if a_high - f <= k (b_low - f),
* not reproduced if a_low > k b_high,
* open in between.

A Fréchet distance of n samples lies above that of endlessly many, by an amount that goes as 1 / n
and depends little on the model; f measures it. It pulls every ratio towards 1, hence the first line
is about what lies above f. With k = 1, "no worse", f cancels; two whose intervals overlap are open.

Fewer samples have wider intervals and a higher f. Both make both verdicts harder to reach, so few
samples never make a claim easier to reproduce. Where a claim looks at several pairs, those that
speak for it count by their intervals, and those that speak against it by their values: a loss does
not go away when it is measured badly. Times have no intervals and are judged as they are.

Copies of training data score well without being new: a cell that the check flags takes no part in
claims 1 to 3, which are about quality, and is named. What else is wrong with a cell that counts,
classes, modes or variety missing (``trilemma.report.flaws``), stands beside its figure in claims 1
and 3.

The claims:

1. **Latent diffusion needs few calls** (Vahdat et al., 2021): at most 23 calls are no worse (k = 1)
   than the best pixel diffusion in at least 100. Published: 23 calls with FID 7.22 beside 4000
   calls of a score SDE with 7.23.
2. **SSCS beats Euler-Maruyama at few steps** (Dockhorn et al., 2022): same model, grid and steps.
   The paper's relation that we could check is at 150 steps, so up to 150 are few. It holds if SSCS
   is clearly better, its interval apart from the other, at one such number of steps and has the
   worse value at none; it fails if SSCS is clearly worse at one.
3. **Denoising diffusion GANs are good in 4 calls** (Xiao et al., 2022). Nobody claims that they are
   best: Table 1 has FID 3.75 in 4 calls, and 2.10 for the best score model, LSGM. "Near" is
   therefore what it was there: a distance of at most k = 3.75 / 2.10 = 1.79 times that of the
   best score model of the report, latent ones included. One of them must be there in full: as it
   draws by default, or in at least 100 calls. Else the best may only be the one that was cut short.
4. **And fast**: the same table has 0.21 s for 100 pictures, 80.5 s for DDPM in 1000 calls, 423.2 s
   for a score SDE in 2000, by predictor-corrector sampling, which is "up to 2000 times". Networks
   of one size give about 1000 / 4 = 250 times in 1000 calls, so at least 100 times are asked for
   there; against predictor-corrector sampling in 2000 calls or more the published 2015.
5. **A plain GAN misses modes**: with T = 1 the same networks cover less than with T > 1; Table 2
   has recall 0.19 against 0.57 with T = 4. Each T > 1 of the report is compared by recall, coverage
   and the number of modes (``intervals.modes_of``), as shares; gaps up to 0.02 are none. The claim
   holds with a T if at least one of the three is clearly lower with T = 1 and no value is higher;
   it fails with a T if one is clearly higher and no value is lower; a T with both lower and higher
   values decides nothing. The claim is not reproduced if it fails with a T; reproduced if it holds
   with one, and with no T values are only higher; else open. Where all gaps are at most 0.02 and
   the intervals leave room for none above it, no number of samples decides.

Published figures are those that later papers and the authors' notes quote; none that we only
recall is printed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from trilemma.errors import ConfigError
from trilemma.metrics import Record, check_comparable
from trilemma.report.flaws import is_copied, missing, narrow
from trilemma.report.formats import duration, listed, spread_text
from trilemma.report.intervals import Interval, interval_of, modes_in_all, modes_of
from trilemma.report.ranking import MEASURES, missing_classes, record_of
from trilemma.report.record import Cell, Report
from trilemma.report.words import cell_name, judged_classes

__all__ = ["Claim", "Verdict", "claims"]

Verdict = Literal["reproduced", "not reproduced", "not comparable"]

PIXEL = ("ddpm", "edm")
SCORE = ("lsgm", "cld", *PIXEL)
VARIETY = ("recall", "coverage", "num_modes")
FEW_LATENT_CALLS = 23
MANY_CALLS = 100
"""Of pixel diffusion in claim 1, and of a score model that does not draw by default in claim 3."""
FEW_SSCS_STEPS = 150
FEW_GAN_CALLS = 4
LEAST_GAP = 0.02
"""Shares of what is covered that differ by no more are taken as equal, however many the samples."""
NEAR = 3.75 / 2.10
"""Published distance of DDGAN over that of the best score model (Xiao et al., 2022, Table 1)."""
SLOW_CALLS = 1000
SLOWEST_CALLS = 2000
LEAST_TIMES = 100.0
"""Asked for from 1000 calls on: networks of one size give about 250, the published ones 383."""
MOST_TIMES = 423.2 / 0.21
"""Published against predictor-corrector sampling in 2000 calls (Xiao et al., 2022, Table 1)."""

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


def claims(report: Report) -> tuple[Claim, ...]:
    """Hold the headline claims against a report; all of them, whatever was measured.

    Args:
        report: what was measured.

    Returns:
        Five claims, in the order of the module's docstring.
    """
    return (
        Claim(
            method="LSGM",
            statement=(
                f"At most {FEW_LATENT_CALLS} network calls in latent space give a distance no "
                f"worse than the best pixel diffusion in at least {MANY_CALLS}."
            ),
            published="CelebA-HQ 256: FID 7.22 in 23 calls, beside 7.23 in 4000 calls in pixels",
            source="Vahdat et al., 2021",
            **_judge(_latent_calls, _latent_shown, report, "celebahq", ("lsgm", *PIXEL))._asdict(),
        ),
        Claim(
            method="CLD",
            statement=(
                "The splitting sampler SSCS is better than Euler-Maruyama at few steps of the "
                f"same grid (at most {FEW_SSCS_STEPS})."
            ),
            published="CIFAR-10: FID 3.07 with SSCS and 7.00 with Euler-Maruyama at 150 steps",
            source="Dockhorn et al., 2022",
            **_judge(_splitting, _splitting_shown, report, "cifar10", ("cld",))._asdict(),
        ),
        Claim(
            method="DDGAN",
            statement=(
                f"At most {FEW_GAN_CALLS} network calls give a distance near that of the best "
                f"score model (at most {NEAR:.2f} times, as published)."
            ),
            published="CIFAR-10: FID 3.75, recall 0.57 in 4 calls; best score model 2.10, 0.61",
            source="Xiao et al., 2022, Table 1",
            **_judge(_few_steps, _few_shown, report, "cifar10", ("ddgan", *SCORE))._asdict(),
        ),
        Claim(
            method="DDGAN",
            statement=(
                f"At most {FEW_GAN_CALLS} network calls are at least {LEAST_TIMES:.0f} times as "
                f"fast as a score model in {SLOW_CALLS} calls or more, and at least "
                f"{MOST_TIMES:.0f} times as fast as predictor-corrector sampling in "
                f"{SLOWEST_CALLS} or more."
            ),
            published=(
                "100 pictures of CIFAR-10 on one V100: 0.21 s in 4 calls, 80.5 s for DDPM in 1000, "
                "423.2 s for a score SDE in 2000"
            ),
            source="Xiao et al., 2022, Table 1",
            **_judge(_times, _times_shown, report, "")._asdict(),
        ),
        Claim(
            method="GAN",
            statement="With T = 1, a plain GAN, networks cover less of the data than with T > 1.",
            published="CIFAR-10: T = 1 FID 14.6, recall 0.19; T = 4 FID 3.75, recall 0.57",
            source="Xiao et al., 2022, Table 2",
            **_judge(_missed_modes, _modes_shown, report, "cifar10")._asdict(),
        ),
    )


class _Found(NamedTuple):
    """What a claim came to."""

    verdict: Verdict
    reason: str
    measured: str = ""


class _Seen(NamedTuple):
    """A cell with the record that a claim speaks of."""

    cell: Cell
    record: Record

    def __str__(self) -> str:
        return f"{cell_name(self.cell)}: {spread_text(self.record)}"


def _judge(
    rule: Callable[[Report], _Found],
    shown: Callable[[Report], str],
    report: Report,
    published_data: str,
    families: tuple[str, ...] = (),
) -> _Found:
    """Apply a rule; records of different protocols make the claim incomparable.

    What ``shown`` tells stands beside a claim that could not be judged. Copies of training data
    among ``families`` took no part, and are named.
    """
    try:
        found = rule(report)
    except ConfigError as error:
        found = _Found("not comparable", str(error))
    if found.verdict == "not comparable" and not found.measured:
        found = found._replace(measured=shown(report))
    copies = [
        cell_name(cell)
        for cell in report.measured()
        if report.family_of(cell) in families and is_copied(cell)
    ]
    if copies:
        told = f"left out for signs of copying: {listed(copies)}"
        found = found._replace(reason=f"{found.reason}; {told}")
    if found.verdict == "not comparable" or not published_data:
        return found
    ours = re.sub("[^a-z0-9]", "", str(report.data.get("name", "")).lower())
    about = SAME_DATA if published_data in ours else OTHER_DATA
    return found._replace(reason=f"{found.reason}; {about}")


def _latent_calls(report: Report) -> _Found:
    latent, pixel = _seen(report, ("lsgm",)), _seen(report, PIXEL)
    if not latent:
        return _lacking(report, ("lsgm",), "add a latent model (lsgm) with a Fréchet distance")
    if not pixel:
        return _lacking(report, PIXEL, "add a pixel model (ddpm or edm) with a Fréchet distance")
    walks = [seen for seen in pixel if seen.cell.nfe >= MANY_CALLS]
    if not walks:
        most = max((seen.cell for seen in pixel), key=lambda cell: cell.nfe)
        return _lacking(
            report,
            PIXEL,
            f"add a cell of {most.model} at {MANY_CALLS} calls or more, such as "
            f"--ladder default ancestral:1000 (it has at most {most.nfe})",
        )
    many = min(walks, key=_badness)
    few = [seen for seen in latent if seen.cell.nfe <= FEW_LATENT_CALLS]
    if not few:
        return _lacking(
            report,
            ("lsgm",),
            f"add a cell of {latent[0].cell.model} in at most {FEW_LATENT_CALLS} calls, such as "
            "--ladder default gddim:10,20",
        )
    answers = []
    for seen in sorted(latent, key=lambda seen: (seen.cell.nfe, seen.record.value)):
        answers.append(_is_at_most(seen.record, many.record))
        if answers[-1]:
            measured = f"{seen} against {many}{_beware(report, seen, many)}"
            if seen.cell.nfe > FEW_LATENT_CALLS and None not in answers:
                reason = f"the distance is no worse only from {seen.cell.nfe} calls on"
                return _Found("not reproduced", reason, measured)
            if seen.cell.nfe <= FEW_LATENT_CALLS:
                return _Found("reproduced", "the distance is no worse, by both intervals", measured)
    best = min(few, key=_badness)
    measured = f"{best} against {many}{_beware(report, best, many)}"
    if None in answers:
        return _undecided(measured)
    return _Found("not reproduced", "the distance of every latent cell is worse", measured)


def _latent_shown(report: Report) -> str:
    """The best latent cell, of few calls if there is one, and the best long walk in pixels.

    Without one of as many calls as the claim asks for, the longest.
    """
    latent, pixel = _seen(report, ("lsgm",)), _seen(report, PIXEL)
    few = [seen for seen in latent if seen.cell.nfe <= FEW_LATENT_CALLS]
    most = min(MANY_CALLS, max((seen.cell.nfe for seen in pixel), default=0))
    return _told(few or latent, [seen for seen in pixel if seen.cell.nfe >= most])


def _splitting(report: Report) -> _Found:
    drawn = {
        (seen.cell.model, seen.cell.grid, seen.cell.steps, seen.cell.sampler): seen.record
        for seen in _seen(report, ("cld",), "distance", "high_quality")
        if seen.cell.steps is not None and seen.cell.steps <= FEW_SSCS_STEPS
    }
    told: list[str] = []
    better: list[str] = []
    worse: list[str] = []
    behind: list[str] = []
    for (model, grid, steps, sampler), euler in sorted(drawn.items(), key=lambda item: item[0]):
        sscs = drawn.get((model, grid, steps, "sscs"))
        if sampler != "euler_maruyama" or sscs is None:
            continue
        sign = _compare(sscs, euler)
        told.append(
            f"{model}, {steps} steps: {_label(sscs)} {spread_text(sscs)} with "
            f"SSCS, {spread_text(euler)} with Euler-Maruyama"
        )
        if sign:
            (better if sign < 0 else worse).append(f"{steps}")
        elif _is_worse(sscs, euler):
            behind.append(f"{steps}")
    if not told:
        return _lacking(
            report,
            ("cld",),
            "add cells of a Langevin model (cld) with both samplers at the same few steps, such as "
            "--ladder default sscs:20,50 euler_maruyama:20,50",
        )
    measured = "; ".join(told)
    if worse:
        reason = f"SSCS is clearly worse at {', '.join(worse)} steps"
        return _Found("not reproduced", reason, measured)
    if better and not behind:
        reason = f"SSCS is clearly better at {', '.join(better)} steps and worse at none"
        return _Found("reproduced", reason, measured)
    return _undecided(measured)


def _splitting_shown(report: Report) -> str:
    """The best cell of each of the two samplers, at few steps if there is one."""
    sides = []
    for sampler in ("sscs", "euler_maruyama"):
        seen = _seen(report, ("cld",), "distance", "high_quality")
        seen = [one for one in seen if one.cell.sampler == sampler]
        few = [one for one in seen if (one.cell.steps or math.inf) <= FEW_SSCS_STEPS]
        sides.append(few or seen)
    return _told(*sides)


def _few_steps(report: Report) -> _Found:
    ours = [seen for seen in _seen(report, ("ddgan",)) if seen.cell.nfe <= FEW_GAN_CALLS]
    score = _seen(report, SCORE)
    if not ours:
        return _lacking(
            report,
            ("ddgan",),
            f"add a denoising diffusion GAN in at most {FEW_GAN_CALLS} calls with a Fréchet "
            "distance",
        )
    if not score:
        return _lacking(
            report, SCORE, "add a score model (ddpm, edm, cld or lsgm) with a Fréchet distance"
        )
    if not any(seen.cell.is_default or seen.cell.nfe >= MANY_CALLS for seen in score):
        return _lacking(
            report,
            SCORE,
            "add a score model as it draws by default (--ladder default), or in "
            f"{MANY_CALLS} calls or more: {listed([cell_name(seen.cell) for seen in score], 6)} "
            "may be cut short",
        )
    one, best = (min(seen, key=_badness) for seen in (ours, score))
    is_near = _is_at_most(one.record, best.record, NEAR)
    measured = f"{one} against {best}"
    if best.record.value > 0:
        measured += f": {one.record.value / best.record.value:.2f} times"
    measured += _beware(report, one, best)
    if is_near is None:
        return _undecided(measured)
    if is_near:
        return _Found("reproduced", f"at most {NEAR:.2f} times, by both intervals", measured)
    return _Found("not reproduced", f"clearly more than {NEAR:.2f} times", measured)


def _few_shown(report: Report) -> str:
    """The best denoising diffusion GAN, in few calls if there is one, and the best score model."""
    ours = _seen(report, ("ddgan",))
    few = [seen for seen in ours if seen.cell.nfe <= FEW_GAN_CALLS]
    return _told(few or ours, _seen(report, SCORE))


def _times(report: Report) -> _Found:
    timed = [cell for cell in report.measured() if cell.speed]
    ours = [c for c in timed if report.family_of(c) == "ddgan" and c.nfe <= FEW_GAN_CALLS]
    slow = [c for c in timed if report.family_of(c) in SCORE and c.nfe >= SLOW_CALLS]
    if not ours:
        return _lacking(
            report,
            ("ddgan",),
            f"add a denoising diffusion GAN in at most {FEW_GAN_CALLS} calls, timed",
        )
    if not slow:
        return _lacking(
            report,
            SCORE,
            f"add a timed cell of a score model in {SLOW_CALLS} calls or more, such as "
            "--ladder default predictor_corrector:1000",
        )
    most = _slowest(slow)
    cell = min(ours, key=Cell.milliseconds)
    batch = _common_batch(cell, most)
    if batch is None:
        return _lacking(
            report, (), f"time {cell_name(cell)} and {cell_name(most)} at one batch size"
        )
    one, other = cell.milliseconds(batch), most.milliseconds(batch)
    is_corrected = most.sampler == "predictor_corrector" and most.nfe >= SLOWEST_CALLS
    bar = MOST_TIMES if is_corrected else LEAST_TIMES
    published = (
        f"as published for predictor-corrector sampling in {SLOWEST_CALLS} calls"
        if is_corrected
        else f"published are {80.5 / 0.21:.0f} in {SLOW_CALLS} calls, of another network"
    )
    measured = _ratio(cell, most, batch)
    return _Found(
        "reproduced" if other >= bar * one else "not reproduced",
        f"at least {bar:.0f} times are asked for ({published}); the ratio depends on both networks "
        "and on the machine",
        measured,
    )


def _times_shown(report: Report) -> str:
    """The fastest denoising diffusion GAN and the longest walk that was timed, and their ratio."""
    timed = [cell for cell in report.measured() if cell.speed]
    ours = [cell for cell in timed if report.family_of(cell) == "ddgan"]
    ours = [cell for cell in ours if cell.nfe <= FEW_GAN_CALLS] or ours
    slow = [cell for cell in timed if report.family_of(cell) in SCORE]
    fastest = [min(ours, key=Cell.milliseconds)] if ours else []
    longest = [_slowest(slow)] if slow else []
    if fastest and longest:
        batch = _common_batch(fastest[0], longest[0])
        if batch is not None:
            return _ratio(fastest[0], longest[0], batch)
    return "; ".join(
        f"{cell_name(cell)}: {duration(cell.milliseconds())} a sample, in batches of "
        f"{max(speed.batch_size for speed in cell.speed)}"
        for cell in (*fastest, *longest)
    )


def _slowest(cells: Sequence[Cell]) -> Cell:
    """The cell that times are held against: predictor-corrector first, then the most calls."""
    return max(cells, key=lambda cell: (cell.sampler == "predictor_corrector", cell.nfe))


def _common_batch(a: Cell, b: Cell) -> int | None:
    """The largest batch size at which both were timed."""
    sizes = {speed.batch_size for speed in a.speed} & {speed.batch_size for speed in b.speed}
    return max(sizes, default=None)


def _ratio(cell: Cell, most: Cell, batch: int) -> str:
    """Times of two cells at a batch size, and how many times one is the other."""
    one, other = cell.milliseconds(batch), most.milliseconds(batch)
    digits = 0 if other >= 10 * one else 1
    return (
        f"{cell_name(cell)}: {duration(one)} a sample; {cell_name(most)}: {duration(other)}, in "
        f"batches of {batch}: {other / one:,.{digits}f} times"
    )


def _missed_modes(report: Report) -> _Found:
    single, several = _seen(report, ("gan",), *VARIETY), _several(report)
    if not single:
        return _lacking(
            report, ("gan",), "add the model with T = 1, a plain GAN, such as recipe gan-mnist"
        )
    if not several:
        return _lacking(
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
        return _lacking(report, (), "T = 1 and T > 1 have networks of different sizes: add equals")
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
        return _lacking(report, (), "measure recall or coverage of T = 1 and of T > 1")
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
        return _Found("not reproduced", "; ".join([reason, *mixed]), measured)
    if holds and not leans:
        reason = f"clearly lower with T = 1 than with {listed(holds)}"
        return _Found("reproduced", "; ".join([reason, *mixed]), measured)
    if mixed and len(mixed) == len(found):
        return _Found("not comparable", "; ".join(mixed), measured)
    if not any(p.above or p.below for p in found):
        reason = f"no gap is above {LEAST_GAP}, and gaps up to {LEAST_GAP} count as none"
        if any(p.may_differ for p in found):
            reason += "; the intervals leave room for more: draw more samples"
        return _Found("not comparable", reason, measured)
    return _undecided(measured)


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
            (below if gap < 0 else above).append(_label(a))
        if _compare(a, b):
            clear.add(_label(a))
        ends, others = _ends(a), _ends(b)
        widest = max(ends.high - others.low, others.high - ends.low) / whole
        may_differ = may_differ or widest > LEAST_GAP
        told.append(f"{_label(a)} {spread_text(a)} against {spread_text(b)}")
    is_measured = bool(told)
    for cell in (one, other):
        if judged := len(judged_classes(cell)):
            shown = judged - len(missing_classes(cell))
            told.append(f"{cell.model} shows {shown} of {judged} classes")
        if is_copied(cell):
            told.append(f"{cell.model} shows signs of copying")
    a, b = one.distance, other.distance
    if a is not None and b is not None:
        told.append(f"{_label(a)} {spread_text(a)} against {spread_text(b)}")
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


def _several(report: Report) -> list[_Seen]:
    """Denoising diffusion GANs of more than one step."""
    return [seen for seen in _seen(report, ("ddgan",), *VARIETY) if seen.cell.nfe > 1]


def _modes_shown(report: Report) -> str:
    """What each T covers."""
    told = []
    for cell, _ in (*_seen(report, ("gan",), *VARIETY), *_several(report)):
        records = [record for name in VARIETY if (record := record_of(cell, name))]
        figures = ", ".join(f"{_label(record)} {spread_text(record)}" for record in records)
        told.append(f"{cell.model} (T = {cell.nfe}): {figures}")
    return "; ".join(told)


def _seen(report: Report, families: tuple[str, ...], *names: str) -> list[_Seen]:
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
            found.append(_Seen(cell, record))
    return found


def _told(*sides: Sequence[_Seen]) -> str:
    """The best of each side that there is."""
    return "; ".join(str(min(side, key=_badness)) for side in sides if side)


def _beware(report: Report, *seen: _Seen) -> str:
    """What a distance does not show of cells: classes, modes or variety missing."""
    told = [
        f"; beware of {cell_name(cell)}: {listed(found)}"
        for cell, _ in seen
        if (found := (*missing(report, cell), *narrow(cell)))
    ]
    return "".join(told)


def _badness(seen: _Seen) -> float:
    """A value of which less is better."""
    return seen.record.value if seen.record.lower_is_better else -seen.record.value


def _label(record: Record) -> str:
    """What a reader calls a measure; distances by one name, whatever their features."""
    return MEASURES[record.name].short if record.name in MEASURES else "distance"


def _lacking(report: Report, families: tuple[str, ...], what: str) -> _Found:
    """The report lacks something; models and cells that failed say why."""
    names = {model.name for model in report.models if model.family in families}
    failed = [f"{m.name} failed: {m.error}" for m in report.models if m.error and m.name in names]
    cells = [cell for cell in report.cells if cell.error and cell.model in names]
    failed += [f"{cell_name(cell)} failed: {cell.error}" for cell in cells]
    return _Found("not comparable", "; ".join([what, *failed]))


def _undecided(measured: str) -> _Found:
    return _Found(
        "not comparable",
        "the intervals leave it open, which decides nothing: draw more samples",
        measured,
    )


def _compare(a: Record, b: Record) -> int:
    """Return -1 if ``a`` is clearly better, 1 if clearly worse, 0 if the intervals meet.

    Raises:
        ConfigError: if the records are of different protocols.
    """
    check_comparable(a, b)
    one, other = _ends(a), _ends(b)
    if not a.lower_is_better:
        one, other = other, one
    return -1 if one.high < other.low else int(one.low > other.high)


def _ends(record: Record) -> Interval:
    """Ends of what the samples leave open."""
    return modes_of(record) if record.name == "num_modes" else interval_of(record)


def _is_worse(a: Record, b: Record) -> bool:
    """Whether the value of ``a`` is worse, clearly or not."""
    return a.value > b.value if a.lower_is_better else a.value < b.value


def _is_at_most(a: Record, b: Record, times: float = 1.0) -> bool | None:
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
