"""Which model to take, in plain words, from what a report measured.

Four questions, each with the cell that answers it and the reason. The rules:

* *Quality* is the Fréchet distance to real data; without one, the share of points near a mode, or
  the divergence of the modes. Only cells of one protocol, the most frequent, are compared; others
  are left out, and so are samples from a file, which no model can draw again. ``basis`` says so.
* A cell has a *flaw* if a class or mode of the data is missing, if its coverage or its recall is
  below two thirds of what real data score, or if the check for copies of training data is flagged.
  A class is missing below a tenth of its real share; modes are missing if fewer than 98 % of those
  are found that as many perfect samples would hit.
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
  what kind of number it is. A bound can only be too high. GANs have none. Where nothing was
  measured, the models that have one by their family: latent and score models.
* *Best quality*: the best value of the cells that are good enough, whatever it costs. The reason
  names the cheapest of those that are level with it, whose 95 % intervals meet its own: by time,
  or by calls where not all were timed. It also names a better value that has a flaw.
* *Fastest here*: the cell that is good enough with the least time per sample on this machine, in
  the largest batch that was timed; and what less time buys.

If no cell is good enough, each answer is the one with the best quality, and says that it is only
the least bad. Whatever is named comes with its flaws: variety and copies are what a reader does not
see in a few pictures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from trilemma.metrics import Record
from trilemma.report import ranking, words
from trilemma.report.formats import (
    duration,
    figure,
    listed,
    percent,
    plural,
    plus_minus,
    spread_text,
)
from trilemma.report.intervals import interval_of
from trilemma.report.record import Cell, Model, Report

__all__ = ["Advice", "Basis", "advice", "basis"]

FACTOR = 2.0
SHARE = 0.9
FOUND = 0.98
VARIED = 2 / 3
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

    def badness(self, cell: Cell) -> float:
        """Quality as a figure of which less is better."""
        record = self.quality[cell.key]
        return record.value if record.lower_is_better else -record.value

    def order(self, cell: Cell) -> tuple[float, float]:
        """How bad a cell is, then its time."""
        return self.badness(cell), _time(cell)

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
        flaws = (*_missing(self.report, cell), *_narrow(cell))
        if flaws:
            told += f", but {listed(flaws)}"
        elif cell.class_counts and len(words.judged_classes(cell)) == len(cell.class_counts):
            told += ", all classes drawn"
        elif cell.record("num_modes"):
            told += ", all modes drawn"
        return ". ".join([told, *(f"Beware: {what}" for what in _copied(cell))])


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
        first = _nothing(0, _failures(report))
        others = [_nothing(i, "Nothing could be measured; the table says why.") for i in (2, 3)]
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
    sound = " without a flaw" if any(not _flaws(report, cell) for cell in ranked.cells) else ""
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
    sound = [cell for cell in cells if not _flaws(report, cell)]
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
            f"No model is good enough. The least bad is {cell.model}, in {_calls(cell.nfe)}, "
            f"{ranked.told(cell)}."
        )
        return _advice(0, ranked, cell, answer, "The best quality of all.")
    cell = min(ranked.good, key=lambda cell: (cell.nfe, ranked.order(cell)))
    answer = (
        f"{cell.model} draws {_thing(ranked.report)} in {_calls(cell.nfe)}, {ranked.told(cell)}."
    )
    less = _less(ranked, cell, lambda cell: cell.nfe, lambda cell: plural(cell.nfe, "call"), 3)
    less = f" In fewer calls no model is good enough. {less}" if less else ""
    reason = "The fewest calls of all that are good enough."
    reason = _joined([reason, _open(ranked, cell, lambda cell: cell.nfe)])
    return _advice(0, ranked, cell, answer + less, reason)


def _fastest(ranked: _Ranked) -> Advice:
    timed = [cell for cell in ranked.good or ranked.cells if cell.speed]
    if not timed:
        return Advice(
            question=QUESTIONS[3],
            answer="Nothing was timed, so speed cannot be advised on.",
            cell="",
            reason="It would be the fastest of all that are good enough.",
        )
    batch = max(speed.batch_size for cell in timed for speed in cell.speed)
    machine = ranked.report.hardware.get("name") or "this machine"
    if not ranked.good:
        cell = min(timed, key=ranked.order)
        answer = (
            f"No model is good enough. The least bad is {cell.model}, in {duration(_time(cell))} "
            f"on {machine}, {batch} at once, {ranked.told(cell)}."
        )
        return _advice(3, ranked, cell, answer, "The best quality of all that were timed.")
    cell = min(timed, key=_time)
    answer = (
        f"{cell.model} draws {_thing(ranked.report)} in {duration(_time(cell))} on {machine}, "
        f"{batch} at once, {ranked.told(cell)}."
    )
    less = _less(ranked, cell, _time, lambda cell: duration(_time(cell)), 1)
    less = f" No faster one is good enough. {less}" if less else ""
    reason = "The least time of all that are good enough."
    return _advice(3, ranked, cell, answer + less, _joined([reason, _open(ranked, cell, _time)]))


def _best_quality(ranked: _Ranked) -> Advice:
    first = min(ranked.cells, key=ranked.order)
    if not ranked.good:
        answer = (
            f"No model is good enough. The least bad is {words.cell_name(first)}, "
            f"{ranked.told(first)}."
        )
        return _advice(2, ranked, first, answer, "The best value of all.")
    best = min(ranked.good, key=ranked.order)
    answer = f"{words.cell_name(best)} is the best, {ranked.told(best)}."
    reason = "The best value of all."
    if ranked.badness(first) < ranked.badness(best):
        reason = (
            "The best value of all that are good enough. The best of all is "
            f"{words.cell_name(first)}, {ranked.short(first)}."
        )
    ends = interval_of(ranked.quality[best.key])
    level = [c for c in ranked.good if ends.meets(interval_of(ranked.quality[c.key]))]
    timed = all(cell.speed for cell in level)
    cheap = min(level, key=lambda c: (_time(c) if timed else c.nfe, ranked.order(c)))
    if cheap != best:
        by = f"takes the least time, {duration(_time(cheap))}" if timed else "needs fewest calls"
        reason += (
            f" {words.number(len(level)).capitalize()} ways to draw that are good enough are "
            f"level, for their 95 % intervals meet; of these {words.cell_name(cheap)} {by}, "
            f"{ranked.short(cheap)}."
        )
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
            reason=_joined([*told, *_reasons(why)] or [_failures(report)]),
        )
    best, *others = found
    name = "bits per dimension" if unit == "bits_per_dim" else "nats of a density"
    answer = f"{best.name} gives {_likelihood(best, unit)} {name}; lower is better."
    if others:
        figures = [f"{model.name} {_likelihood(model, unit)}" for model in others]
        answer += f" The others: {listed(figures)}."
    bounds = sum(_is_bound(model) for model in found)
    notes = ['"At most" marks an upper bound, which can only be too high.'] if bounds else []
    if 0 < bounds < len(found):
        notes.append("The others are estimates: a model with a bound may be better than it looks.")
    key = _default_cell(report, best)
    copied = [what for cell in report.cells if cell.key == key for what in _copied(cell)]
    return Advice(
        question=QUESTIONS[1],
        answer=answer,
        cell=key,
        reason=_joined([*notes, *_reasons(why), *(f"Beware: {what}." for what in copied)]),
    )


def _advice(number: int, ranked: _Ranked, cell: Cell, answer: str, reason: str) -> Advice:
    """Advice with what to beware of."""
    if len(ranked.cells) == 1:
        reason = "There is no other to compare it with."
    beware = [f"Beware: {what}." for what in _flaws(ranked.report, cell)]
    return Advice(
        question=QUESTIONS[number], answer=answer, cell=cell.key, reason=_joined([reason, *beware])
    )


def _nothing(number: int, reason: str) -> Advice:
    """The answer to a question where nothing was measured."""
    answer = "There are no figures to go by."
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
    first, *rest = (f"{cell.model}, {ranked.short(cell)}." for cell in front)
    verb = "is" if price(front[0]) == "1 call" else "are"
    parts = [f"If {price(front[0])} {verb} all you have: {first}"]
    parts += [f"With {price(cell)}: {told}" for cell, told in zip(front[1:], rest, strict=True)]
    return " ".join(parts)


def _open(ranked: _Ranked, chosen: Cell, cost: Callable[[Cell], float]) -> str:
    """Which of the chosen cell and cheaper ones so many samples do not tell from good enough."""
    if len(ranked.cells) == 1:
        return ""
    cheaper = [c for c in ranked.cells if cost(c) < cost(chosen) and not _flaws(ranked.report, c)]
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


def _missing(report: Report, cell: Cell) -> tuple[str, ...]:
    """Classes and modes that a cell does not show, in words."""
    found = []
    names = words.class_names(report, len(cell.class_counts))
    classes = [names[k] for k in ranking.missing_classes(cell)]
    if classes:
        found.append(f"it hardly ever draws {listed(classes)}")
    modes = cell.record("num_modes")
    if modes is not None and modes.floor:
        expected = modes.floor * (1 - (1 - 1 / modes.floor) ** modes.num_fake)
        if modes.value < FOUND * expected:
            found.append(f"it shows {modes.value:.0f} of {modes.floor:.0f} modes")
    return tuple(found)


def _narrow(cell: Cell) -> tuple[str, ...]:
    """Words on a coverage or recall far below that of real data."""
    found = [record for name in ("coverage", "recall") if (record := cell.record(name))]
    return tuple(
        f"{record.name} is {record.value:.2f} where real data score {record.floor:.2f}"
        for record in found
        if record.floor is not None and record.value < VARIED * record.floor
    )


def _copied(cell: Cell) -> tuple[str, ...]:
    """Words on a check for copies of training data that is flagged."""
    if not cell.memorisation.get("is_flagged"):
        return ()
    share = _finite(cell.memorisation.get("share_copied"))
    if math.isnan(share):
        return ("signs of copying",)
    return (
        f"signs of copying, for {percent(share)} of its samples stand as close to one training "
        "image as a copy would",
    )


def _flaws(report: Report, cell: Cell) -> tuple[str, ...]:
    """All that keeps a cell from being good enough whatever its quality, in words."""
    narrow = _narrow(cell)
    variety = (f"much of the data is missing among its samples, for {listed(narrow)}",)
    return (*_missing(report, cell), *(variety if narrow else ()), *_copied(cell))


def _share(record: Record) -> str:
    """A share with its interval."""
    low, value, high = interval_of(record)
    ends = f" ({percent(low)} to {percent(high)})" if low < high else ""
    return f"{percent(value)}{ends}"


def _thing(report: Report) -> str:
    """One of what is drawn."""
    return "a point" if words.things(report) == "points" else "an image"


def _calls(number: int) -> str:
    return plural(number, "network call")


def _time(cell: Cell) -> float:
    """Milliseconds per sample, infinity where not measured: it sorts, NaN does not."""
    found = cell.milliseconds()
    return math.inf if math.isnan(found) else found


def _is_bound(model: Model) -> bool:
    """Whether a likelihood is only bounded."""
    return "bound" in str(model.likelihood.get("kind", ""))


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
    return _joined(errors) or "Nothing was drawn."


def _joined(sentences: Iterable[str]) -> str:
    return " ".join(s if s.endswith((".", "!", "?")) else f"{s}." for s in sentences if s)
