"""Measure one cell: draw, judge, and look for copies; or time it, alone on the machine.

Drawing goes by shards that are kept on disk, so that a killed report continues where it was: sample
i depends on the seed and i alone. Figures of time and memory are taken by a function of their own,
because other work on the machine would spoil them.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trilemma.checkpoints.store import write_bytes
from trilemma.data import Data, StackedDigits, Toy
from trilemma.data.sources import read_arrays
from trilemma.errors import ConfigError, DataError
from trilemma.evaluation import class_counts, evaluate_samples, likelihood, reference_data
from trilemma.images import to_uint8
from trilemma.metrics import (
    DigitFeatures,
    FeatureExtractor,
    Nearness,
    extractor_for,
    extractor_named,
    memorisation,
    nearness,
)
from trilemma.metrics.digits import LEAST_CERTAINTY, certainty
from trilemma.pipeline import Pipeline
from trilemma.report.ladder import Rung
from trilemma.report.record import Cell, Speed

__all__ = [
    "Protocol",
    "draw",
    "forget",
    "judge",
    "measure_likelihood",
    "speed_of",
    "time_sampling",
    "unlike_digits",
]

SHARD = 500
MOST_CLASSES = 64
SHOWN_NEIGHBOURS = 16
MOST_CHECKED, MOST_SEARCHED = 2000, 100_000
MOST_LOOKED_AT = 1000
MOST_REPEATS = 5
MOST_WAITS = 6


@dataclass(frozen=True)
class Protocol:
    """What all cells of a report share.

    Args:
        data: path, Hub name or toy, as for ``trilemma evaluate``.
        split: of the real data.
        num: samples per cell.
        seed: of the samples and of random subsets.
        extractor: name or path of the features; None for what suits the images.
        batch_size: samples per network call.
        device: where the networks run.
    """

    data: str
    split: str
    num: int
    seed: int = 0
    extractor: str | None = None
    batch_size: int = 64
    device: str = "cpu"

    def features(self, images: Tensor) -> FeatureExtractor:
        """The extractor that was asked for, or the one that suits the images."""
        return extractor_named(self.extractor) if self.extractor else extractor_for(images)

    def real(self, event_shape: tuple[int, ...], card: Any = None, split: str = "") -> Data:
        """Open the real data in the form of a model's."""
        return reference_data(self.data, split or self.split, event_shape, card=card)


def draw(
    pipeline: Pipeline,
    rung: Rung,
    protocol: Protocol,
    folder: Path,
    progress: Callable[[int], None] | None = None,
) -> tuple[Tensor, int]:
    """Draw the samples of a cell, taking up what an interrupted report has drawn already.

    Args:
        pipeline: the model.
        rung: how to draw.
        protocol: how many.
        folder: for shards; it may be removed when the cell is whole.
        progress: called with the number of samples after each batch.

    Returns:
        Images uint8 (n, c, h, w) or points float32 (n, d), and network calls per sample.
    """
    walk, parts, calls = rung.walk(), [], []
    size = max(1, SHARD // protocol.batch_size) * protocol.batch_size
    for first in range(0, protocol.num, size):
        path, number = folder / f"{first:08d}.npz", min(size, protocol.num - first)
        kept = _read_shard(path)
        if kept is None:
            drawn = pipeline.sample(
                number,
                sampler=walk.sampler,
                num_steps=walk.num_steps,
                seed=protocol.seed,
                first=first,
                batch_size=protocol.batch_size,
                progress=progress,
            )
            kept = (to_uint8(drawn) if drawn.dim() == 4 else drawn), pipeline.last_nfe
            write_arrays(path, samples=kept[0].numpy(), nfe=np.array(kept[1]))
        elif progress is not None:
            progress(number)
        parts.append(kept[0])
        calls.append(kept[1])
    return torch.cat(parts), round(statistics.fmean(calls))


def judge(samples: Tensor, protocol: Protocol, cell: Cell, card: Any, folder: Path) -> Cell:
    """Compare samples with real data, and write the pictures of the cell.

    Args:
        samples: images uint8 (n, c, h, w), or points (n, d).
        protocol: data and features.
        cell: what is known already.
        card: of the model; holds the scale of a toy.
        folder: of the report.

    Returns:
        The cell with records, classes and neighbours.
    """
    data = protocol.real(tuple(samples.shape[1:]), card)
    shared: dict[str, Any] = {"split": protocol.split, "seed": protocol.seed}
    records = evaluate_samples(samples, data, len(samples), extractor=protocol.extractor, **shared)
    if isinstance(data, Toy):
        write_arrays(folder / cell.pictures, samples=samples.float().numpy())
        return replace(cell, records=tuple(records))
    pictures = {"samples": _as_pictures(samples)}
    if not isinstance(data, StackedDigits):
        cell = _with_classes(cell, samples, data, protocol)
        found, closest = _copies(samples, protocol, card)
        cell = replace(cell, memorisation=found)
        pictures |= {name: _as_pictures(images) for name, images in closest.items()}
    write_arrays(folder / cell.pictures, **pictures)
    return replace(cell, records=tuple(records))


def time_sampling(
    pipeline: Pipeline, rung: Rung, patience: float, largest: int = 64
) -> dict[str, Any]:
    """Measure time and memory of sampling; nothing else should run meanwhile.

    The first drawing only warms up, unless it alone took several times the patience: then it is
    the figure, and the number of repeats, 1, says so.

    Args:
        pipeline: the model, loaded.
        rung: how to draw.
        patience: seconds for the repeats of each batch size, > 0.
        largest: batch of the second figure; the first is of batch 1.

    Returns:
        ``speed``, ``peak_memory`` and ``memory_batch`` of a cell.
    """
    walk, speeds = rung.walk(), []
    memory: int | None = None

    def run(batch: int) -> float:
        started = time.perf_counter()
        pipeline.sample(batch, sampler=walk.sampler, num_steps=walk.num_steps, batch_size=batch)
        return time.perf_counter() - started

    for batch in (1, largest):
        with _memory(pipeline) as peak:
            times = [run(batch)]
        memory = peak[0] if peak else None
        if times[0] <= MOST_WAITS * patience:
            times = [run(batch)]
            while len(times) < MOST_REPEATS and math.fsum(times) < patience:
                times.append(run(batch))
        speeds.append(speed_of(times, batch))
    return {"speed": tuple(speeds), "peak_memory": memory, "memory_batch": largest}


def speed_of(times: Sequence[float], batch_size: int) -> Speed:
    """Sum up how long repeated drawings of one batch took.

    Args:
        times: of each drawing, seconds, at least one.
        batch_size: samples per drawing, >= 1.

    Returns:
        Milliseconds per sample: the median, which one slow drawing does not move, and the extremes.
    """
    each = [1000 * seconds / batch_size for seconds in times]
    return Speed(
        batch_size=batch_size,
        ms_per_image=statistics.median(each),
        fastest=min(each),
        slowest=max(each),
        repeats=len(each),
    )


def measure_likelihood(pipeline: Pipeline, protocol: Protocol, num: int) -> dict[str, Any]:
    """Log-likelihood of held-out data, or why there is none.

    Args:
        pipeline: the model.
        protocol: data, seed, batch size.
        num: data to use; 0 for none.

    Returns:
        ``LikelihoodResult.as_dict`` with the split, or a note.
    """
    if num == 0:
        return {"note": "not measured"}
    try:
        data = protocol.real(pipeline.event_shape, pipeline.card, "test")
        found = likelihood(pipeline, data, num, seed=protocol.seed, batch_size=protocol.batch_size)
    except ConfigError as error:
        return {"note": str(error)}
    return {"split": "test", **found.as_dict()}


def write_arrays(path: Path, **arrays: Any) -> None:
    """Write a compressed npz, whole or not at all."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_bytes(path, buffer.getvalue())


def _read_shard(path: Path) -> tuple[Tensor, int] | None:
    """Samples and calls of a shard, None if it has to be drawn (again)."""
    try:
        found = read_arrays(path, ["samples"], ["nfe"])
        return torch.from_numpy(found["samples"]), int(found["nfe"])
    except (DataError, KeyError, TypeError, ValueError):
        return None


def _as_pictures(images: Tensor) -> np.ndarray:
    return images.permute(0, 2, 3, 1).contiguous().numpy()


def unlike_digits(data: Data, protocol: Protocol) -> float | None:
    """Tell whether digits' features were chosen for the size of real images that show no digits.

    Args:
        data: real images, in the form of the models.
        protocol: names the features, or leaves the choice to the size.

    Returns:
        How sure the classifier of digits is of them (``metrics.digits.certainty``), if that is
        less than it is of digits; None if they look like digits, or other features are in use, or
        these were asked for.
    """
    if protocol.extractor or len(data.event_shape) != 3 or isinstance(data, StackedDigits):
        return None
    if not isinstance(protocol.features(data.images_uint8([0])), DigitFeatures):
        return None
    found = certainty(data.images_uint8(_some(len(data), MOST_LOOKED_AT, protocol.seed)))
    return found if found < LEAST_CERTAINTY else None


def _with_classes(cell: Cell, samples: Tensor, data: Data, protocol: Protocol) -> Cell:
    """Samples and real data per class, where the features come from a classifier of such data."""
    network = protocol.features(samples)
    if not 1 < len(network.class_names) <= MOST_CLASSES:
        return cell
    if unlike_digits(data, protocol) is not None:
        return cell
    counts = class_counts(samples, network)
    assert counts is not None
    some = _some(len(data), len(samples), protocol.seed)
    real = class_counts(data.images_uint8(some), network)
    assert real is not None
    return replace(
        cell, class_counts=tuple(counts.tolist()), real_class_counts=tuple(real.tolist())
    )


def _copies(
    samples: Tensor, protocol: Protocol, card: Any
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Check for copies of training data; also what is most like them, of samples and real data."""
    shape = tuple(samples.shape[1:])
    key = protocol, shape, (card or {}).get("pad", 0)
    try:
        if key not in _REAL:
            forget()
            train, held_out = (protocol.real(shape, card, name) for name in ("train", "test"))
            images = train.images_uint8(_some(len(train), MOST_SEARCHED, protocol.seed))
            checked = held_out.images_uint8(_some(len(held_out), MOST_CHECKED, protocol.seed))
            _REAL[key] = images, checked, nearness(checked, images)
        images, checked, known = _REAL[key]
        found = memorisation(samples[:MOST_CHECKED], images, known)
    except ConfigError:
        return {"note": f"needs training and test data; {protocol.data} lacks one"}, {}
    except DataError as error:
        return {"note": str(error)}, {}
    first, real = (one.ratios.argsort(stable=True)[:SHOWN_NEIGHBOURS] for one in (found, known))
    pairs = {
        "closest": samples[first],
        "neighbours": images[found.indices[first]],
        "real_closest": checked[real],
        "real_neighbours": images[known.indices[real]],
    }
    return found.as_dict(), pairs


def forget() -> None:
    """Let go of training images that were kept for the next cell."""
    _REAL.clear()


_REAL: dict[tuple[Protocol, tuple[int, ...], int], tuple[Tensor, Tensor, Nearness]] = {}
"""Training images, held-out ones and their nearness, kept by a process for its next cells."""


def _some(length: int, most: int, seed: int) -> Tensor:
    """Numbers of at most so many data, drawn at random."""
    return torch.randperm(length, generator=torch.Generator().manual_seed(seed))[:most]


@contextlib.contextmanager
def _memory(pipeline: Pipeline) -> Iterator[list[int]]:
    """Collect the bytes by which memory grows at most; nothing where this cannot be asked."""
    found: list[int] = []
    device = next(pipeline.method.parameters()).device
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        yield found
        found.append(torch.cuda.max_memory_allocated(device) - before)
        return
    reset, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")  # Linux
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what earlier work has freed does not count
        reset.write_text("5")  # the peak becomes what is used now
        before = _resident(status, "VmRSS")
    except (OSError, AttributeError, StopIteration):
        yield found
        return
    yield found
    found.append(max(0, _resident(status, "VmHWM") - before))


def _resident(status: Path, name: str) -> int:
    """Bytes of a line of Linux's account of a process."""
    line = next(line for line in status.read_text().splitlines() if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])
