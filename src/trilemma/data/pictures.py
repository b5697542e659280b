"""Pictures that are named one by one, to edit or to lead paths through, read as training data are.

The rules of colour, size and border are those of `decode`; which files of a folder count is that
of `layout`: every picture below it, but for hidden ones.
"""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trilemma.data.base import to_unit_range
from trilemma.data.decode import Shape, decode
from trilemma.data.layout import find_pictures, neighbours
from trilemma.errors import DataError

__all__ = ["read_images"]


def read_images(path: Path | str, event_shape: tuple[int, ...]) -> Tensor:
    """Read one picture, or all of a folder and below it in order of their paths.

    Args:
        path: a picture, or a folder of pictures.
        event_shape: shape (c, side, side) to bring them to: 1 or 3 colours, the central square.

    Returns:
        Images (n, c, side, side), float32 in [-1, 1].

    Raises:
        DataError: there is no picture, or one cannot be read.
    """
    root = Path(path).expanduser()
    if not root.exists():
        raise DataError(f"{path} does not exist{neighbours(str(path))}; give a picture or a folder")
    files = find_pictures(root) if root.is_dir() else [root]
    if not files:
        raise DataError(f"{path} holds no pictures; give another folder, or a picture")
    channels, side, _ = event_shape
    shape = Shape(channels, image_size=side)
    arrays = [decode(file, shape, partial("picture {}".format, file)) for file in files]
    return to_unit_range(torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous())
