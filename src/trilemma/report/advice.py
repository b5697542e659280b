"""Which model to take, in plain words, from what a report measured.

Four questions, each with the cell that answers it and the reason. The rules:

* *Quality* is the Fréchet distance to real data; without one, the share of points near a mode, or
  the divergence of the modes. Only cells of one protocol, the most frequent, are compared; others
  are left out, and so are samples from a file, which no model can draw again. ``basis`` says so.
* A cell has a *flaw* if a class or mode of the data is missing, if its coverage or its recall is
  below two thirds of what real data score, or if the check for copies of training data is flagged
  (``trilemma.report.flaws``).
* A cell is *good enough* if it has no flaw and its quality is at most twice the best distance (the
  best counts as no lower than the score of real data), or at least 90 % of the best share. The best
  is that of the cells without a flaw, so copies never set the bar; of all if each has one.
* *Fewest calls*: the cell that is good enough with the fewest network calls, then the better one.
  If still fewer calls are all that a reader has, the answer names what they buy: the best cell at
  that price, and at each lower one.
* Where a 95 % interval holds the limit of what is good enough, the samples do not tell on which
  side of it the cell is. Fewest calls and fastest say so of the cell that they recommend, and of
  cheaper ones without a flaw.
* *Likelihood*: the model with the lowest bits per dimension, or nats where there are no bytes, and
  what kind of number it is. A bound can only be too high: one behind an estimate leaves open which
  model is better, and both are named. So are those whose 95 % intervals meet that of the lowest.
  GANs have none. Where nothing was measured, the models that have one by their family: latent and
  score models.
* *Best quality*: the best value of the cells that are good enough, whatever it costs. The reason
  names those that are level with it, whose 95 % intervals meet its own, and the cheapest of them:
  by time, or by calls where not all were timed. It also names a better value that has a flaw.
* *Fastest here*: the cell that is good enough with the least time per sample on this machine, at
  one batch size: the one at which most of those that are good enough were timed, the largest of
  several. The reason names those without a time at it. And what less time buys.

If no cell is good enough, each answer is the one with the best quality, and says that it is only
the least bad. Whatever is named comes with its flaws: variety and copies are what a reader does not
see in a few pictures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from trilemma.metrics import Record
from trilemma.report import flaws, ranking, words
from trilemma.report.formats import (
    duration,
    figure,
    listed,
    percent,
    plural,
    plus_minus,
    spread_text,
)
from trilemma.report.intervals import Interval, interval_of
from trilemma.report.record import Cell, Model, Report

__all__ = ["Advice", "Basis", "advice", "basis"]

FACTOR = 2.0
SHARE = 0.9
ENOUGH = 2000
"""Samples that are advised at least; below, the intervals of distances are wide."""
NOT_MEASURED = "not measured; --likelihood N measures on N held-out data"
FLAWS = (
    "a class or mode missing, coverage or recall below two thirds of what real data score, signs "
    "of copying"
)
HAVE_LIKELIHOOD = ("lsgm", "cld", "ddpm", "edm", "vae")
"""Families with a likelihood or a bound on it: by an encoder or by the probability flow."""
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


@dataclass(frozen=True, kw_only=True)
class Basis:
    """What all answers rest on.

    Attributes:
        explanation: the figure that stands for quality, and what is good enough; empty if there is
            nothing to compare.
        left_out: which cells take no part; empty if all do.
    """

    explanation: str
    left_out: str


@dataclass(frozen=True)
class _Ranked:
    """Cells with the quality that they are compared by, and which of them are good enough."""

    report: Report
    quality: dict[str, Record]
    cells: tuple[Cell, ...]
    good: tuple[Cell, ...]
    bar: float = math.nan
    """The worst quality that is good enough."""
    is_at_floor: bool = False
    """Whether the best is no worse than real data, so that the bar counts from those."""

    @property
    def batch(self) -> int | None:
        """The one batch size by which times are compared; None if nothing was timed."""
        return ranking.plot_batch(self.good or self.cells)

    @property
    def at_once(self) -> str:
        """That size in words."""
        return "alone" if self.batch == 1 else f"{self.batch} at once"

    def time(self, cell: Cell) -> float:
        """Milliseconds per sample, infinity where not measured: it sorts, NaN does not."""
        found = math.nan if self.batch is None else cell.milliseconds(self.batch)
        return math.inf if math.isnan(found) else found

    def badness(self, cell: Cell) -> float:
        """Quality as a figure of which less is better."""
        record = self.quality[cell.key]
        return record.value if record.lower_is_better else -record.value

    def order(self, cell: Cell) -> tuple[float, float]:
        """How bad a cell is, then its time."""
        return self.badness(cell), self.time(cell)

    def told(self, cell: Cell) -> str:
        """Quality of a cell in words: at a distance of 0.86 (0.76 to 0.96) to real data."""
        record = self.quality[cell.key]
        if record.name == "high_quality":
            return f"with {_share(record)} of its points near a mode"
        if record.name == "mode_kl":
            return f"with modes uneven by {spread_text(record)} nats"
        return f"at a distance of {spread_text(record)} to real data"

    def short(self, cell: Cell) -> str:
        """The same in few words, whether all is drawn, and what to beware of."""
        record = self.quality[cell.key]
        if record.name == "high_quality":
            told = f"{percent(record.value)} of its points near a mode"
        elif record.name == "mode_kl":
            told = f"modes uneven by {figure(record.value, 2)} nats"
        else:
            told = f"at a distance of {figure(record.value, 2)}"
        found = (*flaws.missing(self.report, cell), *flaws.narrow(cell))
        if found:
            told += f", but {listed(found)}"
        elif cell.class_counts and len(words.judged_classes(cell)) == len(cell.class_counts):
            told += ", all classes drawn"
        elif cell.record("num_modes"):
            told += ", all modes drawn"
        return ". ".join([told, *(f"Beware: {what}" for what in flaws.copied(cell))])


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
        first, *others = (_nothing(report, number) for number in (0, 2, 3))
        return (first, likelihoods, *others)
    return (_fewest_calls(ranked), likelihoods, _best_quality(ranked), _fastest(ranked))


def basis(report: Report) -> Basis:
    """Say once what all answers of ``advice`` rest on, to be read before or after them.

    Args:
        report: what was measured.
    """
    ranked = _rank(report)
    if not ranked.cells:
        return Basis(explanation="", left_out="")
    record = next(iter(ranked.quality.values()))
    what, bar = words.things(report), figure(ranked.bar)
    sound = " without a flaw" if any(not flaws.flaws(report, cell) for cell in ranked.cells) else ""
    least = f"what real {what} score" if ranked.is_at_floor else f"the lowest{sound}"
    real = "" if record.floor is None else f"; real {what} score {figure(record.floor, 2)}, not 0"
    if record.name == "high_quality":
        real = "" if record.floor is None else f"; real ones: {percent(record.floor)}"
        told = f"Quality is the share of points near a mode of the data: higher is better{real}."
        near = (
            f"a share of at least {percent(ranked.bar)}, {100 * SHARE:.0f} % of the highest{sound}"
        )
    elif record.name == "mode_kl":
        told = (
            "Quality is how unevenly the modes of the data are drawn, in nats: lower is better"
            f"{real}."
        )
        near = f"at most {bar} nats, twice {least}"
    else:
        told = (
            f"Quality is the distance between the drawn {what} and real ones, as a network sees "
            f"them (Fréchet distance): lower is better{real}."
        )
        near = f"a distance of at most {bar}, twice {least}"
    out = [words.cell_name(cell) for cell in report.cells if cell.key not in ranked.quality]
    out += [model.name for model in report.models if model.error]
    why = "Left out of these answers, for lack of a model or of figures that can be compared"
    left_out = f"{why}: {listed(out, 6)}." if out else ""
    return Basis(
        explanation=f"{told} Good enough is {near}, and no flaw. Flaws: {FLAWS}.",
        left_out=left_out,
    )


def _rank(report: Report) -> _Ranked:
    """Find the quality that cells share, and those that are good enough."""
    measured = [cell for cell in report.measured() if report.family_of(cell) != "samples"]
    measure = ranking.quality_measure(measured)
    if measure is None:
        return _Ranked(report, {}, (), ())
    cells = tuple(ranking.groups(measured, [measure.name])[0])
    records = {cell.key: ranking.record_of(cell, measure.name) for cell in cells}
    quality = {key: record for key, record in records.items() if record is not None}
    sound = [cell for cell in cells if not flaws.flaws(report, cell)]
    values = [quality[cell.key].value for cell in sound or cells]
    if measure.lower_is_better:
        floor = next(iter(quality.values())).floor or 0.0
        bar = FACTOR * max(min(values), floor)
        good = [cell for cell in sound if quality[cell.key].value <= bar]
        is_at_floor = min(values) <= floor
    else:
        bar, is_at_floor = SHARE * max(values), False
        good = [cell for cell in sound if quality[cell.key].value >= bar]
    return _Ranked(report, quality, cells, tuple(good), bar, is_at_floor)


def _fewest_calls(ranked: _Ranked) -> Advice:
    if not ranked.good:
        cell = min(ranked.cells, key=ranked.order)
        answer = (
            f"No model is good enough. The least bad is {words.cell_name(cell)}, "
            f"{ranked.told(cell)}."
        )
        return _advice(0, ranked, cell, answer, "The best quality of all.")
    cell = min(ranked.good, key=lambda cell: (cell.nfe, ranked.order(cell)))
    answer = f"{words.cell_name(cell)} needs the fewest, {ranked.told(cell)}."
    less = _less(ranked, cell, lambda cell: cell.nfe, lambda cell: plural(cell.nfe, "call"), 3)
    less = f" In fewer calls no model is good enough. {less}" if less else ""
    reason = "The fewest calls of all that are good enough."
    reason = _joined([reason, _open(ranked, cell, lambda cell: cell.nfe)])
    return _advice(0, ranked, cell, answer + less, reason)


def _fastest(ranked: _Ranked) -> Advice:
    candidates = ranked.good or ranked.cells
    timed = [cell for cell in candidates if math.isfinite(ranked.time(cell))]
    if not timed:
        who = "None of those that are good enough was timed"
        if not any(cell.speed for cell in ranked.report.measured()):
            who = "Nothing was timed"
        elif not ranked.good:
            who = "None of those that can be compared was timed"
        return Advice(
            question=QUESTIONS[3],
            answer=f"{who}, so speed cannot be advised on.",
            cell="",
            reason="It would be the fastest of all that are good enough.",
        )
    machine = ranked.report.hardware.get("name") or "this machine"
    if not ranked.good:
        cell = min(timed, key=ranked.order)
        answer = (
            f"No model is good enough. The least bad is {words.cell_name(cell)}, in "
            f"{duration(ranked.time(cell))} on {machine}, {ranked.at_once}, {ranked.told(cell)}."
        )
        return _advice(3, ranked, cell, answer, "The best quality of all that were timed.")
    cell = min(timed, key=ranked.time)
    answer = (
        f"{words.cell_name(cell)} draws {_thing(ranked.report)} in "
        f"{duration(ranked.time(cell))} on {machine}, {ranked.at_once}, {ranked.told(cell)}."
    )
    less = _less(ranked, cell, ranked.time, lambda cell: duration(ranked.time(cell)), 1)
    less = f" No faster one is good enough. {less}" if less else ""
    reason = "The least time of all that are good enough."
    untimed = [words.cell_name(cell) for cell in ranked.good if cell not in timed]
    if untimed:
        reason = (
            "The least time of all that are good enough and were timed "
            f"{ranked.at_once}; not timed so: {listed(untimed, 6)}."
        )
    return _advice(
        3, ranked, cell, answer + less, _joined([reason, _open(ranked, cell, ranked.time)])
    )


def _best_quality(ranked: _Ranked) -> Advice:
    first = min(ranked.cells, key=ranked.order)
    if not ranked.good:
        answer = (
            f"No model is good enough. The least bad is {words.cell_name(first)}, "
            f"{ranked.told(first)}."
        )
        return _advice(2, ranked, first, answer, "The best quality of all.")
    best = min(ranked.good, key=ranked.order)
    is_best = ranked.badness(first) >= ranked.badness(best)
    reason = (
        "The best quality of all." if is_best else "The best quality of all that are good enough."
    )
    ends = interval_of(ranked.quality[best.key])
    level = [c for c in ranked.good if ends.meets(interval_of(ranked.quality[c.key]))]
    others = [words.cell_name(cell) for cell in level if cell != best]
    rank = "has the best quality" if others else "is the best"
    if others:
        timed = all(math.isfinite(ranked.time(cell)) for cell in level)
        cheap = min(level, key=lambda c: (ranked.time(c) if timed else c.nfe, ranked.order(c)))
        least = f"the least time, {duration(ranked.time(cheap))}" if timed else "the fewest calls"
        told = "" if cheap == best else f", {ranked.short(cheap)}"
        reason += (
            f" Level with it, for their 95 % intervals meet: {listed(others, 6)}. Of these "
            f"{words.number(len(level))}, {words.cell_name(cheap)} needs {least}{told}."
        )
    if not is_best:
        reason += f" The best of all is {words.cell_name(first)}, {ranked.short(first)}."
    answer = f"{words.cell_name(best)} {rank}, {ranked.told(best)}."
    return _advice(2, ranked, best, answer, reason)


def _likelihoods(report: Report) -> Advice:
    """Which models have likelihoods, of what kind, and the lowest."""
    loaded = [model for model in report.models if not model.error]
    unit = "bits_per_dim" if any("bits_per_dim" in m.likelihood for m in loaded) else "nats"
    found = [m for m in loaded if math.isfinite(_finite(m.likelihood.get(unit)))]
    found.sort(key=lambda model: float(model.likelihood[unit]))
    why: dict[str, list[str]] = {}
    for model in loaded:
        if model not in found:
            why.setdefault(_why_not(model), []).append(model.name)
    if not found:
        able = [m for m in loaded if m.family in HAVE_LIKELIHOOD and _why_not(m) == NOT_MEASURED]
        told = []
        if able:
            verb = "It has" if len(able) == 1 else "They have"
            families = listed(list(dict.fromkeys(words.family(model) for model in able)))
            told = [f"{verb} one, by family: {families}. Values were {NOT_MEASURED}."]
        named = [model.name for model in able]
        why = {reason: [n for n in names if n not in named] for reason, names in why.items()}
        none = "Not measured" if why.get(NOT_MEASURED) else "None of these"
        return Advice(
            question=QUESTIONS[1],
            answer=f"{listed(named) or none}.",
            cell="",
            reason=_joined([*told, *_reasons(why)] or [_failures(report) or "Nothing was drawn."]),
        )
    lowest = found[0]
    bounds = [model for model in found if _is_bound(model)]
    below = [] if lowest in bounds else bounds  # what lies under these may be lower
    rest = [model for model in found[1:] if model not in below]
    name = "bits per dimension" if unit == "bits_per_dim" else "nats of a density"
    answer = f"{lowest.name} gives {_likelihood(lowest, unit)} {name}"
    if below:
        figures = [f"{model.name} {_likelihood(model, unit)}" for model in below]
        answer += f", {listed(figures)}: which is lowest is open"
    answer += "; lower is better."
    if rest:
        figures = [f"{model.name} {_likelihood(model, unit)}" for model in rest]
        answer += f" The others: {listed(figures)}."
    notes = []
    level = [model.name for model in found[1:] if _is_level(lowest, model, unit)]
    if level:
        notes.append(f"Level with {lowest.name}, for the 95 % intervals meet: {listed(level)}.")
    if bounds:
        notes.append('"At most" marks an upper bound, which can only be too high.')
    if below:
        notes.append("What lies under a bound may be lower than the estimate before it.")
    elif 0 < len(bounds) < len(found):
        notes.append(
            "Figures without it are estimates: a model with a bound may be better than it looks."
        )
    keys = [_default_cell(report, model) for model in (lowest, *below)]
    beware = [
        f"Beware{f' of {cell.model}' if below else ''}: {what}."
        for cell in report.cells
        if cell.key in keys
        for what in flaws.copied(cell)
    ]
    return Advice(
        question=QUESTIONS[1],
        answer=answer,
        cell="" if below else keys[0],
        reason=_joined([*notes, *_reasons(why), *beware]),
    )


def _advice(number: int, ranked: _Ranked, cell: Cell, answer: str, reason: str) -> Advice:
    """Advice with what to beware of."""
    if len(ranked.cells) == 1:
        reason = "There is no other to compare it with."
        if any(ranked.report.family_of(one) == "samples" for one in ranked.report.measured()):
            reason = "There is no other model to compare it with; files of samples take no part."
    beware = [f"Beware: {what}." for what in flaws.flaws(ranked.report, cell)]
    return Advice(
        question=QUESTIONS[number], answer=answer, cell=cell.key, reason=_joined([reason, *beware])
    )


def _nothing(report: Report, number: int) -> Advice:
    """The answer to a question where there is no model to compare."""
    measured = list(report.measured())
    models = [cell for cell in measured if report.family_of(cell) != "samples"]
    failures = _failures(report)
    if models:
        answer, reason = "There are no figures of quality to go by.", "The table has the others."
    elif measured:
        answer = "Only files of samples were judged, so there is no model to recommend."
        reason = "The table compares them." if len(measured) > 1 else "The table has its figures."
    else:
        answer = "There are no figures to go by."
        reason = "Nothing could be measured; the table says why." if number else ""
        failures = failures or "Nothing was drawn."
    reason = _joined([reason, "" if number else failures])
    return Advice(question=QUESTIONS[number], answer=answer, cell="", reason=reason)


def _less(
    ranked: _Ranked,
    chosen: Cell,
    cost: Callable[[Cell], float],
    price: Callable[[Cell], str],
    most: int,
) -> str:
    """What a reader gets who cannot pay for the cheapest that is good enough.

    The best cell at a lower cost than the chosen one's, the best at a lower cost than that, and so
    on, ``most`` of them.
    """
    below = [cell for cell in ranked.cells if cost(cell) < cost(chosen)]
    front: list[Cell] = []
    while below and len(front) < most:
        front.append(min(below, key=lambda cell: (ranked.badness(cell), cost(cell))))
        below = [cell for cell in below if cost(cell) < cost(front[-1])]
    if not front:
        return ""
    names = [words.cell_name(cell).removesuffix(f" in {price(cell)}") for cell in front]
    first, *rest = (
        f"{name}, {ranked.short(cell)}." for name, cell in zip(names, front, strict=True)
    )
    verb = "is" if price(front[0]) == "1 call" else "are"
    parts = [f"If {price(front[0])} {verb} all you have: {first}"]
    parts += [f"With {price(cell)}: {told}" for cell, told in zip(front[1:], rest, strict=True)]
    return " ".join(parts)


def _open(ranked: _Ranked, chosen: Cell, cost: Callable[[Cell], float]) -> str:
    """Which of the chosen cell and cheaper ones so many samples do not tell from good enough."""
    if len(ranked.cells) == 1:
        return ""
    cheaper = [
        c for c in ranked.cells if cost(c) < cost(chosen) and not flaws.flaws(ranked.report, c)
    ]
    near = [
        words.cell_name(cell)
        for cell in (chosen, *cheaper)
        if (ends := interval_of(ranked.quality[cell.key])).low < ranked.bar < ends.high
    ]
    if not near:
        return ""
    num = ranked.quality[chosen.key].num_fake
    return (
        f"{num:,} samples do not tell whether {listed(near)} {'is' if len(near) == 1 else 'are'} "
        f"good enough; take -n {max(ENOUGH, 4 * num)} or more."
    )


def _share(record: Record) -> str:
    """A share with its interval."""
    low, value, high = interval_of(record)
    ends = f" ({percent(low)} to {percent(high)})" if low < high else ""
    return f"{percent(value)}{ends}"


def _thing(report: Report) -> str:
    """One of what is drawn."""
    return "a point" if words.things(report) == "points" else "an image"


def _is_bound(model: Model) -> bool:
    """Whether a likelihood is only bounded."""
    return "bound" in str(model.likelihood.get("kind", ""))


def _is_level(best: Model, other: Model, unit: str) -> bool:
    """Whether the 95 % intervals of two likelihoods meet."""
    ends = []
    for model in (best, other):
        value, reach = (_finite(model.likelihood.get(f"{unit}{end}")) for end in ("", "_interval"))
        reach = reach if math.isfinite(reach) else 0.0
        ends.append(Interval(value - reach, value, value + reach))
    return ends[0].meets(ends[1])


def _reasons(why: Mapping[str, Sequence[str]]) -> list[str]:
    """One sentence per reason that models have no figure."""
    return [f"{listed(names)}: {reason}." for reason, names in why.items() if names]


def _likelihood(model: Model, unit: str) -> str:
    value, reach = (_finite(model.likelihood.get(f"{unit}{part}")) for part in ("", "_interval"))
    return f"{'at most ' if _is_bound(model) else ''}{plus_minus(value, reach)}"


def _finite(value: object) -> float:
    """A figure, NaN where there is none."""
    return float(value) if isinstance(value, int | float) else math.nan


def _why_not(model: Model) -> str:
    if model.family == "samples":
        return "samples from a file have no model"
    if model.family in ("ddgan", "gan"):
        return "a GAN has no likelihood"
    if "nats" in model.likelihood:
        return "not of data in bytes, or not finite"
    note = str(model.likelihood.get("note") or "")
    return NOT_MEASURED if note in ("", "not measured") else note


def _default_cell(report: Report, model: Model) -> str:
    """Key of the cell that draws as the model does by default, or of its first."""
    cells = [cell for cell in report.cells if cell.model == model.name]
    chosen = next((cell for cell in cells if cell.is_default), cells[0] if cells else None)
    return "" if chosen is None else chosen.key


def _failures(report: Report) -> str:
    """Why nothing was measured."""
    errors = [f"{model.name}: {model.error}" for model in report.models if model.error]
    errors += [f"{words.cell_name(cell)}: {cell.error}" for cell in report.cells if cell.error]
    return _joined(errors)


def _joined(sentences: Iterable[str]) -> str:
    return " ".join(s if s.endswith((".", "!", "?")) else f"{s}." for s in sentences if s)
