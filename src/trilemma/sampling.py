"""Draw samples from a method: prior, grid, sampler, in batches.

What sample i looks like depends on the seed and on i alone. Labels are part of that: unless one is
asked for, a conditional model draws class i mod num_classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from trilemma.errors import ConfigError
from trilemma.methods.base import Method, prior_sample
from trilemma.rng import SampleRng
from trilemma.samplers import Ancestral

__all__ = ["labels_for", "sample_indices"]


def sample_indices(
    method: Method,
    event: Sequence[int],
    indices: Sequence[int],
    *,
    seed: int = 0,
    num_steps: int | None = None,
    class_label: int | None = None,
    batch_size: int = 64,
    progress: Callable[[int], None] | None = None,
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield batches (data (b, *event), labels (b) or None) for the given sample indices.

    Args:
        method: trained method, in eval mode, on the device to sample on.
        event: shape of one datum.
        indices: which samples to draw.
        seed: seed shared by all samples.
        num_steps: steps of the grid; the method's default where None.
        class_label: one class for all samples of a conditional method.
        batch_size: samples per network call.
        progress: called with the number of samples after each batch.

    Raises:
        ConfigError: for a class label that the method does not know.
    """
    grid = method.grid(num_steps)
    sampler = Ancestral(float(grid[-1]))
    device = next(method.parameters()).device
    for start in range(0, len(indices), batch_size):
        chunk = indices[start : start + batch_size]
        rng = SampleRng(seed, chunk, device)
        label = labels_for(method.num_classes, chunk, class_label)
        denoiser = method.denoiser(None if label is None else label.to(device))
        u = prior_sample(method.process, tuple(event), rng)
        data = sampler.run(denoiser, u, grid, rng)[:, 0]
        if progress is not None:
            progress(len(chunk))
        yield data, label


def labels_for(num_classes: int, indices: Sequence[int], class_label: int | None) -> Tensor | None:
    """Class labels (b) of samples: the given one, or index mod num_classes; None if there are none.

    Raises:
        ConfigError: if a label is given to an unconditional model or lies outside its classes.
    """
    if num_classes == 0:
        if class_label is not None:
            raise ConfigError(f"class_label={class_label}: this model was trained without labels")
        return None
    if class_label is None:
        return torch.tensor([i % num_classes for i in indices])
    if not 0 <= class_label < num_classes:
        raise ConfigError(f"class_label={class_label} is not in 0..{num_classes - 1}")
    return torch.full((len(indices),), class_label)
