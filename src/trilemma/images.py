"""Images on disk: grids, folders, and the arrays that evaluators of generative models read."""

from __future__ import annotations

import io
import math
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image as PILImage
from torch import Tensor

from trilemma.checkpoints.store import write_bytes
from trilemma.errors import ConfigError

__all__ = [
    "ANIMATIONS",
    "grid_image",
    "save_animation",
    "save_images",
    "save_png",
    "to_uint8",
]

ANIMATIONS = (".gif", ".mp4")
"""Suffixes that ``save_animation`` can write."""


def to_uint8(images: Tensor) -> Tensor:
    """Map floats in [-1, 1], (b, c, h, w), to uint8, rounding to nearest and clipping."""
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def grid_image(
    images: Tensor, columns: int | None = None, margin: int = 2, scale: int = 1
) -> PILImage.Image:
    """Arrange uint8 images (b, c, h, w) in a near-square grid on white.

    Args:
        images: grey (c = 1) or colour (c = 3) images.
        columns: images per row; about the square root of their number by default.
        margin: white pixels between images.
        scale: repeat every pixel this often in both directions.

    Returns:
        A PIL image.
    """
    number, channels, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(number))
    rows = math.ceil(number / columns)
    canvas = torch.full(
        (channels, rows * (height + margin) + margin, columns * (width + margin) + margin),
        255,
        dtype=torch.uint8,
    )
    for i, image in enumerate(images.cpu()):
        top = margin + i // columns * (height + margin)
        left = margin + i % columns * (width + margin)
        canvas[:, top : top + height, left : left + width] = image
    picture = canvas.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    return _to_pil(picture)


def save_png(path: Path | str, images: Tensor, columns: int | None = None) -> None:
    """Write a grid of uint8 images as PNG; small images are enlarged for the eye."""
    picture = grid_image(images, columns, margin=2, scale=_enlargement(images))
    _write_pil(Path(path), picture)


def save_animation(
    path: Path | str, frames: Tensor, columns: int | None = None, fps: float = 12
) -> None:
    """Write grids of uint8 images as an animation that runs for ever, or as a film.

    Args:
        path: ``*.gif``, or ``*.mp4``, which needs the package imageio-ffmpeg.
        frames: images (n, b, c, h, w), b of which make the grid of a frame; small ones are
            enlarged for the eye.
        columns: images per row; about the square root of b by default.
        fps: frames per second in (0, 50]; a GIF rounds the time of a frame to 1/100 s.

    Raises:
        ConfigError: for another suffix or speed, or where the package is missing.
        WriteError: if the disk is full or the folder cannot be written.
    """
    path = Path(path)
    if not 0 < fps <= 50:
        raise ConfigError(f"fps={fps} must lie in (0, 50]")
    if path.suffix not in ANIMATIONS:
        raise ConfigError(
            f"cannot write an animation to {path}: give a name ending in .gif or .mp4"
        )
    scale = _enlargement(frames, 96)
    pictures = [grid_image(images, columns, margin=2, scale=scale) for images in frames]
    write_bytes(path, (_gif if path.suffix == ".gif" else _mp4)(pictures, fps))


def save_images(
    path: Path | str,
    images: Tensor,
    labels: Tensor | None = None,
    first: int = 0,
    columns: int | None = None,
) -> None:
    """Write uint8 images (b, c, h, w) in the form that the path asks for.

    ``*.png`` is one grid; ``*.npz`` holds ``arr_0``, uint8 (b, h, w, c), and ``arr_1`` with the
    labels if there are any; a path without suffix is a folder that gets one PNG per image, named
    by index from ``first`` on.

    Raises:
        ConfigError: for another suffix.
        WriteError: if the disk is full or the folder cannot be written.
    """
    path = Path(path)
    if path.suffix == ".png":
        save_png(path, images, columns)
    elif path.suffix == ".npz":
        buffer = io.BytesIO()
        arrays = [images.permute(0, 2, 3, 1).cpu().numpy()]
        arrays += [] if labels is None else [labels.cpu().numpy()]
        np.savez(buffer, *arrays)
        write_bytes(path, buffer.getvalue())
    elif path.suffix == "":
        for i, image in enumerate(images.cpu()):
            _write_pil(path / f"{first + i:06d}.png", _to_pil(image))
    else:
        raise ConfigError(
            f"cannot write images to {path}: give a name ending in .png (a grid), .npz (an array) "
            "or without suffix (a folder)"
        )


def _enlargement(images: Tensor, width: int = 64) -> int:
    """How often every pixel is repeated, so that small images come close to a width."""
    return max(1, width // images.shape[-1])


def _gif(pictures: list[PILImage.Image], fps: float) -> bytes:
    """Pictures as a GIF; colours are chosen once for all of them, or the background flickers."""
    if pictures[0].mode != "L":
        some = pictures[:: math.ceil(len(pictures) / 16)]
        width, height = some[0].size
        joined = PILImage.new("RGB", (width, height * len(some)))
        for i, picture in enumerate(some):
            joined.paste(picture, (0, i * height))
        palette = joined.quantize(256)
        pictures = [p.quantize(palette=palette, dither=PILImage.Dither.NONE) for p in pictures]
    buffer = io.BytesIO()
    delay = 10 * max(2, round(100 / fps))  # milliseconds
    first, *rest = pictures
    first.save(buffer, "GIF", save_all=True, append_images=rest, duration=delay, loop=0)
    return buffer.getvalue()


def _mp4(pictures: list[PILImage.Image], fps: float) -> bytes:
    """Pictures as H.264 in an MP4 file, whose sides are even."""
    try:
        from imageio_ffmpeg import write_frames
    except ImportError as error:
        raise ConfigError(
            "an .mp4 needs imageio-ffmpeg: pip install 'trilemma[video]', or write a .gif"
        ) from error
    width, height = (side + side % 2 for side in pictures[0].size)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "film.mp4"
        writer = write_frames(str(target), (width, height), fps=fps, quality=8, macro_block_size=2)
        writer.send(None)
        for picture in pictures:
            frame = PILImage.new("RGB", (width, height), "white")
            frame.paste(picture)
            writer.send(frame.tobytes())
        writer.close()
        return target.read_bytes()


def _to_pil(image: Tensor) -> PILImage.Image:
    array = image.permute(1, 2, 0).numpy()
    return PILImage.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)


def _write_pil(path: Path, picture: PILImage.Image) -> None:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    write_bytes(path, buffer.getvalue())
