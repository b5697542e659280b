"""Evaluate a model or a file of samples against real data, by the protocol that the data call for.

Images are compared in the features of a named extractor; stacked digits also by the modes that
they show; points of a mixture by the share near a mode and the modes covered. Every figure says
how many samples entered, of which split, and what real data score at the same size.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trilemma.data import Data, HubImages, StackedDigits, Toy, data_from_argument
from trilemma.errors import ConfigError, DataError
from trilemma.images import to_uint8
from trilemma.metrics import (
    Record,
    classify,
    evaluate,
    extractor_for,
    extractor_named,
    grid_modes,
    mode_statistics,
    stacked_distribution,
    stacked_numbers,
)
from trilemma.pipeline import Pipeline

__all__ = ["evaluate_samples", "read_npz", "reference_data"]


def read_npz(path: Path | str) -> Tensor:
    """Read ``arr_0``, uint8 (n, h, w, c), as images (n, c, h, w).

    Raises:
        DataError: if the file is not such an array.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            array = archive["arr_0"]
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise DataError(f"cannot read images from {path}: {error}") from error
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] not in (1, 3):
        raise DataError(
            f"{path} holds {array.dtype} of shape {array.shape}; samples are uint8 (n, h, w, c)"
        )
    return torch.from_numpy(array).permute(0, 3, 1, 2).contiguous()


def reference_data(where: str, split: str, event_shape: tuple[int, ...]) -> Data:
    """Open real data in the shape of the samples.

    Raises:
        ConfigError: if the data cannot have that shape.
    """
    data = data_from_argument(where)
    if isinstance(data, HubImages) and len(event_shape) != 3:
        raise ConfigError(f"samples of shape {event_shape} are points; give a toy such as grid25")
    if isinstance(data, HubImages):
        channels, height, width = event_shape
        if height != width:
            raise ConfigError(f"samples of {height} x {width} are not square")
        return HubImages(where, split=split, image_size=height, channels=channels)  # type: ignore[arg-type]
    data = data.split(split)
    if tuple(data.event_shape) != tuple(event_shape):
        raise ConfigError(f"samples have shape {event_shape}, {where} has {data.event_shape}")
    return data


def evaluate_samples(
    samples: Pipeline | Tensor,
    data: Data,
    num: int,
    *,
    split: str,
    seed: int = 0,
    extractor: str | None = None,
    batch_size: int = 64,
    progress: Callable[[int], None] | None = None,
) -> list[Record]:
    """Measure samples against real data.

    Args:
        samples: a model to draw from, or images uint8 (n, c, h, w).
        data: real data of the same shape.
        num: samples to use, and real data at most.
        split: name of the real split, for the record.
        seed: of the samples and of random subsets.
        extractor: name of a feature extractor; by default what suits the images.
        batch_size: samples per network call.
        progress: called with the number of samples after each batch.

    Returns:
        Records with their protocol.

    Raises:
        ConfigError: if there are fewer samples than asked for.
    """
    total = len(data)  # opens the data: a wrong path must not cost a long sampling first
    if isinstance(samples, Tensor):
        if len(samples) < num:
            raise ConfigError(f"{len(samples)} samples were given, -n {num} asks for more")
        drawn = samples[:num]
    else:
        drawn = samples.sample(num, seed=seed, batch_size=batch_size, progress=progress)
        drawn = to_uint8(drawn) if drawn.dim() == 4 else drawn
    if isinstance(data, Toy):
        return _toy_records(drawn, data, split)
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    real = data.images_uint8(order[:num])
    rest = data.images_uint8(order[num : 2 * num]) if total >= num + 24 else None
    network = extractor_named(extractor) if extractor else None
    if isinstance(data, StackedDigits):
        records = _stacked_records(drawn, split)
        if network is None:
            return records
    else:
        records = []
    network = network or extractor_for(drawn)
    return records + evaluate(drawn, real, network, split=split, seed=seed, floor_real=rest)


def _stacked_records(images: Tensor, split: str) -> list[Record]:
    """Modes of 1000 and KL of stacked digits, uint8 (n, 3, h, w)."""
    numbers = stacked_numbers(classify(images))
    found = mode_statistics(numbers, 1000, stacked_distribution())
    shared: dict[str, Any] = {
        "num_fake": found.num_samples,
        "num_real": 60_000,
        "split": split,
        "extractor": "digits",
        "weights_sha256": "",
        "preprocessing": "central 28 x 28 of each channel, classified",
    }
    modes = Record(
        name="num_modes",
        value=found.num_hit,
        lower_is_better=False,
        floor=found.num_modes,
        **shared,
    )
    divergence = Record(
        name="mode_kl", value=found.mode_kl, lower_is_better=True, floor=found.floor, **shared
    )
    return [modes, divergence]


def _toy_records(points: Tensor, data: Toy, split: str) -> list[Record]:
    """Share of high-quality samples and modes covered, points in the units of the mixture."""
    found = grid_modes(data.to_data_units(points), data.modes, data.std)
    shared: dict[str, Any] = {
        "num_fake": found.num_samples,
        "num_real": 0,
        "split": split,
        "extractor": "identity",
        "weights_sha256": "",
        "preprocessing": "within 3 standard deviations of the nearest mode",
        "lower_is_better": False,
    }
    return [
        Record(
            name="high_quality", value=found.high_quality, floor=found.expected_quality, **shared
        ),
        Record(name="num_modes", value=found.num_hit, floor=found.num_modes, **shared),
    ]
