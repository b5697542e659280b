"""From an encoded picture to an array: one rule for colour, size and border.

A picture file may be grey, coloured, transparent, a palette, 16 bits deep or stored on its side;
networks want one shape. The steps are always the same, in this order: turn as the camera says
(EXIF), lay transparent pictures on white, convert to 1 or 3 channels, resize so that the shorter
side is `image_size` (bicubic, widened when shrinking so that nothing aliases), cut the central
square, add a black border of `pad` pixels.

Broken and truncated files are errors that name the file: a picture that is grey below the middle
because its download stopped must not be learned from.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from trilemma.errors import DataError

__all__ = ["Raw", "Shape", "decode", "natural_channels", "open_picture"]

Raw = bytes | Path | np.ndarray
"""A picture as its source holds it: encoded, a file, or an array (h, w) or (h, w, c), uint8."""

ORIENTATION = 0x0112
"""The EXIF entry that says which way up the camera was held."""


@dataclass(frozen=True)
class Shape:
    """What every picture is brought to.

    Args:
        channels: 1 for grey, 3 for colour.
        image_size: length of the shorter side in pixels, before the border; None keeps it.
        crop: ``"center"`` cuts the central square when resizing, ``"none"`` keeps the whole.
        pad: black pixels added on each side.
        strict_grey: whether a coloured picture among grey ones is an error.
    """

    channels: int
    image_size: int | None = None
    crop: Literal["center", "none"] = "center"
    pad: int = 0
    strict_grey: bool = False


def open_picture(raw: Raw, where: Callable[[], str]) -> Image.Image:
    """Read a picture completely.

    Args:
        raw: the encoded picture.
        where: says which picture it is, for the error message.

    Returns:
        The decoded picture, in its own mode, upright.

    Raises:
        DataError: the bytes are no picture, or end too early.
    """
    if isinstance(raw, np.ndarray):
        return Image.fromarray(raw)
    try:
        image: Image.Image = Image.open(io.BytesIO(raw) if isinstance(raw, bytes) else raw)
        image.load()
        if image.getexif().get(ORIENTATION, 1) != 1:
            image = ImageOps.exif_transpose(image)
    except Exception as error:  # decoders raise almost anything on damaged bytes
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = "not a picture in a format that Pillow reads"
        raise DataError(
            f"{where()} cannot be read ({reason}); replace it or take it out of the data"
        ) from error
    return image


def natural_channels(image: Image.Image) -> Literal[1, 3]:
    """Say whether a picture is stored as grey or as colour.

    Args:
        image: a decoded picture.

    Returns:
        1 for the grey modes, else 3.
    """
    return 1 if image.mode in ("1", "L", "LA", "La", "I", "F") or image.mode[:2] == "I;" else 3


def decode(raw: Raw, shape: Shape, where: Callable[[], str]) -> np.ndarray:
    """Read a picture and bring it to a shape.

    Args:
        raw: the encoded picture.
        shape: colours, size and border wanted.
        where: says which picture it is, for error messages.

    Returns:
        The picture (h, w, c), uint8.

    Raises:
        DataError: it cannot be read, has no 8-bit meaning, or is coloured among grey ones.
    """
    image = open_picture(raw, where)
    if shape.strict_grey and natural_channels(image) == 3:
        raise DataError(
            f"{where()} is coloured but the first picture is grey; say which is meant: "
            "channels 3 (colour) or channels 1 (grey)"
        )
    image = _convert(image, shape.channels, where)
    if shape.image_size is not None:
        image = _resize(image, shape.image_size, shape.crop)
    array = np.asarray(image).reshape(image.height, image.width, shape.channels)
    return _border(array, shape.pad) if shape.pad else array


def _convert(image: Image.Image, channels: int, where: Callable[[], str]) -> Image.Image:
    if image.mode == "F" or image.mode[:1] == "I":
        image = _from_16_bits(image, where)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = _on_white(image)
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _on_white(image: Image.Image) -> Image.Image:
    image = image.convert("LA" if image.mode == "La" else "RGBA").convert("RGBA")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image).convert("RGB")


def _from_16_bits(image: Image.Image, where: Callable[[], str]) -> Image.Image:
    array: np.ndarray[Any, Any] = np.asarray(image)
    if image.mode == "F" or array.min() < 0 or array.max() > 65535:
        raise DataError(f"{where()} has {image.mode!r} pixels; allowed: 8 or 16 bits a channel")
    return Image.fromarray(((array.astype(np.float64) / 257.0) + 0.5).astype(np.uint8))


def _resize(image: Image.Image, size: int, crop: str) -> Image.Image:
    width, height = image.size
    scale = size / min(width, height)
    new = (max(size, round(width * scale)), max(size, round(height * scale)))
    if new != image.size:
        image = image.resize(new, Image.Resampling.BICUBIC)
    if crop == "none" or new == (size, size):
        return image
    left, top = (new[0] - size) // 2, (new[1] - size) // 2
    return image.crop((left, top, left + size, top + size))


def _border(array: np.ndarray, pad: int) -> np.ndarray:
    height, width, channels = array.shape
    out = np.zeros((height + 2 * pad, width + 2 * pad, channels), np.uint8)
    out[pad : pad + height, pad : pad + width] = array
    return out
