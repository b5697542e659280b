"""``trilemma interpolate`` and ``trilemma reconstruct``."""

from __future__ import annotations

import argparse
import math
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
    walk_of,
)
from trilemma.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from trilemma.pipeline import Pipeline

__all__ = ["add"]

PATHS = 8
"""Paths of one picture unless something else is asked for."""


def add(commands: Any) -> None:
    """Add the commands to the parser."""
    interpolate = commands.add_parser(
        "interpolate",
        help="lead from picture to picture through noise, as a grid or an animation",
        description="Draw paths through the noise that samples are made of: between samples 0 and "
        "1, 2 and 3, ...; between the pictures or samples that are named; or, with --walk, on a "
        "circle around each. A .png shows a row per path, a .gif or .mp4 moves along all of them.",
    )
    add_model(interpolate)
    interpolate.add_argument(
        "--from",
        dest="first",
        metavar="A",
        help="start: the number of a sample, a picture, or a folder of pictures",
    )
    interpolate.add_argument("--to", dest="second", metavar="B", help="end, likewise")
    interpolate.add_argument(
        "--rows", type=int, help=f"paths, where --from does not say which ({PATHS})"
    )
    interpolate.add_argument("--frames", type=int, help="frames of a path (9; animated 48)")
    interpolate.add_argument("--fps", type=float, default=12.0, help="frames per second (12)")
    interpolate.add_argument(
        "--walk", action="store_true", help="walk around each start and back to where it began"
    )
    interpolate.add_argument(
        "--radius",
        type=float,
        help="of a walk: angle between the noise of the start and that of a frame, radians up to "
        "pi/2 (0.5)",
    )
    interpolate.add_argument(
        "--spacing",
        choices=["length", "angle"],
        help="of frames: equal lengths of what is drawn, so that they change evenly, at six times "
        "the network calls, or equal angles of noise (length for latent models, else angle)",
    )
    add_walk(interpolate)
    add_temperature(interpolate)
    interpolate.add_argument(
        "-o", "--out", type=output_file, required=True, help="out.png, out.gif or out.mp4"
    )
    interpolate.set_defaults(run=_interpolate, takes_overrides=True)

    reconstruct = commands.add_parser(
        "reconstruct",
        help="show what the latents of a model keep of real pictures",
        description="Encode pictures to the means of their latents and decode these. The picture "
        "shows each row of originals above its reconstructions.",
    )
    add_model(reconstruct)
    reconstruct.add_argument("--data", required=True, help="real data, as for training")
    reconstruct.add_argument("--split", default="test", help="split of the real data (test)")
    reconstruct.add_argument("-n", "--num", type=int, default=40, help="pictures (40)")
    reconstruct.add_argument("--batch-size", type=int, default=64, help="pictures per call (64)")
    reconstruct.add_argument("-o", "--out", type=output_file, required=True, help="out.png")
    reconstruct.set_defaults(run=_reconstruct)


def _need_pictures(pipeline: Pipeline) -> None:
    """Refuse a model that draws something else.

    Raises:
        ConfigError: for rows of a table, or points.
    """
    if "table" in pipeline.card:
        raise ConfigError(
            "this model draws rows of a table, not images; use Pipeline.interpolate and "
            "Pipeline.reconstruct from Python"
        )
    need_images(pipeline.event_shape)


def _interpolate(options: argparse.Namespace) -> int:
    import torch

    from trilemma.images import ANIMATIONS, save_animation, save_png, to_uint8

    out = Path(options.out)
    is_animated = out.suffix in ANIMATIONS
    if not is_animated and out.suffix != ".png":
        raise ConfigError(f"-o {out}: give a name ending in .png, .gif or .mp4")
    num = (48 if is_animated else 9) if options.frames is None else options.frames
    check_counts(options, "batch_size")
    if num < 2:
        raise ConfigError(f"--frames {num}: at least 2")
    if options.radius is not None and not options.walk:
        raise ConfigError(f"--radius {options.radius} needs --walk")
    if options.spacing is not None and options.walk:
        raise ConfigError(
            f"--spacing {options.spacing} and --walk exclude each other: a walk goes by the angle"
        )
    if not 0 < options.fps <= 50:
        raise ConfigError(f"--fps {options.fps} must lie in (0, 50]")
    walk = {**walk_of(options), "temperature": options.temperature}
    pipeline = load_model(options)
    _need_pictures(pipeline)
    ends = _ends(options, pipeline.event_shape)
    started, rows = time.perf_counter(), []
    with counting_bar("drawing", num * len(ends)) as progress:
        for first, second in ends:
            if options.walk:
                radius = 0.5 if options.radius is None else options.radius
                row = pipeline.walk(first, num, radius=radius, **walk, progress=progress)
            else:
                row = pipeline.interpolate(
                    first, second, num, spacing=options.spacing, **walk, progress=progress
                )
            rows.append(to_uint8(row))
    seconds = time.perf_counter() - started
    images = torch.stack(rows)
    if is_animated:
        frames = images.transpose(0, 1)
        if not options.walk:  # there and back
            frames = torch.cat([frames, frames[1:-1].flip(0)])
        save_animation(out, frames, _columns(len(ends)), options.fps)
    else:
        save_png(out, images.flatten(0, 1), columns=num)
    console.print(
        f"{len(ends)} {'path' if len(ends) == 1 else 'paths'} of {num} frames, "
        f"{pipeline.last_nfe} network calls each, "
        f"{1000 * seconds / (num * len(ends)):.1f} ms per frame: {out}",
        soft_wrap=True,
    )
    return 0


def _ends(options: argparse.Namespace, shape: tuple[int, ...]) -> list[tuple[Any, Any]]:
    """Both ends of every path, numbers of samples or pictures; those of a walk are its start."""
    if options.first is None:
        if options.second is not None:
            raise ConfigError(f"--to {options.second} needs --from")
        num = PATHS if options.rows is None else options.rows
        if num < 1:
            raise ConfigError(f"--rows {num}: at least 1")
        return [(i, i) if options.walk else (2 * i, 2 * i + 1) for i in range(num)]
    if options.rows is not None:
        raise ConfigError(f"--rows {options.rows} and --from exclude each other")
    if options.walk == (options.second is not None):
        reason = "a walk ends where it starts" if options.walk else "the path needs an end"
        raise ConfigError(f"--from {options.first}: {reason}; --to and --walk exclude each other")
    firsts = _end(options.first, shape)
    seconds = firsts if options.walk else _end(options.second, shape)
    if len(firsts) != len(seconds):
        raise ConfigError(
            f"--from {options.first} has {len(firsts)} pictures, --to {options.second} has "
            f"{len(seconds)}: they go in pairs"
        )
    return list(zip(firsts, seconds, strict=True))


def _end(name: str, shape: tuple[int, ...]) -> list[int] | list[Tensor]:
    """The number of a sample, or pictures."""
    from trilemma.data import read_images

    if name.isdecimal() and not Path(name).exists():
        return [int(name)]
    return list(read_images(name, shape))


def _columns(num: int) -> int:
    """Columns of a full grid that is as square as can be and not higher than wide."""
    return next(c for c in range(math.ceil(math.sqrt(num)), num + 1) if num % c == 0)


def _reconstruct(options: argparse.Namespace) -> int:
    import torch

    from trilemma.evaluation import reference_data
    from trilemma.images import save_png, to_uint8

    out = Path(options.out)
    if out.suffix != ".png":
        raise ConfigError(f"-o {out}: give a name ending in .png")
    check_counts(options, "num", "batch_size")
    pipeline = load_model(options)
    _need_pictures(pipeline)
    data = reference_data(options.data, options.split, pipeline.event_shape)
    num = min(options.num, len(data))
    originals = data.fetch(range(num)).x0
    images = [to_uint8(x) for x in (originals, pipeline.reconstruct(originals))]
    error = images[1].double() - images[0].double()
    columns = min(num, 10)
    blank = images[0].new_full((-num % columns, *pipeline.event_shape), 255)
    rows = [torch.cat([x, blank]).unflatten(0, (-1, columns)) for x in images]
    save_png(out, torch.stack(rows, dim=1).flatten(0, 2), columns=columns)
    console.print(
        f"{num} pictures of {options.data} ({options.split}), bytes 0 to 255: mean squared error "
        f"{float(error.square().mean()):.2f}, mean absolute error {float(error.abs().mean()):.2f}: "
        f"{out}",
        soft_wrap=True,
    )
    return 0
