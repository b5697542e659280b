"""``trilemma train``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from trilemma.commands.common import console, output_folder, pairs
from trilemma.errors import ConfigError

if TYPE_CHECKING:
    from trilemma.training import Progress

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command to the parser."""
    train = commands.add_parser(
        "train",
        help="train a model by a recipe",
        description="Train by a recipe. Any entry of the recipe can be set by name, such as "
        "--trainer.batch_size 32, --method.num_steps 2 or --method.generator.channels 64.",
        epilog="Several processes: torchrun --nproc_per_node 4 -m trilemma train RECIPE ...",
    )
    train.add_argument("recipe", help="a bundled recipe (see `trilemma recipes`) or a YAML file")
    train.add_argument("--data", help="folder of images, parquet folder, .npz or Hub name")
    train.add_argument("--out", type=output_folder, help="folder of the run (runs/RECIPE)")
    train.add_argument(
        "--start",
        help="model or run whose networks to begin with (a first stage); MODEL:autoencoder for one",
    )
    train.add_argument("--resume", action="store_true", help="continue from the last checkpoint")
    train.set_defaults(run=_run, takes_overrides=True)


def _run(options: argparse.Namespace) -> int:
    import torch

    from trilemma.checkpoints.store import write_bytes
    from trilemma.config import build_recipe, dump_yaml, load_recipe, override, resolve, set_data
    from trilemma.data import HubImages, Table, Toy
    from trilemma.pipeline import save_pipeline, start_from
    from trilemma.training.checkpoint import checkpoints

    config = load_recipe(options.recipe)
    if options.data:
        set_data(config, options.data)
    for key, value in pairs(options.extra):
        override(config, key, value)
    if config["data"]["init_args"].get("path") == "":
        raise ConfigError(f"the recipe {options.recipe} brings no data: name them with --data PATH")
    _take_columns(config)
    config = resolve(config)
    torch.manual_seed(config["trainer"]["seed"])  # initial weights
    method, data, trainer = build_recipe(config)
    if options.start:
        model, only = options.start, ""
        if ":" in model and not Path(model).exists():
            model, _, only = model.rpartition(":")
        parts = start_from(method, model, only.split(",") if only else ())
        console.print(f"starting from {model}: {', '.join(parts)}", soft_wrap=True)
    _check_data(method, data)
    out = Path(options.out or Path("runs") / Path(options.recipe).stem)
    is_main = int(os.environ.get("RANK", "0")) == 0
    if is_main:
        trainer.check_folder(out, resume=options.resume)
        if options.resume and not checkpoints(out):
            console.print(f"nothing to resume in {out}: starting anew", soft_wrap=True)

    def started() -> None:
        if is_main:
            _tell_changes(out / "config.yaml", config)
            write_bytes(out / "config.yaml", dump_yaml(config).encode())

    def export(path: Path, averaged: Any) -> None:
        card = {"recipe": Path(options.recipe).stem, "num_images": trainer.num_images}
        if options.start:
            card["start"] = Path(options.start).name
        if isinstance(data, HubImages) and data.pad:
            card["pad"] = data.pad
        if isinstance(data, Toy):
            card["scale"] = data.scale
        if isinstance(data, Table):
            card["table"] = data.describe()
        shape, names = data.event_shape, data.class_names
        save_pipeline(path, averaged, config["method"], shape, class_names=names, card=card)

    with _training_bar(trainer.num_images, is_main) as report:
        finished = trainer.fit(
            method,
            data,
            out,
            config=config,
            resume=options.resume,
            export=export,
            report=report,
            started=started,
        )
    if is_main:
        state = "finished" if finished else "stopped after saving; continue with --resume"
        console.print(f"{state}: {out}")
    return 0


def _tell_changes(path: Path, config: dict[str, Any]) -> None:
    """Name the settings that differ from those that the folder was trained with before."""
    import yaml

    try:
        before = _flat(yaml.safe_load(path.read_text()))
    except (OSError, yaml.YAMLError):
        return  # a new run
    now = _flat(config)
    changes = [
        f"{key} {before.get(key, 'absent')} -> {now.get(key, 'absent')}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if changes:
        console.print(f"resuming with other settings: {', '.join(changes)}", soft_wrap=True)


def _flat(node: Any, name: str = "") -> dict[str, Any]:
    """Leaves of nested entries, by their dotted names."""
    if not isinstance(node, dict):
        return {name: list(node) if isinstance(node, tuple) else node}
    parts = (_flat(value, f"{name}.{key}".lstrip(".")) for key, value in node.items())
    return {key: value for part in parts for key, value in part.items()}


def _take_columns(config: dict[str, Any]) -> None:
    """Give an autoencoder of tables that names no columns those of the data."""
    from trilemma.config import build_data

    method = config["method"].get("init_args", {})
    autoencoder = (method.get("autoencoder") or {}).get("init_args", {})
    if autoencoder.get("categories") == [] and config["data"]["class_path"] == "Table":
        table: Any = build_data(config["data"])
        autoencoder["categories"] = list(table.categories)


def _check_data(method: Any, data: Any) -> None:
    """Refuse networks that do not fit the data before anything is written."""
    wanted = getattr(getattr(method, "autoencoder", None), "categories", None)
    if wanted is not None and tuple(wanted) != tuple(getattr(data, "categories", ())):
        raise ConfigError(
            f"the autoencoder takes columns of {list(wanted)} categories, 0 for a number; the data "
            f"have {list(getattr(data, 'categories', ()))}: set --method.autoencoder.categories []"
        )
    if method.num_classes and not 0 < data.num_classes <= method.num_classes:
        raise ConfigError(
            f"the networks take labels of {method.num_classes} classes, the data have "
            f"{data.num_classes}: set num_classes of generator and discriminator"
        )
    expected, found = method.event_shape, tuple(data.event_shape)
    if expected != found:
        raise ConfigError(
            f"the networks take data of shape {expected}, the data have {found}: set "
            "--data.image_size and --data.channels, or image_size and in_channels of the networks"
        )


@contextmanager
def _training_bar(total: int, is_main: bool) -> Iterator[Any]:
    """Progress line with rate, losses and time left; plain lines where there is no terminal."""
    if not is_main:
        yield None
        return
    columns = (
        TextColumn("{task.fields[rate]:>6.0f} img/s"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[losses]}"),
    )
    with Bar(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total, rate=0.0, losses="")

        def report(progress: Progress) -> None:
            losses = " ".join(f"{name} {value:.3f}" for name, value in progress.values.items())
            bar.update(
                task,
                completed=min(progress.images, total),
                rate=progress.images_per_second,
                losses=losses,
            )
            if not console.is_terminal:
                left = progress.seconds_left / 60
                console.print(
                    f"{progress.images} images, {progress.images_per_second:.0f}/s, "
                    f"{left:.0f} min left, {losses}",
                    soft_wrap=True,
                )

        yield report
