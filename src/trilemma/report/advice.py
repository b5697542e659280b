"""Which model to take, in plain words, from what a report measured.

Four questions, each with the cell that answers it and the reason. The rules:

* *Quality* is the Fréchet distance to real data; without one, the divergence of the modes, or the
  share of points near a mode. Only cells of one protocol are compared; others are left out, and
  so are samples from a file, which no model can draw again. The reason says so.
* A cell is *acceptable* if its quality is at most twice the best distance of the report (the best
  counts as no lower than the score of real data), or at least 90 % of the best share, and if no
  class or mode of the data is missing. A class is missing below a tenth of its real share; modes
  are missing if fewer than 98 % of those are found that as many perfect samples would hit.
* *Fewest calls*: the acceptable cell with the fewest network calls, then the better one; what draws
  in still fewer calls is named in the reason. If no cell is acceptable it is the one with the best
  quality, and the answer says that it is only the least bad.
* *Likelihood*: the model with the lowest bits per dimension, or nats where there are no bytes, and
  what kind of number it is. A bound can only be too high. GANs have none.
* *Best quality*: the best value; of all cells whose 95 % intervals meet that of the best, the
  cheapest by time, or by calls where nothing was timed.
* *Fastest here*: the acceptable cell with the least time per sample on this machine, in the
  largest batch that was timed.

A cell whose coverage is below two thirds of what real data score gets a warning, whatever is
recommended: variety is what a reader does not see in a few pictures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from trilemma.errors import ConfigError
from trilemma.metrics import Record, check_comparable
from trilemma.report.claims import interval_of, missing_classes
from trilemma.report.record import Cell, Model, Report

__all__ = ["Advice", "advice"]

FACTOR = 2.0
SHARE = 0.9
FOUND = 0.98
VARIED = 2 / 3
QUALITY = ("distance", "mode_kl", "high_quality")
WORDS = {
    "mode_kl": "divergence of the modes, lower is better",
    "high_quality": "share of points near a mode, higher is better",
}
QUESTIONS = (
    "Which model needs the fewest network calls?",
    "Which model gives likelihoods?",
    "Which model is best, whatever it costs?",
    "Which model is fastest on this machine?",
)


@dataclass(frozen=True, kw_only=True)
class Advice:
    """One question of a reader, answered.

    Attributes:
        question: in plain words.
        answer: in plain words, with figures.
        cell: key of the cell that is recommended; empty if there is none.
        reason: the rule that led there, and what to beware of.
    """

    question: str
    answer: str
    cell: str
    reason: str


@dataclass(frozen=True)
class _Ranked:
    """Cells with the quality that they are compared by, and which of them are acceptable."""

    quality: dict[str, Record]
    cells: tuple[Cell, ...]
    acceptable: tuple[Cell, ...]
    note: str

    def cost(self, cell: Cell) -> tuple[float, float]:
        """How bad a cell is, then its time: what lower is better in."""
        record = self.quality[cell.key]
        return (record.value if record.lower_is_better else -record.value, _time(cell))

    def told(self, cell: Cell) -> str:
        """Name, calls and quality of a cell."""
        record = self.quality[cell.key]
        words = WORDS.get(record.name, "distance to real data, lower is better")
        calls = f"{cell.nfe} network call" + ("s" if cell.nfe != 1 else "")
        return f"{cell.key}: {calls} per sample, {record.name} {interval_of(record)} ({words})"


def advice(report: Report) -> tuple[Advice, ...]:
    """Answer four questions of somebody who has to choose a model.

    Args:
        report: what was measured; it may hold one model, or none that could be measured.

    Returns:
        Fewest calls, likelihoods, best quality and fastest here, in this order.
    """
    ranked = _rank(report)
    likelihoods = _likelihoods(report)
    if not ranked.cells:
        why = _failures(report)
        none = [
            Advice(question=question, answer="No cell has figures to go by.", cell="", reason=why)
            for question in QUESTIONS
        ]
        return (none[0], likelihoods, none[2], none[3])
    return (
        _fewest_calls(report, ranked),
        likelihoods,
        _best_quality(report, ranked),
        _fastest(report, ranked),
    )


def _rank(report: Report) -> _Ranked:
    """Find the quality that cells share, and the acceptable ones."""
    measured = [cell for cell in report.measured() if report.family_of(cell) != "samples"]
    for name in QUALITY:
        found = {cell.key: _record(cell, name) for cell in measured}
        quality = {key: r for key, r in found.items() if r is not None and math.isfinite(r.value)}
        if quality:
            break
    else:
        return _Ranked({}, (), (), "")
    first = next(iter(quality.values()))
    quality = {key: record for key, record in quality.items() if _is_comparable(first, record)}
    cells = tuple(cell for cell in measured if cell.key in quality)
    left_out = [cell.key for cell in report.cells if cell.key not in quality]
    note = f"Left out, without comparable figures or a model: {', '.join(left_out)}."
    note = note if left_out else ""
    best = min(quality.values(), key=lambda r: r.value if r.lower_is_better else -r.value)
    if best.lower_is_better:
        limit = FACTOR * max(best.value, best.floor or 0.0)
        near = [cell for cell in cells if quality[cell.key].value <= limit]
    else:
        near = [cell for cell in cells if quality[cell.key].value >= SHARE * best.value]
    acceptable = tuple(cell for cell in near if not _missing(report, cell))
    return _Ranked(quality, cells, acceptable, note)


def _fewest_calls(report: Report, ranked: _Ranked) -> Advice:
    if ranked.acceptable:
        cell = min(ranked.acceptable, key=lambda cell: (cell.nfe, ranked.cost(cell)))
        answer, reason = ranked.told(cell), f"Fewest calls among {_rule(ranked)}."
        fewer = min(ranked.cells, key=lambda cell: (cell.nfe, ranked.cost(cell)))
        if fewer.nfe < cell.nfe:
            but = ", ".join([f"{interval_of(ranked.quality[fewer.key])}", *_missing(report, fewer)])
            reason += f" {fewer.key} takes {fewer.nfe}, but is not among them: {but}."
    else:
        cell = min(ranked.cells, key=ranked.cost)
        answer = f"None is good enough; the least bad is {ranked.told(cell)}"
        reason = f"Best quality of all, but none of {_rule(ranked)}."
    return _advice(QUESTIONS[0], report, ranked, cell, answer, reason)


def _best_quality(report: Report, ranked: _Ranked) -> Advice:
    best = min(ranked.cells, key=ranked.cost)
    level = [cell for cell in ranked.cells if _meet(ranked, cell, best)]
    timed = all(cell.speed for cell in level)
    cell = min(level, key=lambda c: (_time(c) if timed else c.nfe, ranked.cost(c)))
    reason = "The best value of all."
    if cell != best:
        by = "time" if timed else "calls"
        reason = (
            f"{best.key} measured {interval_of(ranked.quality[best.key])}, which is level within "
            f"the 95 % intervals; this one is the cheapest of {len(level)} by {by}."
        )
    return _advice(QUESTIONS[2], report, ranked, cell, ranked.told(cell), reason)


def _fastest(report: Report, ranked: _Ranked) -> Advice:
    timed = [cell for cell in ranked.acceptable if cell.speed]
    if not timed:
        what = "Nothing was timed" if ranked.acceptable else "No cell is good enough"
        return Advice(
            question=QUESTIONS[3],
            answer=f"{what}, so speed cannot be advised on.",
            cell="",
            reason=_joined(f"It would be the fastest of {_rule(ranked)}.", ranked.note),
        )
    cell = min(timed, key=_time)
    batch = max(speed.batch_size for speed in cell.speed)
    machine = report.hardware.get("name") or "this machine"
    answer = f"{ranked.told(cell)}, {_time(cell):.3g} ms each in batches of {batch} on {machine}"
    reason = f"Least time among {_rule(ranked)}."
    return _advice(QUESTIONS[3], report, ranked, cell, answer, reason)


def _likelihoods(report: Report) -> Advice:
    """Which models have likelihoods, of what kind, and the lowest."""
    loaded = [model for model in report.models if not model.error]
    unit = "bits_per_dim" if any("bits_per_dim" in m.likelihood for m in loaded) else "nats"
    found = [m for m in loaded if math.isfinite(_number(m.likelihood.get(unit)))]
    without = [m for m in loaded if m not in found]
    reasons = [f"{m.name} has none: {_why_not(m)}." for m in without]
    if not found:
        return Advice(
            question=QUESTIONS[1],
            answer="None of these.",
            cell="",
            reason=_joined(*(reasons or [_failures(report)])),
        )
    best = min(found, key=lambda model: float(model.likelihood[unit]))
    told = ", ".join(_likelihood(model, unit) for model in found)
    words = "bits per dimension" if unit == "bits_per_dim" else "nats of a density"
    kinds = {_kind(model) for model in found}
    reason = f"Lowest {words} is best; an upper bound can only be too high."
    if len(kinds) > 1:
        reason += (
            " Estimates and bounds stand beside each other: a bound hides how good a model is."
        )
    return Advice(
        question=QUESTIONS[1],
        answer=f"{best.name}. {told} ({words}).",
        cell=_default_cell(report, best),
        reason=_joined(reason, *reasons),
    )


def _advice(
    question: str, report: Report, ranked: _Ranked, cell: Cell, answer: str, reason: str
) -> Advice:
    """Advice with what to beware of."""
    warnings = [f"Beware: {what}." for what in (*_missing(report, cell), *_narrow(cell))]
    return Advice(
        question=question,
        answer=f"{answer}.",
        cell=cell.key,
        reason=_joined(reason, *warnings, ranked.note),
    )


def _missing(report: Report, cell: Cell) -> tuple[str, ...]:
    """Classes and modes that a cell does not show, in words."""
    found = []
    names = list(report.data.get("class_names") or [])
    classes = [names[k] if k < len(names) else f"{k}" for k in missing_classes(cell)]
    if classes:
        found.append(f"it hardly ever draws {', '.join(map(str, classes))}")
    modes = cell.record("num_modes")
    if modes is not None and modes.floor:
        expected = modes.floor * (1 - (1 - 1 / modes.floor) ** modes.num_fake)
        if modes.value < FOUND * expected:
            found.append(f"it shows {modes.value:.0f} of {modes.floor:.0f} modes")
    return tuple(found)


def _narrow(cell: Cell) -> tuple[str, ...]:
    """Words on a coverage far below that of real data."""
    coverage = cell.record("coverage")
    if coverage is None or coverage.floor is None or coverage.value >= VARIED * coverage.floor:
        return ()
    return (f"coverage is {coverage.value:.2f} where real data score {coverage.floor:.2f}",)


def _rule(ranked: _Ranked) -> str:
    """What makes a cell acceptable, in words."""
    record = next(iter(ranked.quality.values()))
    if record.lower_is_better:
        near = f"the cells whose {record.name} is at most {FACTOR:g} times the best"
    else:
        near = f"the cells whose {record.name} is at least {SHARE:.0%} of the best"
    return f"{near}, with no class or mode missing"


def _record(cell: Cell, name: str) -> Record | None:
    return cell.distance if name == "distance" else cell.record(name)


def _is_comparable(a: Record, b: Record) -> bool:
    try:
        check_comparable(a, b)
    except ConfigError:
        return False
    return True


def _meet(ranked: _Ranked, cell: Cell, best: Cell) -> bool:
    one, other = interval_of(ranked.quality[cell.key]), interval_of(ranked.quality[best.key])
    return one.low <= other.high and other.low <= one.high


def _time(cell: Cell) -> float:
    """Milliseconds per sample, infinity where not measured: it sorts, NaN does not."""
    found = cell.milliseconds()
    return math.inf if math.isnan(found) else found


def _kind(model: Model) -> str:
    """What kind of number a likelihood is, in two words."""
    kind = str(model.likelihood.get("kind", ""))
    return "upper bound" if "bound" in kind else "estimate"


def _likelihood(model: Model, unit: str) -> str:
    value, reach = (_number(model.likelihood.get(f"{unit}{part}")) for part in ("", "_interval"))
    spread = "" if math.isnan(reach) else f" ± {reach:.2g}"
    at_most = "at most " if _kind(model) == "upper bound" else ""
    return f"{model.name}: {at_most}{value:.4g}{spread}, {_kind(model)}"


def _number(value: object) -> float:
    """A figure, NaN where there is none."""
    return float(value) if isinstance(value, int | float) else math.nan


def _why_not(model: Model) -> str:
    if model.family == "samples":
        return "samples from a file have no model"
    if model.family in ("ddgan", "gan"):
        return "a GAN has no likelihood"
    if "nats" in model.likelihood:
        return "not of data in bytes, or not finite"
    return str(model.likelihood.get("note") or "not measured")


def _default_cell(report: Report, model: Model) -> str:
    """Key of the cell that draws as the model does by default, or of its first."""
    cells = [cell for cell in report.cells if cell.model == model.name]
    chosen = next((cell for cell in cells if cell.is_default), cells[0] if cells else None)
    return "" if chosen is None else chosen.key


def _failures(report: Report) -> str:
    """Why nothing was measured."""
    errors = [f"{model.name}: {model.error}" for model in report.models if model.error]
    errors += [f"{cell.key}: {cell.error}" for cell in report.cells if cell.error]
    return _joined(*errors) or "The report has no cells."


def _joined(*sentences: str) -> str:
    return " ".join(_ended(sentence) for sentence in sentences if sentence)


def _ended(sentence: str) -> str:
    return sentence if sentence.endswith((".", "!", "?")) else f"{sentence}."
