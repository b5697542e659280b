"""``trilemma sample`` and ``trilemma edit``."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trilemma.commands.common import (
    add_model,
    add_temperature,
    add_walk,
    check_counts,
    console,
    counting_bar,
    load_model,
    need_images,
    output_file,
    output_folder,
    walk_of,
)
from trilemma.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the commands to the parser."""
    sample = commands.add_parser("sample", help="draw samples from a model")
    add_model(sample)
    sample.add_argument("-n", "--num", type=int, default=64, help="number of samples (64)")
    add_walk(sample)
    add_temperature(sample)
    sample.add_argument(
        "--trajectory",
        type=int,
        metavar="N",
        help="show N states on the way from noise to data, a row per sample; needs out.png",
    )
    sample.add_argument(
        "-o",
        "--out",
        type=_target,
        required=True,
        help="out.png, out.npz, a folder, or out.csv for rows of a table",
    )
    sample.set_defaults(run=_sample, takes_overrides=True)

    edit = commands.add_parser(
        "edit",
        help="noise a picture and denoise it: strokes to images, variations",
        description="Noise a picture up to a level and denoise it again. A low strength keeps the "
        "picture and cleans it, a high one keeps its rough layout only.",
    )
    add_model(edit)
    edit.add_argument("image", help="picture to edit, or a folder of pictures")
    edit.add_argument(
        "--strength",
        type=float,
        default=0.5,
        help="how far to go back, in (0, 1], the same noise for all models (0.5)",
    )
    edit.add_argument("-n", "--num", type=int, default=8, help="variations per picture (8)")
    add_walk(edit)
    edit.add_argument(
        "-o", "--out", type=_target, required=True, help="out.png, out.npz or a folder"
    )
    edit.set_defaults(run=_edit, takes_overrides=True)


def _sample(options: argparse.Namespace) -> int:
    import torch

    from trilemma.checkpoints.store import write_bytes
    from trilemma.data.table import to_csv
    from trilemma.images import save_images, to_uint8
    from trilemma.sampling import labels_for

    out, states = options.out, options.trajectory
    check_counts(options, "num", "batch_size")
    if states is not None and (states < 2 or out.suffix != ".png"):
        raise ConfigError(f"--trajectory {states} needs at least 2 states, and -o out.png")
    if out.suffix == "":
        _check_folder(out, options.num)
    walk = walk_of(options)
    pipeline = load_model(options)
    is_table = "table" in pipeline.card
    if is_table != (out.suffix == ".csv"):
        raise ConfigError(
            f"-o {out}: rows of a table are written to a name ending in .csv, and nothing else is"
        )
    if not is_table:
        need_images(pipeline.event_shape)
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    first, last = (options.num * (rank + i) // world for i in (0, 1))
    started = time.perf_counter()
    drawn = torch.empty(0, *([] if states is None else [states]), *pipeline.event_shape)
    if last > first:
        with counting_bar("sampling", last - first) as progress:
            drawn = pipeline.sample(
                last - first,
                **walk,
                temperature=options.temperature,
                first=first,
                return_trajectory=states is not None,
                progress=progress,
            )
        drawn = drawn if states is None else _some_states(drawn, states)
    seconds = time.perf_counter() - started
    images = drawn if is_table else to_uint8(drawn)
    if is_table:
        rows = _gather(drawn, world)
        if rank == 0:
            write_bytes(out, to_csv(rows, pipeline.card["table"]).encode())
    elif out.suffix == "":
        save_images(out, images, first=first)
    else:
        images = _gather(images, world)
        if rank == 0 and states is not None:
            save_images(out, images.flatten(0, 1), columns=states)
        elif rank == 0:
            indices = range(options.num)
            save_images(out, images, labels_for(pipeline.num_classes, indices, options.class_label))
    if rank == 0:
        console.print(
            f"{options.num} samples in {pipeline.last_nfe} network calls each, "
            f"{1000 * seconds / max(1, last - first):.1f} ms per {'row' if is_table else 'image'}: "
            f"{out}",
            soft_wrap=True,
        )
    return 0


def _some_states(trajectory: Tensor, num: int) -> Tensor:
    """Choose evenly spaced states (samples, num, *event) of a trajectory, both ends included."""
    import torch

    if len(trajectory) < num:
        raise ConfigError(
            f"--trajectory {num}: there are {len(trajectory)} states on the way; take fewer, or a "
            "sampler that stops more often"
        )
    chosen = torch.linspace(0, len(trajectory) - 1, num).round().long()
    return trajectory[chosen].transpose(0, 1)


def _target(text: str) -> Path:
    """Read the name of a file, or without suffix that of a folder, before any work is done.

    Raises:
        ArgumentTypeError: for another suffix, or where nothing can be written.
    """
    out = Path(text)
    if out.suffix not in (".png", ".npz", ".csv", ""):
        raise argparse.ArgumentTypeError(
            f"{out}: give a name ending in .png or .npz, or a folder; .csv for rows"
        )
    return Path(output_file(text) if out.suffix else output_folder(text))


def _check_folder(out: Path, num: int) -> None:
    """Refuse a folder that holds other pictures, among which the new ones would be lost."""
    names = sorted(path.name for path in out.glob("*.png"))
    others = [n for n in names if not (Path(n).stem.isdigit() and int(Path(n).stem) < num)]
    if others:
        raise ConfigError(
            f"-o {out}: the folder holds {others[0]} and {len(others) - 1} more pictures besides "
            f"the {num} asked for; give an empty one"
        )


def _gather(images: Tensor, world: int) -> Tensor:
    """Collect the images of all processes, in order."""
    if world == 1:
        return images
    import torch
    import torch.distributed as dist

    if not dist.is_initialized():
        dist.init_process_group("gloo")
    parts: list[Any] = [None] * world
    dist.all_gather_object(parts, images)
    dist.destroy_process_group()
    return torch.cat(parts)


def _edit(options: argparse.Namespace) -> int:
    import torch

    from trilemma.data import read_images
    from trilemma.images import save_images, to_uint8

    out = options.out
    check_counts(options, "num", "batch_size")
    if out.suffix == ".csv":
        raise ConfigError(f"-o {out}: give a name ending in .png or .npz, or a folder")
    walk = walk_of(options)
    pipeline = load_model(options)
    need_images(pipeline.event_shape)
    originals = read_images(options.image, pipeline.event_shape)
    started = time.perf_counter()
    edited = pipeline.edit(
        originals.repeat_interleave(options.num, dim=0), options.strength, **walk
    )
    seconds = time.perf_counter() - started
    images = to_uint8(edited)
    if out.suffix == ".png":  # a row per picture: the original, then its variations
        rows = images.view(len(originals), options.num, *images.shape[1:])
        images = torch.cat([to_uint8(originals)[:, None], rows], dim=1).flatten(0, 1)
        save_images(out, images, columns=options.num + 1)
    else:
        save_images(out, images)
    console.print(
        f"{len(edited)} variations from strength {options.strength}, {pipeline.last_nfe} network "
        f"calls each, {1000 * seconds / len(edited):.1f} ms per image: {out}",
        soft_wrap=True,
    )
    return 0
