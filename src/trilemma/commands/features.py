"""``trilemma features``: fit features on one's own images, to judge models of such images by."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from trilemma.commands.common import check_counts, console, output_file, pairs
from trilemma.errors import ConfigError

if TYPE_CHECKING:
    from trilemma.data import Data
    from trilemma.training.features import FeatureFit, FitProgress

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command to the parser."""
    features = commands.add_parser(
        "features",
        help="fit features on your own images, to judge models of such images by",
        description="Fit a small classifier on labelled images, whose features also tell blur, "
        "noise, position and content. Without labels only the latter are fitted. The file is given "
        "to evaluate and report as --extractor. A few minutes on a processor.",
        epilog="Settings of the data follow as --data.NAME VALUE, such as --data.image_size 64, "
        "--data.channels 3 or --data.label_column none.",
    )
    features.add_argument("--data", required=True, help="images, as for training; or digits")
    features.add_argument(
        "-o", "--out", type=output_file, required=True, help="file to write (.safetensors)"
    )
    features.add_argument(
        "--name",
        help="the distance is called fd_NAME; a-z, 0-9, _, no name of Inception's scores (the name "
        "of the file)",
    )
    features.add_argument("--split", help="split of the data (train; test for digits)")
    features.add_argument(
        "--budget",
        type=int,
        help="images seen during the fit (40 times their number, but 60000 to 240000, and to "
        "120000 above 32 pixels)",
    )
    features.add_argument(
        "--limit", type=int, default=100_000, help="images read, at random (100000)"
    )
    features.add_argument("--batch-size", type=int, default=64, help="images per step (64)")
    features.add_argument("--seed", type=int, default=0, help="seed of the fit (0)")
    features.set_defaults(run=_run, takes_overrides=True)


def _run(options: argparse.Namespace) -> int:
    from trilemma.commands.about import version
    from trilemma.metrics.fitted import FittedFeatures
    from trilemma.training.features import (
        check_budget,
        fit_features,
        read_labelled,
        save_features,
    )

    out = Path(options.out)
    name = _name(options.name, out)
    check_counts(options, "limit", "batch_size")
    check_budget(options.budget, options.batch_size)
    images = read_labelled(_open(options), limit=options.limit, seed=options.seed)
    number, _, side, _ = images.images.shape
    kinds = "no labels" if images.labels is None else f"{len(images.labels.unique())} classes"
    console.print(f"{number} images of {side} x {side} pixels, {kinds}", soft_wrap=True)
    if images.labels is None:
        console.print(
            "without labels the features learn what was done to an image and what it holds on the "
            "whole; they know no classes, and count none",
            soft_wrap=True,
        )
    with _bar() as report:
        fit = fit_features(
            images,
            budget=options.budget,
            batch_size=options.batch_size,
            seed=options.seed,
            report=report,
        )
    save_features(out, fit, name, data=Path(options.data).name, version=version())
    extractor = FittedFeatures(out)  # what was written can be read
    _print_card(fit)
    console.print(
        f"written: {out}, features {extractor.name!r}, {extractor.dim} numbers an image",
        markup=False,
    )
    console.print(
        f"use it: trilemma evaluate MODEL --data {options.data} --extractor {out}", soft_wrap=True
    )
    console.print(
        f"        trilemma report MODEL MODEL --data {options.data} --extractor {out} -o report",
        soft_wrap=True,
    )
    return 0


def _name(given: str | None, out: Path) -> str:
    """The name of the features, by default from that of the file.

    Raises:
        ConfigError: for another suffix, or a name that features may not bear.
    """
    from trilemma.metrics.fitted import check_name

    if out.suffix != ".safetensors":
        raise ConfigError(f"-o {out}: features are written to a file *.safetensors")
    return check_name(re.sub(r"[-. ]", "_", out.stem.lower()) if given is None else given)


def _open(options: argparse.Namespace) -> Data:
    """The data with their settings.

    Raises:
        ConfigError: for settings that the data do not have, or an override of something else.
    """
    from trilemma.config import build_data, override
    from trilemma.data import BundledDigits, HubImages, data_from_argument

    data = data_from_argument(options.data)
    split = options.split or ("test" if isinstance(data, BundledDigits) else "train")
    settings = list(pairs(options.extra))
    for key, _ in settings:
        if not key.startswith("data."):
            raise ConfigError(f"unrecognized arguments: --{key}; data are set by --data.NAME")
    if not isinstance(data, HubImages):
        if settings:
            raise ConfigError(f"--{settings[0][0]}: {options.data} has no settings here")
        return data if len(data.event_shape) != 3 else data.split(split)
    entry = {"class_path": "HubImages", "init_args": {"path": options.data, "split": split}}
    for key, value in settings:
        override({"data": entry}, key, value)
    return build_data(entry)


def _print_card(fit: FeatureFit) -> None:
    """Accuracy, and what the features see."""
    from trilemma.metrics.fitted import FLAWS, caution, hardly_seen

    if fit.accuracy is not None:
        console.print(
            f"accuracy {fit.accuracy:.2%} on {fit.num_held_out} images held out of the fit",
            soft_wrap=True,
        )
    told = ", ".join(f"{key} {max(value, 0):.0%}" for key, value in fit.regressions.items())
    console.print(f"variance explained there: {told}", soft_wrap=True)
    floor = fit.card["real"]
    table = Table(box=None, pad_edge=False, title_justify="left", caption_justify="left")
    table.add_column(f"against {fit.card_images} real images")
    for title in ("Frechet distance", "times the floor"):
        table.add_column(title, justify="right")
    rows = {"real": "other real images: the floor"} | FLAWS
    for key, value in fit.card.items():
        table.add_row(rows[key], f"{value:.3g}", f"{value / floor:.1f}")
    console.print(table)
    missed = hardly_seen(fit.card)
    if missed:
        console.print(
            f"these features {caution(missed)}; raise --budget, or give more images",
            soft_wrap=True,
        )


@contextmanager
def _bar() -> Iterator[Any]:
    """Progress with the accuracy so far; plain lines where there is no terminal."""
    columns = (BarColumn(bar_width=24), TextColumn("{task.fields[state]}"), TimeRemainingColumn())
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None, state="fitting")

        def report(progress: FitProgress) -> None:
            state = f"disturbances {max(progress.explained, 0):.0%} explained"
            if progress.accuracy is not None:
                state = f"accuracy {progress.accuracy:.1%}, {state}"
            state = f"{progress.images} of {progress.total} images, {state}"
            bar.update(task, total=progress.total, completed=progress.images, state=state)
            if not console.is_terminal:
                left = progress.seconds * (progress.total / progress.images - 1)
                console.print(f"{state}, {left:.0f} s left", soft_wrap=True)

        yield report
