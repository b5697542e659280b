"""What a report says in words, for the page and for Markdown alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

from trilemma.metrics.base import PROTOCOL
from trilemma.metrics.digits import LEAST_CERTAINTY
from trilemma.metrics.fitted import caution
from trilemma.report.formats import duration, listed, percent, plural
from trilemma.report.ranking import (
    MEASURES,
    SEEN,
    Measure,
    groups,
    missing_classes,
    protocol,
    record_of,
)
from trilemma.report.record import FAMILIES, Cell, Model, Report

__all__ = [
    "FIGURES",
    "LIMITS",
    "cell_facts",
    "cell_name",
    "class_names",
    "copies",
    "copies_found",
    "data_name",
    "defined",
    "family",
    "hardware",
    "introduction",
    "judged_classes",
    "limits",
    "missing",
    "number",
    "protocols",
    "rung_name",
    "short_protocol",
    "things",
    "unchecked",
    "warnings",
    "way",
]

FIGURES = MEASURES | {
    measure.name: measure
    for measure in (
        Measure("kd", "kernel distance", "kernel distance to real data", True),
        Measure("is", "class score", "class score", False),
    )
}
"""All measures that tables show, also those that neither advice nor claims go by."""
DEFINITIONS = {
    "distance": "Fréchet distance: how far drawn data lie from real data in what a feature network "
    "sees, their mean and their variation; lower is better. Real data score the floor, not 0; what "
    "is at the floor or below it cannot be told from real data.",
    "kd": "Kernel distance: a second opinion on the distance, from comparing drawn data with real "
    "ones pair by pair; lower is better. Real data score about 0, by chance a little above or "
    "below it.",
    "is": "Class score: whether a classifier is sure of the class of each drawn datum and sees all "
    "classes equally often; from 1 up to the number of classes, higher is better. It never looks "
    "at real data, so read it beside what those score. On the features of the true Inception it "
    "is the Inception score.",
    "precision": "Precision: share of drawn data that look like some real datum. Read it only "
    "beside coverage, for a model can score high here with copies of few data.",
    "density": "Density: as precision, but counts how many real data each drawn one lies near; "
    "about 1 for real data.",
    "recall": "Recall: share of real data that lie near some drawn datum.",
    "coverage": "Coverage: share of real data whose nearest surroundings hold a drawn datum; what "
    "is low here is missing among the samples.",
    "num_modes": "Modes found: classes that are drawn at least a tenth as often as in real data, "
    f"of those that as many real data show at least {SEEN} times; or centres of a mixture of which "
    "at least one point was drawn.",
    "mode_kl": "Unevenness of the modes: divergence of the frequencies of the modes from those of "
    "real data, in nats; even a perfect sampler scores its floor.",
    "high_quality": "Near a mode: share of points within three standard deviations of the nearest "
    "centre of the mixture.",
    "calls": "Network calls: how often the network runs to draw one datum. Times depend on the "
    "machine, calls do not.",
    "time": "Time: median time to draw one datum, networks loaded and warm; alone in a batch, and "
    "in a larger batch, whose time is shared.",
    "memory": "Memory: what drawing one batch adds to the memory of the loaded model.",
    "parameters": "Parameters: numbers learned, of the networks that drawing needs.",
    "likelihood": "Likelihood: how well the model predicts real data it has not seen, in bits per "
    "dimension or nats, lower is better; an upper bound can only be too high. GANs have none.",
}
"""One sentence or two on each figure, for a reader without background."""
LIMITS = (
    "Distances depend on the feature network, on the number of samples and on the split; they "
    "cannot be compared with distances of other reports or papers, unless all of these are the "
    "same.",
    "Intervals tell how far a figure would move with other samples of the same model; they do not "
    "tell how far it would move if the model were trained again.",
    "Times hold for this machine. Network calls hold everywhere, but a call of a large network "
    "costs more than one of a small network.",
    "The check for copies of training data sees exact and noisy copies, also moved, mirrored, "
    "brighter or paler, but none that are tilted, stretched, cut out or recoloured, and no other "
    "way of leaking data.",
)


def family(model: Model) -> str:
    """Kind of a model in words."""
    return FAMILIES.get(model.family, model.method or model.family)


def data_name(report: Report) -> str:
    """What the data are called; of a path on a disk its last part, ``stacked:`` kept."""
    name = str(report.data.get("name") or "")
    kind, colon, where = name.rpartition(":")
    path = PurePath(where)
    if path.is_absolute() or where.startswith((".", "~")):
        return f"{kind}{colon}{path.name or where}"
    return name


def things(report: Report) -> str:
    """What is drawn."""
    return "points" if report.data.get("kind") == "points" else "images"


def cell_name(cell: Cell) -> str:
    """What a reader calls a cell: ``lsgm-mnist with gddim in 20 calls``."""
    if cell.sampler == "file":
        return cell.model
    way, _, pace = rung_name(cell).partition(", ")
    if cell.nfe:
        return f"{cell.model} with {way} in {plural(cell.nfe, 'call')}"
    return f"{cell.model} with {way}" + (
        f" {'at' if cell.steps is None else 'in'} {pace}" if pace else ""
    )


def rung_name(cell: Cell) -> str:
    """Sampler and how far it is driven, from the key: ``gddim, 20 steps``."""
    sampler = cell.sampler.replace("_", "-")
    if cell.steps is not None:
        return f"{sampler}, {plural(cell.steps, 'step')}"
    _, _, tolerance = cell.key.rpartition("/")[2].partition("-")
    return f"{sampler}, tolerance {tolerance}" if tolerance else sampler


def way(cell: Cell) -> str:
    """Sampler and calls in a few characters."""
    return f"{cell.sampler.replace('_', '-')}, {plural(cell.nfe, 'call')}"


def cell_facts(cell: Cell) -> str:
    """Calls and time of a cell in few words."""
    facts = [plural(cell.nfe, "call")] if cell.nfe else []
    if cell.speed:
        largest = max(cell.speed, key=lambda speed: speed.batch_size)
        batch = "alone" if largest.batch_size == 1 else f"{largest.batch_size} at once"
        facts.append(f"{duration(largest.ms_per_image)} each, {batch}")
    return ", ".join(facts)


def introduction(report: Report) -> str:
    """One paragraph for a reader who has not seen such a report."""
    count = len({cell.model for cell in report.measured()})
    if not count:
        many = (
            f"None of {number(len(report.models))} models" if len(report.models) > 1 else "No model"
        )
        return f"{many} could be measured; the table says why."
    what, num = things(report), report.settings.get("num")
    drew = f"{num:,} {what}" if isinstance(num, int) else what
    failed = len(report.models) - count
    files = {model.name for model in report.models if model.family == "samples"}
    num_files = len({cell.model for cell in report.measured()} & files)
    num_models = count - num_files
    counted = {
        f"{number(num_models)} generative model{'' if num_models == 1 else 's'}": num_models,
        f"{number(num_files)} {'file' if num_files == 1 else 'files'} of samples": num_files,
    }
    who = " and ".join(words for words, n in counted.items() if n).capitalize()
    each = "" if count == 1 else " each"
    left = f" ({number(failed)} more could not be measured)" if failed else ""
    all_or_two = "This report measures all three and says which model to take for what."
    if not num_models:
        all_or_two = "This report measures the first two; what drew these is not known to it."
    return (
        f"{who}{left} {'gave' if num_files else 'drew'} {drew}{each}, to be held against real data "
        f"({data_name(report)}). "
        "What is wanted of such a model pulls three ways: quality (do the "
        f"{what} look like real ones?), coverage (is every kind of them drawn?) and speed (what "
        f"does one of them cost?). {all_or_two}"
    )


def number(count: int) -> str:
    """A count as a word, while it is small."""
    small = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    return small[count] if count < len(small) else f"{count:,}"


def hardware(report: Report) -> str:
    """Where times were taken."""
    found = report.hardware
    parts = [str(found.get("name") or found.get("device") or "unknown hardware")]
    if found.get("device") and found.get("name"):
        parts.append(f"device {found['device']}")
    if found.get("threads"):
        parts.append(plural(int(found["threads"]), "thread"))
    if found.get("torch"):
        parts.append(f"torch {found['torch']}")
    return ", ".join(parts)


def warnings(report: Report) -> tuple[str, ...]:
    """Sentences on records whose protocols differ, so that they cannot be compared."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, measure in FIGURES.items():
        parts = groups(report.measured(), [name])
        if len(parts) < 2:
            continue
        first = record_of(parts[0][0], name)
        for part in parts[1:]:
            other = record_of(part[0], name)
            differing = ", ".join(
                f"{key} is {getattr(other, key)!r} instead of {getattr(first, key)!r}"
                for key in PROTOCOL
                if getattr(other, key) != getattr(first, key)
            )
            who = listed([cell_name(cell) for cell in part], 6)
            found.setdefault((who, differing), []).append(measure.label)
    return tuple(
        f"Measured differently for {who} than for the others: {listed(labels)}; {differing}. These "
        "figures are not ranked and not drawn together; measure all under one protocol."
        for (who, differing), labels in found.items()
    )


def protocols(report: Report) -> tuple[str, ...]:
    """One sentence per protocol: samples, real data, split, features, what it holds for."""
    found: dict[tuple[Any, ...], list[str]] = {}
    for cell in report.measured():
        for record in cell.records:
            names = found.setdefault((*protocol(record)[1:], record.floor_num_fake), [])
            if record.name not in names:
                names.append(record.name)
    sentences = []
    for (num_fake, num_real, split, extractor, sha256, steps, floor_num), names in found.items():
        real = f" against {num_real:,} real ones" if num_real else ""
        weights = f" (weights {sha256[:8]})" if sha256 else ""
        size = f"{floor_num:,} real data" if floor_num else "real data"
        sentences.append(
            f"{listed(names)}: {num_fake:,} samples{real}, {split} split, features {extractor}"
            f"{weights}, {steps}; floor: {size} in the place of samples."
        )
    return tuple(sentences)


def short_protocol(cells: Iterable[Cell], *names: str) -> str:
    """Samples, real data, split and features in one sentence, for the caption of a plot or table.

    Args:
        cells: that are shown.
        names: of ``FIGURES``, those that are shown; all of ``MEASURES`` if there are none.
    """
    found: dict[str, list[str]] = {}
    for cell in cells:
        for name in names or MEASURES:
            record = record_of(cell, name)
            if record is not None:
                real = f" against {record.num_real:,} real ones" if record.num_real else ""
                told = f"{record.num_fake:,} samples{real}, {record.split} split, "
                told += f"features {record.extractor}"
                labels = found.setdefault(told, [])
                if FIGURES[name].short not in labels:
                    labels.append(FIGURES[name].short)
    if len(found) < 2:
        return "".join(f"Protocol: {told}." for told in found)
    return f"Protocol: {'; '.join(f'{listed(by)}: {told}' for told, by in found.items())}."


def defined(report: Report) -> tuple[str, ...]:
    """Definitions of what this report holds."""
    cells = list(report.measured())
    names = {name for name in FIGURES if any(record_of(cell, name) for cell in cells)}
    if any(judged_classes(cell) for cell in cells):
        names.add("num_modes")
    if any(cell.nfe for cell in cells):
        names.add("calls")
    if any(cell.speed for cell in cells):
        names.add("time")
    if any(cell.peak_memory is not None for cell in cells):
        names.add("memory")
    if any(model.num_parameters for model in report.models):
        names.add("parameters")
    if any("kind" in model.likelihood for model in report.models):
        names.add("likelihood")
    return tuple(text for name, text in DEFINITIONS.items() if name in names)


def missing(report: Report, cell: Cell) -> str:
    """Which classes are not drawn, in words; empty where classes were not counted."""
    if not cell.class_counts:
        return ""
    total, judged = len(cell.class_counts), judged_classes(cell)
    if not judged:
        return f"Too few samples to say which of the {total:,} classes are missing."
    names = class_names(report, total)
    absent = [i for i in judged if cell.class_counts[i] == 0]
    rare = [i for i in missing_classes(cell) if i not in absent]
    parts = []
    if not absent and not rare and len(judged) == total:
        parts.append(f"All {total:,} classes are drawn.")
    elif not absent and not rare:
        parts.append(f"All that can be judged are drawn: {listed([names[i] for i in judged])}.")
    if absent:
        parts.append(f"Never drawn: {listed([names[i] for i in absent])}.")
    if rare:
        parts.append(f"Hardly ever drawn: {listed([names[i] for i in rare])}.")
    if len(judged) < total:
        others = [names[i] for i in range(total) if i not in judged]
        parts.append(
            f"Not judged: {listed(others)}; as many real data show them fewer than {SEEN} times."
        )
    return " ".join(parts)


def judged_classes(cell: Cell) -> tuple[int, ...]:
    """Classes that as many real data show often enough, 20 times, to say whether one is missing.

    Args:
        cell: with counts of its samples; without counts of real data all classes are judged.

    Returns:
        Their numbers, from 0; ``ranking.missing_classes`` are some of them.
    """
    drawn, real = sum(cell.class_counts), sum(cell.real_class_counts)
    if not drawn or not real:
        return tuple(range(len(cell.class_counts)))
    return tuple(k for k, n in enumerate(cell.real_class_counts) if drawn * n / real >= SEEN)


def limits(report: Report) -> tuple[str, ...]:
    """Sentences on what the figures do not tell, and what their features hardly see."""
    flaws = [str(flaw) for flaw in report.data.get("hardly_seen") or ()]
    found = [f"The features of these figures {caution(flaws)}."] if flaws else []
    sure = report.data.get("unlike_digits")
    if isinstance(sure, int | float):
        found.append(
            "These figures rest on features for handwritten digits, chosen because images are grey "
            "and 28 or 32 pixels wide, but the real ones hardly look like digits: the classifier "
            f"gives {sure:.2f} on average to the class it finds most probable, and digits get at "
            f"least {LEAST_CERTAINTY:.2f}. Its classes are left out; choose others by --extractor."
        )
    return (*found, *_changed(report), *_unequal(report), *_single(report), *LIMITS)


def _unequal(report: Report) -> tuple[str, ...]:
    """How much training data each model has seen, where cards say so and it is not the same."""
    seen = {
        model.name: model.card["images_seen"]
        for model in report.models
        if isinstance(model.card.get("images_seen"), int)
    }
    if len(set(seen.values())) < 2:
        return ()
    told = listed([f"{name} {count:,}" for name, count in seen.items()])
    return (
        f"The models were not trained on equally much: {told} (counted with repeats). A model that "
        "has seen more may be ahead for that.",
    )


def _single(report: Report) -> tuple[str, ...]:
    """Which times rest on one drawing, which is its own median."""
    found: dict[int, list[str]] = {}
    for cell in report.measured():
        for speed in cell.speed:
            if speed.repeats == 1:
                found.setdefault(speed.batch_size, []).append(cell_name(cell))
    told = [
        f"{'alone' if size == 1 else f'{size:,} at once'}, {listed(names, 6)}"
        for size, names in sorted(found.items())
    ]
    if not told:
        return ()
    return (
        "Some times were measured once only, because a drawing took long; other work on the "
        f"machine may have slowed it. These are: {'; '.join(told)}.",
    )


def _changed(report: Report) -> tuple[str, ...]:
    """In what form real images were compared, if not in the one that they were given in."""
    given, compared = (list(report.data.get(name) or ()) for name in ("given_shape", "event_shape"))
    if len(given) != 3 or len(compared) != 3:
        return ()
    forms = ["grey" if shape[0] == 1 else "in colour" for shape in (given, compared)]
    sizes = [f"{shape[1]} x {shape[2]} pixels" for shape in (given, compared)]
    return (
        f"Real images were brought to the form of the models, {forms[1]} and {sizes[1]}: the first "
        f"of them was given {forms[0]}, in {sizes[0]}. What that takes away is not judged.",
    )


def class_names(report: Report, count: int) -> list[str]:
    """Names of the classes, numbers where there are no names."""
    names = [str(name) for name in report.data.get("class_names") or ()]
    return names[:count] + [str(i) for i in range(len(names), count)]


def copies(found: Mapping[str, Any]) -> str:
    """What the check for copies of training data came to, in words; empty if it was not made."""
    if "share_copied" not in found:
        return ""
    share, expected = float(found["share_copied"]), found.get("expected_share")
    low, high = found.get("low"), found.get("high")
    exact = found.get("num_exact") or 0
    if found.get("is_flagged"):
        verdict = "Signs of copying"
    else:
        verdict = "Copies, too few to rule out chance" if exact else "No sign of copying"
    checked = found.get("num_fake")
    who = "of the samples" if checked is None else f"of {int(checked):,} samples"
    told = f"{verdict}: {percent(share)} {who}"
    if low is not None and high is not None:
        told += f" (95 % interval {percent(low)} to {percent(high)})"
    told += f" come {_close(expected)}"
    held_out = f"of {found.get('num_held_out') or 0:,} of those real images"
    for much, key in (("Four", "near"), ("Sixteen", "beside")):
        if found.get(f"num_{key}"):
            told += f". {much} times closer to it than to the next ones: "
            told += f"{found[f'num_{key}']:,} samples, and {found.get(f'expected_{key}') or 0:,} "
            told += held_out
    if exact:
        others = f"{found.get('expected_exact') or 0:,}"
        told += f". {_exact(exact)}; of the real ones, {others}"
    if found.get("num_train") is not None:
        told += f". Searched: {int(found['num_train']):,} training images"
    return f"{told}."


def copies_found(found: Mapping[str, Any]) -> str:
    """How many samples look copied, for a sentence; empty where the check was not made.

    Args:
        found: what the check for copies of training data came to.
    """
    if not isinstance(found.get("share_copied"), int | float):
        return ""
    share, expected = float(found["share_copied"]), found.get("expected_share")
    told = f"{percent(share)} of its samples come {_close(expected)}"
    exact, near = found.get("num_exact") or 0, found.get("num_near") or 0
    if exact:
        return f"{told}, and {_exact(exact)}"
    if near:
        return f"{told}, and {near:,} are four times closer to it than to the next ones"
    return told


def _close(expected: Any) -> str:
    """How close, in terms of the held-out real images that come as close."""
    told = "as close to one training image"
    if expected is None:
        return f"{told} as a copy would"
    return f"{told} as the closest {percent(float(expected))} of new real images"


def _exact(count: int) -> str:
    """How many samples equal a training image."""
    what = "is a training image" if count == 1 else "are training images"
    return f"{count:,} {what} byte for byte"


def unchecked(cells: Iterable[Cell]) -> tuple[str, ...]:
    """Which models were not checked for copies and why, those of one reason together."""
    found: dict[str, list[str]] = {}
    for cell in cells:
        if cell.memorisation and "share_copied" not in cell.memorisation:
            note = cell.memorisation.get("note") or "no reason is given"
            found.setdefault(str(note), []).append(cell.model)
    return tuple(f"Not checked for {listed(names)}: {note}." for note, names in found.items())
