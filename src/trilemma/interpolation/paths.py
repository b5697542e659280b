r"""Paths through noise: between samples, and around a sample.

For independent draws eps_j,

.. math:: \sum_j w_j\,\epsilon_j \quad\text{with}\quad \sum_j w_j^2 = 1

is standard normal again, so along a path of such weights every frame is an ordinary sample of the
model, under any sampler. Here *all* draws of a frame are combined, and its ends are exact:

- between two samples, s from 0 to 1: w = (cos pi s / 2, sin pi s / 2);
- around a sample, on a circle of the angle a: w = (cos a, sin a cos phi, sin a sin phi).

The noises of two data (``inversion``) need not be independent: with the angle Omega between them

.. math:: w = \frac{(\sin (1 - s)\Omega,\; \sin s\Omega)}{\sin\Omega},

which is the formula above at a right angle (slerp; Shoemake, 1985).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from trilemma.errors import ConfigError
from trilemma.interpolation.noise import MixedRng, Noise, Source, noise_source, sample_source
from trilemma.methods.base import Method, prior_sample
from trilemma.rng import Rng, mix_seed
from trilemma.sampling import Drawn, Walk
from trilemma.typing import Labels, State

__all__ = [
    "Arc",
    "Path",
    "around",
    "between_noises",
    "between_samples",
    "draw_path",
    "even_shares",
    "from_noise",
    "loop_weights",
    "slerp_weights",
    "walk_path",
]


@dataclass(frozen=True)
class Path:
    """Frames whose noise is combined from that of a few sources.

    Args:
        sources: where the draws come from (m).
        weights: (n, m), of each frame.
        indices: sample whose class label a frame shows (n).
    """

    sources: tuple[Source, ...]
    weights: Tensor
    indices: tuple[int, ...]


@dataclass(frozen=True)
class Arc:
    """The shortest arc between the noises of two ends.

    Args:
        sources: where the draws of the two ends come from.
        indices: samples whose class labels the two halves show.
        angle: between the two noises, radians in [0, pi).
    """

    sources: tuple[Source, Source]
    indices: tuple[int, int] = (0, 0)
    angle: float = math.pi / 2

    def path(self, frames: int | Tensor) -> Path:
        """Frames at equal angles, or at shares of the angle.

        Args:
            frames: how many, >= 2, or shares (n) in [0, 1], float64.

        Raises:
            ConfigError: as for ``slerp_weights``.
        """
        share = even_shares(frames) if isinstance(frames, int) else frames
        indices = tuple(self.indices[int(s > 0.5)] for s in share.tolist())
        return Path(self.sources, _arc_weights(share, self.angle), indices)


def slerp_weights(num: int, angle: float = math.pi / 2) -> Tensor:
    """Weights (num, 2) of the ends along an arc, float64; (1, 0) first and (0, 1) last, exactly.

    Args:
        num: frames, >= 2.
        angle: between the two ends, radians in [0, pi).

    Raises:
        ConfigError: for less than two frames, or opposite ends, which no shortest arc joins.
    """
    return _arc_weights(even_shares(num), angle)


def even_shares(num: int) -> Tensor:
    """Equal shares (num) from 0 to 1, the same from either end."""
    if num < 2:
        raise ConfigError(f"a path of {num} frames: at least 2 are needed")
    share = torch.linspace(0, 1, num, dtype=torch.float64)
    return (share + (1 - share.flip(0))) / 2


def _arc_weights(share: Tensor, angle: float) -> Tensor:
    """Weights (n, 2) of the ends at shares (n) of the angle between them."""
    if math.pi - angle < 1e-3:
        raise ConfigError("the noises of the two ends are opposite: no shortest path joins them")
    pair = torch.stack([1 - share, share], dim=1)
    unit = angle / math.pi
    return pair * torch.sinc(pair * unit) / torch.sinc(torch.tensor(unit, dtype=torch.float64))


def loop_weights(num: int, radius: float) -> Tensor:
    """Weights (num, 3) of a centre and two directions along a closed circle, float64.

    Args:
        num: frames, >= 2; the one after the last would be the first.
        radius: angle between the centre and every frame, radians in (0, pi / 2].

    Raises:
        ConfigError: for values outside their range.
    """
    if num < 2:
        raise ConfigError(f"a walk of {num} frames: at least 2 are needed")
    if not 0 < radius <= math.pi / 2 + 1e-9:
        raise ConfigError(f"radius={radius} must lie in (0, pi/2]: the angle of the circle")
    phi = torch.arange(num, dtype=torch.float64) * (2 * math.pi / num)
    centre = torch.full_like(phi, math.cos(radius))
    return torch.stack([centre, math.sin(radius) * phi.cos(), math.sin(radius) * phi.sin()], dim=1)


def between_samples(first: int, second: int, seed: int) -> Arc:
    """Arc from one sample to another; frames show the class of the nearer end.

    Raises:
        ConfigError: for an arc from a sample to itself.
    """
    if first == second:
        raise ConfigError(f"the path from sample {first} to itself does not move: give two samples")
    return Arc((sample_source(seed, first), sample_source(seed, second)), (first, second))


def between_noises(ends: Noise) -> Arc:
    """Arc between the noises of two data, which are the two rows."""
    flat = torch.cat([part.flatten(1) for part in (ends.state, *ends.others)], 1).double()
    first, second = torch.nn.functional.normalize(flat)
    angle = 2 * math.atan2(float((first - second).norm()), float((first + second).norm()))
    return Arc((noise_source(ends.row(0)), noise_source(ends.row(1))), angle=angle)


def around(centre: int | Noise, num: int, radius: float, seed: int) -> Path:
    """Closed path around a sample, or around the noise of one datum."""
    index, source = 0, None
    if isinstance(centre, Noise):
        source = noise_source(centre)
    else:
        index, source = centre, sample_source(seed, centre)
    directions = [sample_source(mix_seed(seed, "direction", i), index) for i in range(2)]
    return Path((source, *directions), loop_weights(num, radius), (index,) * num)


def from_noise(noise: Noise) -> Path:
    """The noises of data as the frames of a path."""
    num = len(noise.state)
    return Path((noise_source(noise),), torch.ones(num, 1), tuple(range(num)))


def draw_path(
    method: Method,
    path: Path,
    walk: Walk,
    label: Labels | None = None,
    *,
    batch_size: int = 64,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Drawn]:
    """Yield batches of the frames of a path.

    Args:
        method: trained method, in eval mode, on the device to sample on.
        path: the frames.
        walk: sampler, grid and guidance.
        label: class labels (n) of the frames, or None.
        batch_size: frames per network call.
        progress: called with the number of frames after each batch.
    """
    for u, rng, chosen, nfe in walk_path(method, path, walk, label, batch_size):
        data = method.decode(u[:, 0], rng)
        if progress is not None:
            progress(len(data))
        yield Drawn(data, chosen, nfe)


def walk_path(
    method: Method, path: Path, walk: Walk, label: Labels | None, batch_size: int
) -> Iterator[tuple[State, Rng, Labels | None, int]]:
    """Yield the last states of the frames, batch by batch, with what is left to draw from."""
    grid, sampler = walk.grid_for(method), walk.sampler_for(method)
    device = next(method.parameters()).device
    table = method.denoiser(None)  # coefficients of the grid, shared by all batches
    for first in range(0, len(path.weights), batch_size):
        frames = slice(first, first + batch_size)
        rng = MixedRng([source(frames, device) for source in path.sources], path.weights[frames])
        chosen = None if label is None else label[frames]
        on_device = None if chosen is None else chosen.to(device)
        denoiser = method.denoiser(on_device, guidance=walk.guidance)
        denoiser.adopt(table)
        u = walk.temperature * prior_sample(method.process, method.state_shape, rng)
        if len(grid) > 1:
            u = sampler.run(denoiser, u, grid, rng, final=walk.final_for(method))
        yield u, rng, chosen, denoiser.nfe
